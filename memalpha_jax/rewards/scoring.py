"""From trajectories to rewards: the host's half of a training step."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from memalpha_jax.episodes.episode import Episode
from memalpha_jax.memory.state import MemoryState, MemoryType, memory_core, memory_items, unstack
from memalpha_jax.policy.tokenizer import Tokenizer
from memalpha_jax.rewards.judge import Judge
from memalpha_jax.rewards.reader import Reader, ReaderQuery
from memalpha_jax.rewards.reward import (
    AppliedCalls,
    RewardConfig,
    Rewards,
    applied_calls,
    compute_rewards,
    score_answers,
)
from memalpha_jax.rollout.trajectory import Trajectory


def reader_queries(episode: Episode, memory: MemoryState, tokenizer: Tokenizer) -> list[ReaderQuery]:
    """One query per question of `episode`, over one trajectory's final memory (numpy, from `unstack`)."""
    items = memory_items(memory)
    texts = {
        kind: tuple(tokenizer.decode(item.tokens) for item in items if item.type == kind)
        for kind in (MemoryType.EPISODIC, MemoryType.SEMANTIC)
    }
    core = tokenizer.decode(memory_core(memory))
    return [
        ReaderQuery(q.question, core, texts[MemoryType.EPISODIC], texts[MemoryType.SEMANTIC], episode.data_source)
        for q in episode.questions
    ]


def score_trajectories(
    trajectory: Trajectory,
    episodes_N: Sequence[Episode],
    chunk_tokens_N: np.ndarray,
    tokenizer: Tokenizer,
    config: RewardConfig,
    reader: Reader,
    judge: Judge | None,
    group_N: np.ndarray,
) -> tuple[Rewards, AppliedCalls, list[list[str]]]:
    """Rewards of N trajectories, their calls, and the reader's answers.

    Args:
      episodes_N: the episode of each trajectory. chunk_tokens_N: tokens of its chunks.
      group_N: the group of each trajectory, within which a failed judge masks r4 together.
    """
    calls, statuses, active_NT, tokens_NT, memory = jax.device_get(
        (
            trajectory.calls,
            trajectory.statuses_NTK,
            trajectory.active_NT,
            trajectory.memory_tokens_NT,
            trajectory.memory,
        )
    )
    queries = [
        reader_queries(episode, state, tokenizer) for episode, state in zip(episodes_N, unstack(memory), strict=True)
    ]
    flat = [query for own in queries for query in own]
    golds = [question.answer for episode in episodes_N for question in episode.questions]
    answers = reader.answer(flat)
    scores = iter(score_answers(flat, answers, golds, published=config.published_scores))
    per_trajectory = [[next(scores) for _ in own] for own in queries]
    applied = applied_calls(calls, statuses, tokenizer.decode)
    rewards = compute_rewards(
        per_trajectory,
        applied,
        chunk_mask_NT=active_NT,
        memory_tokens_N=tokens_NT[:, -1],
        chunk_tokens_N=chunk_tokens_N,
        config=config,
        judge=judge,
        group_N=group_N,
    )
    given = iter(answers)
    return rewards, applied, [[next(given) for _ in own] for own in queries]
