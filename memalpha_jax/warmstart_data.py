"""Rows of (prompt, reply) that the warm start learns from, and demonstrations of the format on generated episodes."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from memalpha_jax.episodes.batch import tokenize_episodes
from memalpha_jax.episodes.generated import WorldConfig, generate_episode
from memalpha_jax.policy.tokenizer import Tokenizer
from memalpha_jax.rollout.scripted import Demonstrator, scripted_rollout
from memalpha_jax.rollout.steps import Steps

PRACTICE = WorldConfig(
    sentences_min=4,
    sentences_max=6,
    chatter_rate=0.4,
    correction_rate=0.7,
    late_rate=0.3,
    people=5,
    statements_per_person=2.0,
    fact_weight=0.5,
    event_weight=0.2,
    knowledge_weight=0.12,
    sample_weight=0.18,
)
"""A world with many corrections, so that updates are practised."""
SHORT_CHUNKS = dataclasses.replace(
    PRACTICE, sentences_min=3, sentences_max=3, chatter_rate=0.2, correction_rate=1.0, fact_weight=1.0
)
"""Short chunks of corrections: some correct a stored item and some do not, so the choice of the call is practised."""


@dataclasses.dataclass(frozen=True)
class LessonConfig:
    """One lesson of the warm start.

    Attributes:
      steps: optimizer steps; 0 skips the lesson.
      demonstrate: False copies chunks of random pieces line by line; True shows the format on generated episodes,
        with a random choice of what to store.
      lines_min, lines_max: random lines per chunk, where they are copied. pieces_min, pieces_max: their lengths.
      skip: share of the random lines that are left out of the reply, so that the place in the chunk has to be kept.
      stored: random items in memory beforehand, which the lines revise.
      world: of the demonstrated episodes. chunks: chunks per episode; memory fills up along them.
      rate, update_rate, right_list_rate: see `Demonstrator`.
    """

    steps: int
    demonstrate: bool
    lines_min: int = 1
    lines_max: int = 2
    pieces_min: int = 4
    pieces_max: int = 9
    skip: float = 0.0
    stored: int = 0
    world: WorldConfig = PRACTICE
    chunks: int = 12
    rate: float = 0.35
    update_rate: float = 0.8
    right_list_rate: float = 0.75


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """prompt_MP, reply_MR int32 right-padded; prompt_len_M, reply_len_M int32."""

    prompt_MP: np.ndarray
    prompt_len_M: np.ndarray
    reply_MR: np.ndarray
    reply_len_M: np.ndarray

    def take(self, index: np.ndarray) -> Rows:
        return Rows(*(getattr(self, f.name)[index] for f in dataclasses.fields(self)))


def demonstrations(steps: Steps, tokenizer: Tokenizer, lesson: LessonConfig, count: int, seed: int, first: int) -> Rows:
    """Rows of `count` episodes of the training split, numbered from `first`, in random order.

    A function of the arguments alone, so that an interrupted warm start sees the same rows again.
    """
    engine = steps.engine
    chosen = [generate_episode(lesson.world, "train", first + i, chunks=lesson.chunks, seed=seed) for i in range(count)]
    batch = tokenize_episodes(
        chosen,
        tokenizer,
        max_chunks=lesson.chunks,
        chunk_capacity=engine.rollout.prompt_tokens,
        episode_indices=np.arange(first, first + count),
    )
    writer = Demonstrator(lesson.rate, lesson.update_rate, lesson.right_list_rate)
    t = scripted_rollout(steps, tokenizer, chosen, batch, writer, seed)
    fits = (t.prompt_len_NT <= engine.rollout.prompt_tokens) & t.active_NT & (t.reply_len_NT > 0)
    rows = Rows(t.prompt_NTP[fits], t.prompt_len_NT[fits], t.reply_NTR[fits], t.reply_len_NT[fits])
    return rows.take(np.random.default_rng([seed, first]).permutation(len(rows.prompt_len_M)))
