"""What a data source is: where its files come from, and the function that turns them into episodes."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from memalpha_jax.episodes.chunkers import CountTokens
from memalpha_jax.episodes.episode import Episode
from memalpha_jax.episodes.keywords import extract_keywords

TRAINING, EVALUATION = "training", "evaluation"
COMPETENCES = ("accurate retrieval", "test-time learning", "long-range understanding", "conflict resolution")

KeywordExtractor = Callable[[str, str, int], Sequence[str]]


@dataclasses.dataclass(frozen=True)
class BuildOptions:
    """How episodes are made from official files.

    Attributes:
      count_tokens: of the tokenizer whose tokens the limits are in.
      seed: of every random choice; with the files it determines the episodes.
      chunk_tokens: longest chunk; 0 takes the source's published limit.
      chunks: chunks per episode, where a source cuts its stream freely; 0 takes the published number.
      extract_keywords: the gold of a summary, (summary, text, limit) -> at most `limit` keywords of it.
      stream_tokens: length of the stream, where a source has any length (ruler_*); 0 takes the published one.
    """

    count_tokens: CountTokens
    seed: int = 42
    chunk_tokens: int = 0
    chunks: int = 0
    stream_tokens: int = 0
    extract_keywords: KeywordExtractor = extract_keywords


@dataclasses.dataclass(frozen=True)
class Published:
    """The published figures of a source, means per episode; 0 where none are given."""

    episodes: int = 0
    chunks: float = 0.0
    chunk_tokens: float = 0.0
    questions: float = 0.0


Paths = Mapping[str, pathlib.Path]
"""The file found for each of a source's `files`, by its name there."""


@dataclasses.dataclass(frozen=True)
class Source:
    """One data source, as `python -m memalpha_jax.prepare --list` shows it.

    Attributes:
      name: the `data_source` of its episodes, which chooses their metric.
      role: TRAINING or EVALUATION. competence: one of COMPETENCES.
      files: what it reads, by a short name each: shell patterns below RAW/NAME, plain or with `.gz`; the first that
        exists counts. An official file and a stand-in of the same layout may both be named.
      where: where the official files are published. licence: theirs.
      load: yields validated episodes from the found files; a `UserError` names file, line or record, and field.
    """

    name: str
    role: str
    competence: str
    files: Mapping[str, tuple[str, ...]]
    where: str
    licence: str
    load: Callable[[Paths, BuildOptions], Iterator[Episode]]
    published: Published = Published()
    optional: frozenset[str] = frozenset()
