"""CLINC150 (the published systems write clinic150): requests to an assistant in 150 intents; evaluation only.

Official file: github.com/clinc/oos-eval, `data/data_full.json` (CC BY 3.0): an object of splits `train` (15,000), `val`
and `test` (4,500), each a list of `[text, intent]`, and out-of-scope splits `oos_*`, which have no intent and are not
used. One episode shows at most 7,050 samples of `train`, the published number; its questions come from `test`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from memalpha_jax.episodes.episode import Episode
from memalpha_jax.episodes.labelled import Sample, distinct, label_names, sample, several_labels
from memalpha_jax.episodes.labelled_episodes import Stream, evaluation_episodes
from memalpha_jax.episodes.official import field, read_json, typed
from memalpha_jax.episodes.source import EVALUATION, BuildOptions, Paths, Published, Source
from memalpha_jax.errors import UserError

FIELDS = ("[0] (text)", "[1] (intent)")
SHOWN = Stream(max_tokens=1024, min_tokens=1024, samples=7050)


def load(paths: Paths, options: BuildOptions) -> Iterator[Episode]:
    """The evaluation episode."""
    path = f"{paths['data']}"
    splits = read_json(path)
    train = several_labels(_split(splits, "train", path), f"{path}, train", FIELDS[1])
    test = _split(splits, "test", path, label_names(train))
    return evaluation_episodes("clinic150", distinct(train, without=test), SHOWN, options, distinct(test))


def _split(splits: Any, name: str, path: str, labels: Collection[str] = ()) -> list[Sample]:
    return [_sample(row, f"{path}, {name}[{i}]", labels) for i, row in enumerate(field(splits, name, list, path))]


def _sample(row: Any, where: str, labels: Collection[str]) -> Sample:
    if len(typed(row, list, where)) != 2:
        raise UserError(f"{where} has {len(row)} entries, expected [text, intent]; is this the official layout?")
    text, label = (typed(value, str, f"{where}, field {name!r}") for value, name in zip(row, FIELDS, strict=True))
    return sample(text, label, where, FIELDS, labels)


SOURCES = (
    Source(
        "clinic150",
        EVALUATION,
        "test-time learning",
        {"data": ("data_full.json",)},
        where="https://github.com/clinc/oos-eval (data/data_full.json)",
        licence="CC BY 3.0",
        load=load,
        published=Published(episodes=1, questions=100),
    ),
)
