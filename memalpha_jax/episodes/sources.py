"""From a configuration to the episodes of a split, whatever the source."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from memalpha_jax.episodes.chunkers import CountTokens
from memalpha_jax.episodes.episode import Episode, read_episodes
from memalpha_jax.episodes.generated import WorldConfig, generate_episodes
from memalpha_jax.episodes.locomo import load_locomo
from memalpha_jax.episodes.names import SPLITS
from memalpha_jax.episodes.squad import load_squad
from memalpha_jax.errors import UserError

SOURCES = ("generated", "squad", "locomo", "jsonl")


@dataclasses.dataclass(frozen=True)
class EpisodesConfig:
    """Where episodes come from.

    Attributes:
      source: "generated" (nothing to download), "squad", "locomo" (official JSON) or "jsonl" (our own
      records). path: the file of the other sources.
      eval_path: a file for the "eval" split; without it a share of `path` is kept back.
      eval_share: that share, at least one episode.
      num_train, num_eval: episodes of each split; of a file, at most so many.
      chunks: chunks per episode, of generated and squad episodes.
      seed: of generation, shuffling and splitting.
      chunk_tokens: chunks of files are cut to at most so many tokens.
      min_questions: squad episodes with fewer are left out.
      world: the generated world.
    """

    source: str = "generated"
    path: str = ""
    eval_path: str = ""
    eval_share: float = 0.1
    num_train: int = 2048
    num_eval: int = 64
    chunks: int = 3
    seed: int = 0
    chunk_tokens: int = 96
    min_questions: int = 1
    world: WorldConfig = dataclasses.field(default_factory=WorldConfig)

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise UserError(f"episodes: source {self.source!r} is unknown; choose one of {', '.join(SOURCES)}")
        if self.source != "generated" and not self.path:
            raise UserError(f"episodes: source {self.source!r} needs a file; set config.episodes.path")
        for field in ("num_train", "num_eval", "chunks", "chunk_tokens", "min_questions"):
            if getattr(self, field) < 1:
                raise UserError(f"episodes: {field} is {getattr(self, field)}; it must be at least 1")
        if not 0 < self.eval_share < 1:
            raise UserError(f"episodes: eval_share is {self.eval_share}; it must lie between 0 and 1")


def load_episodes(config: EpisodesConfig, split: str, count_tokens: CountTokens, first: int = 0) -> list[Episode]:
    """The episodes of split "train" or "eval" from number `first` on, the same list every time.

    Generated splits share no invented name. The splits of a file share no episode, and a training question
    that also occurs in the eval split is dropped. `count_tokens` is used for cutting chunks.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    limit = config.num_train if split == "train" else config.num_eval
    if config.source == "generated":
        return generate_episodes(config.world, split, limit, first=first, chunks=config.chunks, seed=config.seed)
    train, held_out = _split_files(config, count_tokens)
    chosen = held_out if split == "eval" else _without_questions_of(held_out, train)
    if first >= len(chosen):
        raise UserError(
            f"{config.eval_path or config.path} gives {len(chosen)} episode(s) of split {split}, and those from number "
            f"{first} on are wanted, counting from 0"
        )
    return chosen[first : first + limit]


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
    if config.source == "jsonl":
        return read_episodes(path)
    if config.source == "locomo":
        return load_locomo(path, chunk_tokens=config.chunk_tokens, count_tokens=count_tokens)
    return load_squad(
        path,
        chunk_tokens=config.chunk_tokens,
        chunks_per_episode=config.chunks,
        count_tokens=count_tokens,
        seed=config.seed,
        min_questions=config.min_questions,
    )


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
