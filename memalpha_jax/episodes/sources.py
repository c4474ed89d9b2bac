"""From a configuration to the episodes of a split, whatever the source."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
from absl import logging

from memalpha_jax.episodes.chunkers import CountTokens
from memalpha_jax.episodes.episode import Episode, read_episodes
from memalpha_jax.episodes.generated import WorldConfig, generate_episodes
from memalpha_jax.episodes.names import SPLITS
from memalpha_jax.episodes.schedule import parse_weights
from memalpha_jax.episodes.source import BuildOptions, Paths, Source
from memalpha_jax.episodes.squad import load_squad
from memalpha_jax.errors import UserError

GENERATED, JSONL, PREPARED = ("generated", "jsonl", "prepared")
"""Besides these, every source of `registry.py`."""


@dataclasses.dataclass(frozen=True)
class EpisodesConfig:
    """Where episodes come from, and in what mixture and order training sees them.

    Attributes:
      source: "generated" (nothing to download), "jsonl" (our own records), "prepared" (a folder that
        memalpha_jax.prepare built: any mixture of sources), or a source that `memalpha_jax.prepare --list` names, from
        its official files; NAME:evaluation where a name stands for two.
      path: the file or folder of the other sources.
      eval_path: the same for the "eval" split; without it a share of `path` is kept back. A prepared folder has its own
        split.
      eval_share: that share, at least one episode.
      num_train, num_eval: episodes of each split; of a file, at most so many.
      chunks: chunks per episode, of generated episodes and of sources that are free in it.
      seed: of generation, shuffling and splitting.
      chunk_tokens: chunks of files are cut to at most so many tokens. Prepared ones are as they were built.
      min_questions: squad episodes with fewer are left out.
      weights: of the data sources in training, as SOURCE=NUMBER,..; empty draws every episode equally often.
      curriculum: share of the training steps during which the longest episode allowed grows from the shortest; 0 turns
        it off. Both are explained in `schedule.py`.
      world: the generated world.
    """

    source: str = GENERATED
    path: str = ""
    eval_path: str = ""
    eval_share: float = 0.1
    num_train: int = 2048
    num_eval: int = 64
    chunks: int = 3
    seed: int = 0
    chunk_tokens: int = 96
    min_questions: int = 1
    weights: str = ""
    curriculum: float = 0.0
    world: WorldConfig = dataclasses.field(default_factory=WorldConfig)

    def __post_init__(self) -> None:
        named = self.source in (GENERATED, JSONL, PREPARED)
        needs_file = self.source != GENERATED if named else bool(_registered(self.source).files)
        if needs_file and not self.path:
            raise UserError(f"episodes: source {self.source!r} needs a file; set config.episodes.path")
        if self.source == PREPARED and self.eval_path:
            raise UserError("episodes: a prepared folder has its own eval split; leave config.episodes.eval_path out")
        for field in ("num_train", "num_eval", "chunks", "chunk_tokens", "min_questions"):
            if getattr(self, field) < 1:
                raise UserError(f"episodes: {field} is {getattr(self, field)}; it must be at least 1")
        if not 0 < self.eval_share < 1:
            raise UserError(f"episodes: eval_share is {self.eval_share}; it must lie between 0 and 1")
        if not 0 <= self.curriculum <= 1:
            raise UserError(f"episodes: curriculum is {self.curriculum}; it must lie between 0 and 1")
        parse_weights(self.weights)


def load_episodes(config: EpisodesConfig, split: str, count_tokens: CountTokens, first: int = 0) -> Sequence[Episode]:
    """The episodes of split "train" or "eval" from number `first` on, the same every time.

    Generated splits share no invented name. The splits of a file share no episode, and a training question
    that also occurs in the eval split is dropped; of a prepared folder, building it has seen to that. Prepared episodes
    are read when asked for. `count_tokens` is used for cutting chunks.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    limit = config.num_train if split == "train" else config.num_eval
    if config.source == GENERATED:
        return generate_episodes(config.world, split, limit, first=first, chunks=config.chunks, seed=config.seed)
    if config.source == PREPARED:
        chosen: Sequence[Episode] = _prepared(config.path, split)
    else:
        train, held_out = _split_files(config, count_tokens)
        chosen = held_out if split == "eval" else _without_questions_of(held_out, train)
    if first >= len(chosen):
        raise UserError(
            f"{config.eval_path or config.path} gives {len(chosen)} episode(s) of split {split}, and those from number "
            f"{first} on are wanted, counting from 0"
        )
    if limit < len(chosen) - first:
        logging.info("%s: %d of %d %s episodes (config.episodes.num_%s)", config.path, limit, len(chosen), split, split)
    if isinstance(chosen, list):
        return chosen[first : first + limit]
    return _Part(chosen, range(first, min(first + limit, len(chosen))))


