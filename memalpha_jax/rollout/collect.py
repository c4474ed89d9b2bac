"""Collects the trajectories of one training step: B episodes, G trajectories each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from memalpha_jax.distributed import together
from memalpha_jax.episodes.batch import EpisodeBatch, tokenize_episodes
from memalpha_jax.episodes.episode import Episode
from memalpha_jax.errors import UserError
from memalpha_jax.memory.state import empty_memory
from memalpha_jax.policy.sharding import own_rows, place_rows, rows
from memalpha_jax.policy.tokenizer import Tokenizer
from memalpha_jax.rollout.engine import chunk_budget
from memalpha_jax.rollout.rollout import Engine, rollout, room_for, trajectory_keys
from memalpha_jax.rollout.trajectory import Trajectory

Collector = Callable[[Any, int, Sequence[int]], tuple[Trajectory, EpisodeBatch]]


def make_collector(
    engine: Engine, tokenizer: Tokenizer, episodes: Sequence[Episode], group: int, seed: int
) -> Collector:
    """A function from (params, step, episode indices [B]) to (trajectories [B * G], tokenised episodes).

    Trajectories of one episode are neighbours. Shapes are fixed by the longest episode and the prompt budget, so
    the rollout is compiled once. Each process of a run tokenises, and gets, the episodes of the trajectories that it
    holds; a process that runs alone gets all. UserError for a chunk that does not fit the prompt.
    """
    T = max(len(episode.chunks) for episode in episodes)
    capacity = chunk_budget(engine)
    if capacity < 1:
        raise UserError(
            f"config.rollout.prompt_tokens is {engine.rollout.prompt_tokens}, and the template "
            f"{engine.rollout.template!r} alone takes {engine.rollout.prompt_tokens - capacity}; raise it"
        )

    def check() -> None:
        for episode in episodes[jax.process_index() :: jax.process_count()]:
            tokenize_episodes([episode], tokenizer, max_chunks=T, chunk_capacity=capacity)

    together(check)  # now rather than at the step that happens to draw it
    memory_config = room_for(engine.memory, engine.rollout, T)

    def run(params, step, batch_N: EpisodeBatch) -> Trajectory:
        N = batch_N.num_chunks_B.shape[0]
        key_N = trajectory_keys(seed, step, batch_N.episode_index_B, np.arange(N) % group)
        memory = empty_memory(memory_config, (N,))
        chunks = (batch_N.chunk_BTC, batch_N.chunk_len_BT, batch_N.num_chunks_B)
        return rollout(engine, params, memory, key_N, *chunks, group=group)

    # The rows stay where they are, so that every process finds its own again.
    run = jax.jit(run) if engine.mesh is None else jax.jit(run, out_shardings=rows(engine.mesh))

    def collect(params: Any, step: int, indices: Sequence[int]) -> tuple[Trajectory, EpisodeBatch]:
        N = len(indices) * group
        own = np.asarray(indices)[own_rows(engine.mesh, N)[::group] // group]
        chosen = [episodes[i] for i in own]
        batch = tokenize_episodes(chosen, tokenizer, max_chunks=T, chunk_capacity=capacity, episode_indices=own)
        batch_N = jax.tree.map(lambda x: x.repeat(group, axis=0), batch)
        return run(params, np.int32(step), place_rows(batch_N, engine.mesh, N)), batch

    return collect
