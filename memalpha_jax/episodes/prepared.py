"""Prepared episodes: the records of a built folder, and reading them back in any order.

A folder that `python -m memalpha_jax.prepare` built is a TFDS data set in array_record files with a `manifest.json`.
It is read without TensorFlow.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from memalpha_jax.episodes.episode import Episode, episode_from_json, episode_to_json
from memalpha_jax.episodes.official import read_json, typed
from memalpha_jax.errors import UserError

TRAIN, EVAL, TEST = SPLITS = ("train", "eval", "test")
"""To learn from; kept back of the training sources; the evaluation sources. Splits without episodes are left out."""
MANIFEST = "manifest.json"
VERSION = "1.0.0"
FIELD = "episode"


def features() -> tfds.features.FeaturesDict:
    """One field, the episode as JSON text.

    The fields of an example are a protobuf map, whose order in the file differs from process to process: with more
    than one of them the same episodes would not give the same bytes. Nor can TFDS read nested lists without TensorFlow.
    """
    doc = (
        "JSON object: instance_id, data_source, chunks, questions, metadata, and chunk_tokens, the tokens of each chunk"
    )
    return tfds.features.FeaturesDict({FIELD: tfds.features.Text(doc=doc)})


def to_record(episode: Episode, chunk_tokens: Sequence[int]) -> str:
    """The text that is stored of an episode, one line; `chunk_tokens`: tokens of each chunk."""
    return json.dumps({**episode_to_json(episode), "chunk_tokens": list(chunk_tokens)})


class PreparedEpisodes(Sequence[Episode]):
    """The episodes of one split, read from the files when asked for; may be pickled, for worker processes."""

    def __init__(self, folder: Path, split: str):
        self.folder, self.split = folder, split
        with _reading(folder), _quiet():
            self._records = tfds.builder_from_directory(folder).as_data_source(split)

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Episode: ...
    @overload
    def __getitem__(self, index: slice) -> list[Episode]: ...
    def __getitem__(self, index: int | slice) -> Episode | list[Episode]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return episode_from_json(self._record(index), f"{self.folder}, split {self.split}, episode {index}")

    def chunk_tokens(self, index: int) -> np.ndarray:
        """int32 tokens of each chunk of episode `index`, shape [chunks], of the tokenizer that the manifest names."""
        return np.asarray(self._record(index)["chunk_tokens"], np.int32)

    def text(self, index: int) -> str:
        """The stored JSON text of episode `index`."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"episode {index} of {len(self)}")
        with _reading(self.folder):
            return self._records[index % len(self)][FIELD].decode()

    def _record(self, index: int) -> dict[str, Any]:
        text = self.text(index)
        with _reading(self.folder):
            return json.loads(text)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # TFDS tells of every folder that it opens. Not around reads: these are made in several threads at once.
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[None]:
    try:
        yield
    # The readers raise the system's errors, their own and those of damaged protos, few with a common base.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"the prepared episodes in {folder} cannot be read ({reason}); build them again") from error


def load_prepared(folder: str | os.PathLike[str], split: str) -> PreparedEpisodes:
    """The episodes of split "train", "eval" or "test" of a folder built by `python -m memalpha_jax.prepare`.

    Raises:
      UserError: no such folder, not a built one, no such split in it (the message lists those there are), or
        damaged files.
    """
    folder = Path(folder)
    splits = splits_of(read_manifest(folder))
    if split not in splits:
        raise UserError(f"{folder} has no episodes of split {split!r}; it has {', '.join(splits) or 'none'}")
    return PreparedEpisodes(folder, split)


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What the folder was built from and what is in it; UserError where it is no built folder."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise UserError(
            f"{folder} holds no prepared episodes (there is no {MANIFEST}); build them by "
            "python -m memalpha_jax.prepare"
        )
    manifest = typed(read_json(path), dict, str(path))
    splits_of(manifest, str(path))
    return manifest


def splits_of(manifest: Mapping[str, Any], where: str = MANIFEST) -> dict[str, int]:
    """Episodes by split, of the splits that are there."""
    counts = typed(manifest.get("episodes"), dict, f"{where}, field 'episodes'")
    return {split: counts[split] for split in SPLITS if counts.get(split)}