class _Part(Sequence[Episode]):
    """Some of the episodes of a sequence, each looked up when asked for."""

    def __init__(self, whole: Sequence[Episode], indices: range) -> None:
        self._whole, self._indices = whole, indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Episode: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Episode]: ...
    def __getitem__(self, index: int | slice) -> Episode | Sequence[Episode]:
        if isinstance(index, slice):
            return _Part(self._whole, self._indices[index])
        return self._whole[self._indices[index]]


def _prepared(folder: str, split: str) -> Sequence[Episode]:
    from memalpha_jax.episodes.prepared import load_prepared  # a second of imports, which other sources need not

    return load_prepared(folder, split)


def _registered(name: str) -> Source:
    """The source of that name, for training if there is such a one."""
    from memalpha_jax.episodes import registry  # a second of imports, which generated episodes need not

    try:
        return registry.select([name])[0]
    except UserError:
        known = dict.fromkeys((GENERATED, JSONL, PREPARED, *(source.name for source in registry.all_sources())))
        raise UserError(f"episodes: source {name!r} is unknown; choose one of {', '.join(known)}") from None


def _split_files(config: EpisodesConfig, count_tokens: CountTokens) -> tuple[list[Episode], list[Episode]]:
    episodes = _shuffled(_read(config, config.path, count_tokens), config.seed)
    if config.eval_path:
        return episodes, _shuffled(_read(config, config.eval_path, count_tokens), config.seed)
    held_out = max(1, round(config.eval_share * len(episodes)))
    if held_out >= len(episodes):
        raise UserError(
            f"{config.path} gives {len(episodes)} episode(s), too few to keep some back for evaluation; set "
            "config.episodes.eval_path or lower config.episodes.chunks"
        )
    return episodes[held_out:], episodes[:held_out]


def _read(config: EpisodesConfig, path: str, count_tokens: CountTokens) -> list[Episode]:
    if config.source == JSONL:
        return read_episodes(path)
    if config.source == "squad":  # as plain lines, and with a limit of one's own
        return load_squad(
            path,
            chunk_tokens=config.chunk_tokens,
            chunks_per_episode=config.chunks,
            count_tokens=count_tokens,
            seed=config.seed,
            min_questions=config.min_questions,
        )
    options = BuildOptions(count_tokens, config.seed, config.chunk_tokens, config.chunks)
    source = _registered(config.source)
    episodes = list(source.load(_files(source, path), options))
    if not episodes:
        raise UserError(f"{path} gives no episode of source {config.source!r}")
    return episodes


def _files(source: Source, path: str) -> Paths:
    """The files of a source below a folder, or the only one that it has."""
    from memalpha_jax.episodes import registry  # as above

    if not source.files:
        return {}
    if Path(path).is_dir():
        return registry.find_files(source, path)
    if len(source.files) != 1:
        raise UserError(
            f"config.episodes.path={path} is not a folder; source {source.name!r} needs the one with its files, "
            f"{', '.join(source.files)}; memalpha_jax.prepare --list names them"
        )
    return dict.fromkeys(source.files, Path(path))


def _shuffled(episodes: Sequence[Episode], seed: int) -> list[Episode]:
    return [episodes[i] for i in np.random.default_rng(seed).permutation(len(episodes))]


def _without_questions_of(held_out: Sequence[Episode], train: Sequence[Episode]) -> list[Episode]:
    asked = {_normalised(q.question) for episode in held_out for q in episode.questions}
    kept = []
    for episode in train:
        questions = tuple(q for q in episode.questions if _normalised(q.question) not in asked)
        if questions:
            kept.append(dataclasses.replace(episode, questions=questions))
    if not kept:
        raise UserError("every training question also occurs in the eval split; check config.episodes.eval_path")
    return kept


def _normalised(question: str) -> str:
    return " ".join(question.lower().split())
