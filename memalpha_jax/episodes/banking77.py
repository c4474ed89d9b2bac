"""BANKING77: what customers ask their bank, labelled with one of 77 intents; evaluation only.

Official files: github.com/PolyAI-LDN/task-specific-datasets, folder `banking_data` (CC BY 4.0): `train.csv` (10,003
rows) and `test.csv` (3,080) with the columns `text` and `category`, and `categories.json`, the list of the 77 names.
One episode shows at most 5,900 rows of `train.csv`, the published number; its questions come from `test.csv`.
"""

from __future__ import annotations

from collections.abc import Iterator

from memalpha_jax.episodes.episode import Episode
from memalpha_jax.episodes.labelled import distinct, label_names, read_labelled_csv
from memalpha_jax.episodes.labelled_episodes import Stream, evaluation_episodes
from memalpha_jax.episodes.official import read_json, typed
from memalpha_jax.episodes.source import EVALUATION, BuildOptions, Paths, Published, Source

FIELDS = ("text", "category")
SHOWN = Stream(max_tokens=1024, min_tokens=1024, samples=5900)


def load(paths: Paths, options: BuildOptions) -> Iterator[Episode]:
    """The evaluation episode. Without `categories.json` the labels of `train.csv` are the known ones."""
    names: list[str] = []
    if "categories" in paths:
        path = paths["categories"]
        names = [typed(name, str, f"{path}, [{i}]") for i, name in enumerate(typed(read_json(path), list, f"{path}"))]
    train = read_labelled_csv(paths["train"], FIELDS, names)
    test = read_labelled_csv(paths["test"], FIELDS, names or label_names(train))
    return evaluation_episodes("banking77", distinct(train, without=test), SHOWN, options, distinct(test))


SOURCES = (
    Source(
        "banking77",
        EVALUATION,
        "test-time learning",
        {"train": ("train.csv",), "test": ("test.csv",), "categories": ("categories.json",)},
        where="https://github.com/PolyAI-LDN/task-specific-datasets (banking_data)",
        licence="CC BY 4.0",
        load=load,
        published=Published(episodes=1, questions=100),
        optional=frozenset({"categories"}),
    ),
)
