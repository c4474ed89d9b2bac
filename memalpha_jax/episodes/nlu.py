"""NLU, the intents of HWU64: what people say to a home assistant, labelled with one of 64 intents.

Official files: github.com/xliuhw/NLU-Evaluation-Data (CC BY 4.0), here one fold as CSV with the columns `text` and
`label` (others may follow), `train.csv` (9,960 rows) and `test.csv` (1,076). The rows of `train.csv` are dealt to the
roles by halves. Training: 112 episodes of 10 chunks that show one half, with questions from the same half. Evaluation:
one episode that shows the other half (published: 8,296 shots, the training stream among them), with questions from
`test.csv`. Training reads `test.csv` only to leave out what occurs there too.
"""

from __future__ import annotations

from collections.abc import Iterator

from memalpha_jax.episodes.episode import Episode
from memalpha_jax.episodes.labelled import Sample, halves, label_names, read_labelled_csv
from memalpha_jax.episodes.labelled_episodes import Stream, evaluation_episodes, training_episodes
from memalpha_jax.episodes.source import EVALUATION, TRAINING, BuildOptions, Paths, Published, Source

FIELDS = ("text", "label")
SHOWN_IN_TRAINING = Stream(max_tokens=624, min_tokens=624, chunks=10)
SHOWN_IN_EVALUATION = Stream(max_tokens=1024, min_tokens=1024, samples=8296)


def load_training(paths: Paths, options: BuildOptions) -> Iterator[Episode]:
    """Training episodes; questions never come from the official test split."""
    shown, _ = _read(paths, TRAINING)
    return training_episodes("nlu", shown, SHOWN_IN_TRAINING, options)


def load_evaluation(paths: Paths, options: BuildOptions) -> Iterator[Episode]:
    """The evaluation episode."""
    shown, asked = _read(paths, EVALUATION)
    return evaluation_episodes("nlu", shown, SHOWN_IN_EVALUATION, options, asked)


def _read(paths: Paths, role: str) -> tuple[list[Sample], list[Sample]]:
    train = read_labelled_csv(paths["train"], FIELDS)
    test = read_labelled_csv(paths["test"], FIELDS, label_names(train))
    return halves(train, test, role)


_FILES = {"train": ("train.csv",), "test": ("test.csv",)}
_WHERE = "https://github.com/xliuhw/NLU-Evaluation-Data"
_LICENCE = "CC BY 4.0"
SOURCES = (
    Source(
        "nlu",
        TRAINING,
        "test-time learning",
        _FILES,
        where=_WHERE,
        licence=_LICENCE,
        load=load_training,
        published=Published(chunks=10, chunk_tokens=610, questions=100),
    ),
    Source(
        "nlu",
        EVALUATION,
        "test-time learning",
        _FILES,
        where=_WHERE,
        licence=_LICENCE,
        load=load_evaluation,
        published=Published(episodes=1, questions=100),
    ),
)
