"""Collects the trajectories of one training step: B episodes, G trajectories each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from memalpha_jax.episodes.batch import EpisodeBatch, tokenize_episodes
from memalpha_jax.episodes.episode import Episode
from memalpha_jax.errors import UserError
from memalpha_jax.memory.state import empty_memory
from memalpha_jax.policy.sharding import rows
from memalpha_jax.policy.tokenizer import Tokenizer
from memalpha_jax.rollout.engine import chunk_budget
from memalpha_jax.rollout.rollout import Engine, rollout, room_for, trajectory_keys
from memalpha_jax.rollout.trajectory import Trajectory

Collector = Callable[[Any, int, Sequence[int]], tuple[Trajectory, EpisodeBatch]]


def make_collector(
    engine: Engine, tokenizer: Tokenizer, episodes: Sequence[Episode], group: int, seed: int
) -> Collector:
    """A function from (params, step, episode indices [B]) to (trajectories [B * G], tokenised episodes [B]).

    Trajectories of one episode are neighbours. Shapes are fixed by the longest episode and the prompt budget, so
    the rollout is compiled once. UserError for a chunk that does not fit the prompt.
    """
    T = max(len(episode.chunks) for episode in episodes)
    capacity = chunk_budget(engine)
    if capacity < 1:
        raise UserError(
            f"config.rollout.prompt_tokens is {engine.rollout.prompt_tokens}, and the template "
            f"{engine.rollout.template!r} alone takes {engine.rollout.prompt_tokens - capacity}; raise it"
        )
    for episode in episodes:  # now rather than at the step that happens to draw it
        tokenize_episodes([episode], tokenizer, max_chunks=T, chunk_capacity=capacity)
    memory_config = room_for(engine.memory, engine.rollout, T)

    @jax.jit
    def run(params, step, batch: EpisodeBatch) -> Trajectory:
        batch_N = jax.tree.map(lambda x: x.repeat(group, axis=0), batch)
        if engine.mesh is not None:
            batch_N = jax.lax.with_sharding_constraint(batch_N, rows(engine.mesh))
        N = batch_N.num_chunks_B.shape[0]
        key_N = trajectory_keys(seed, step, batch_N.episode_index_B, np.arange(N) % group)
        memory = empty_memory(memory_config, (N,))
        chunks = (batch_N.chunk_BTC, batch_N.chunk_len_BT, batch_N.num_chunks_B)
        return rollout(engine, params, memory, key_N, *chunks, group=group)

    def collect(params: Any, step: int, indices: Sequence[int]) -> tuple[Trajectory, EpisodeBatch]:
        chosen = [episodes[i] for i in indices]
        batch = tokenize_episodes(
            chosen, tokenizer, max_chunks=T, chunk_capacity=capacity, episode_indices=np.asarray(indices)
        )
        return run(params, np.int32(step), batch), batch

    return collect
