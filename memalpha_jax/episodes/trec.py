"""TREC question classification: fact questions with a coarse label (6) and a fine one (50).

Official files: cogcomp.seas.upenn.edu/Data/QA/QC (no licence stated), `train_5500.label` (5,452 lines) and
`TREC_10.label` (500), latin-1, a line each: `COARSE:fine question`. The training lines are dealt to the roles by
halves. trec_coarse in training: 112 episodes of 10 chunks that show one half, with questions from the same half.
trec_coarse and trec_fine in evaluation: one episode each that shows the other half, with questions from `TREC_10.label`
(published: 6,600 and 6,400 shots, more than the file has lines). Training reads `TREC_10.label` only to leave out what
occurs there too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from memalpha_jax.episodes.episode import Episode
from memalpha_jax.episodes.labelled import Sample, halves, sample, several_labels
from memalpha_jax.episodes.labelled_episodes import Stream, evaluation_episodes, training_episodes
from memalpha_jax.episodes.official import read_text
from memalpha_jax.episodes.source import EVALUATION, TRAINING, BuildOptions, Paths, Published, Source
from memalpha_jax.errors import UserError

_FINE_OF = {
    "ABBR": "abb exp",
    "DESC": "def desc manner reason",
    "ENTY": "animal body color cremat currency dismed event food instru lang letter other plant product religion sport "
    "substance symbol techmeth termeq veh word",
    "HUM": "desc gr ind title",
    "LOC": "city country mount other state",
    "NUM": "code count date dist money ord other perc period speed temp volsize weight",
}
LABELS = frozenset(f"{coarse}:{fine}" for coarse, names in _FINE_OF.items() for fine in names.split())
FIELDS = ("question", "label")
SHOWN_IN_TRAINING = Stream(max_tokens=620, min_tokens=620, chunks=10)
SHOWN_IN_EVALUATION = Stream(max_tokens=1024, min_tokens=1024)


def load_training(paths: Paths, options: BuildOptions) -> Iterator[Episode]:
    """Training episodes with coarse labels; questions never come from the official test split."""
    shown, _ = _read(paths, TRAINING)
    return training_episodes("trec_coarse", _coarse(shown), SHOWN_IN_TRAINING, options)


def load_coarse(paths: Paths, options: BuildOptions) -> Iterator[Episode]:
    """The evaluation episode with coarse labels."""
    shown, asked = _read(paths, EVALUATION)
    return evaluation_episodes("trec_coarse", _coarse(shown), SHOWN_IN_EVALUATION, options, _coarse(asked))


def load_fine(paths: Paths, options: BuildOptions) -> Iterator[Episode]:
    """The evaluation episode with fine labels."""
    shown, asked = _read(paths, EVALUATION)
    return evaluation_episodes("trec_fine", shown, SHOWN_IN_EVALUATION, options, asked)


def _read(paths: Paths, role: str) -> tuple[list[Sample], list[Sample]]:
    return halves(_lines(paths["train"]), _lines(paths["test"]), role)


def _lines(path: str | os.PathLike[str]) -> list[Sample]:
    samples = []
    for number, line in enumerate(read_text(path, "latin-1").split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        label, _, question = line.strip().partition(" ")
        if ":" not in label:
            raise UserError(f"{where}, field 'label' is {label!r:.80}, expected COARSE:fine before the first space")
        samples.append(sample(question, label, where, FIELDS, LABELS))
    return several_labels(samples, f"{path}", FIELDS[1])


def _coarse(samples: list[Sample]) -> list[Sample]:
    return [Sample(one.text, one.label.partition(":")[0]) for one in samples]


_FILES = {"train": ("train_5500.label",), "test": ("TREC_10.label",)}
_WHERE = "https://cogcomp.seas.upenn.edu/Data/QA/QC"
_LICENCE = "none stated"
SOURCES = (
    Source(
        "trec_coarse",
        TRAINING,
        "test-time learning",
        _FILES,
        where=_WHERE,
        licence=_LICENCE,
        load=load_training,
        published=Published(chunks=10, questions=100),
    ),
    Source(
        "trec_coarse",
        EVALUATION,
        "test-time learning",
        _FILES,
        where=_WHERE,
        licence=_LICENCE,
        load=load_coarse,
        published=Published(episodes=1, questions=100),
    ),
    Source(
        "trec_fine",
        EVALUATION,
        "test-time learning",
        _FILES,
        where=_WHERE,
        licence=_LICENCE,
        load=load_fine,
        published=Published(episodes=1, questions=100),
    ),
)
