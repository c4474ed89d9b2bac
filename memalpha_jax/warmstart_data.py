"""Demonstrations for the warm start: scripted trajectories on generated episodes, as rows of (prompt, reply)."""

from __future__ import annotations

import dataclasses

import numpy as np

from memalpha_jax.episodes.batch import tokenize_episodes
from memalpha_jax.episodes.generated import WorldConfig, generate_episode
from memalpha_jax.policy.tokenizer import Tokenizer
from memalpha_jax.rollout.rollout import Engine
from memalpha_jax.rollout.scripted import Demonstrator, Writer, copier, scripted_rollout


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """One lesson of the warm start.

    Attributes:
      steps: optimizer steps.
      sentences_min, sentences_max: sentences per chunk.
      chunks: chunks per episode; memory fills up along them.
      demonstrate: False copies every sentence; True demonstrates the format with a random choice.
      rate_low, rate_high, update_rate: see `Demonstrator`.
    """

    steps: int
    sentences_min: int
    sentences_max: int
    chunks: int
    demonstrate: bool
    rate_low: float = 0.2
    rate_high: float = 0.6
    update_rate: float = 0.5

    def writer(self) -> Writer:
        return Demonstrator(self.rate_low, self.rate_high, self.update_rate) if self.demonstrate else copier


@dataclasses.dataclass(frozen=True)
class Rows:
    """prompt_MP, reply_MR int32 right-padded; prompt_len_M, reply_len_M int32."""

    prompt_MP: np.ndarray
    prompt_len_M: np.ndarray
    reply_MR: np.ndarray
    reply_len_M: np.ndarray

    def take(self, index: np.ndarray) -> Rows:
        return Rows(*(getattr(self, f.name)[index] for f in dataclasses.fields(self)))

    def crop(self, multiple: int) -> Rows:
        """Drops columns that no row uses, up to a multiple, so that few shapes are compiled."""
        P = min(-(-int(self.prompt_len_M.max()) // multiple) * multiple, self.prompt_MP.shape[1])
        R = min(-(-int(self.reply_len_M.max()) // multiple) * multiple, self.reply_MR.shape[1])
        return Rows(self.prompt_MP[:, :P], self.prompt_len_M, self.reply_MR[:, :R], self.reply_len_M)


def demonstrations(
    engine: Engine, tokenizer: Tokenizer, world: WorldConfig, stage: StageConfig, episodes: int, seed: int, first: int
) -> Rows:
    """Rows of `episodes` episodes of the training split, numbered from `first`, in random order.

    A function of the arguments alone, so that an interrupted warm start sees the same rows again.
    """
    world = dataclasses.replace(world, sentences_min=stage.sentences_min, sentences_max=stage.sentences_max)
    chosen = [generate_episode(world, "train", first + i, chunks=stage.chunks, seed=seed) for i in range(episodes)]
    chunk_capacity = engine.rollout.prompt_tokens
    batch = tokenize_episodes(chosen, tokenizer, max_chunks=stage.chunks, chunk_capacity=chunk_capacity)
    batch = batch.replace(episode_index_B=np.arange(first, first + episodes, dtype=np.int32))
    t = scripted_rollout(engine, tokenizer, chosen, batch, stage.writer(), seed)
    fits = (t.prompt_len_NT <= engine.rollout.prompt_tokens) & t.active_NT & (t.reply_len_NT > 0)
    rows = Rows(t.prompt_NTP[fits], t.prompt_len_NT[fits], t.reply_NTR[fits], t.reply_len_NT[fits])
    return rows.take(np.random.default_rng([seed, first]).permutation(len(rows.prompt_len_M)))
