"""Collects the trajectories of one training step: B episodes, G trajectories each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memalpha_jax.episodes.batch import EpisodeBatch
from memalpha_jax.episodes.feed import Drawn
from memalpha_jax.errors import UserError
from memalpha_jax.memory.state import empty_memory
from memalpha_jax.policy.sharding import place_rows, rows
from memalpha_jax.rollout.engine import chunk_budget
from memalpha_jax.rollout.rollout import Engine, rollout, room_for, trajectory_keys
from memalpha_jax.rollout.trajectory import Trajectory

Collector = Callable[[Any, int, Drawn], Trajectory]


def deal(x_N: jax.Array, parts: int, group: int) -> jax.Array:
    """[N, ...] as [parts, N / parts, ...]: whole groups dealt out like cards, so each part has some of every shard."""
    x = x_N.reshape(-1, parts, group, *x_N.shape[1:])
    return jnp.moveaxis(x, 1, 0).reshape(parts, -1, *x_N.shape[1:])


def gather_parts(x_parts: jax.Array, group: int) -> jax.Array:
    """The inverse of `deal`."""
    parts, rest = x_parts.shape[0], x_parts.shape[2:]
    return jnp.moveaxis(x_parts.reshape(parts, -1, group, *rest), 0, 1).reshape(-1, *rest)


def chunk_room(engine: Engine) -> int:
    """C, tokens that a chunk may have; UserError where the prompt has no room for one."""
    capacity = chunk_budget(engine)
    if capacity < 1:
        raise UserError(
            f"config.rollout.prompt_tokens is {engine.rollout.prompt_tokens}, and the template "
            f"{engine.rollout.template!r} alone takes {engine.rollout.prompt_tokens - capacity}; raise it"
        )
    return capacity


def make_collector(engine: Engine, group: int, seed: int) -> Collector:
    """A function from (params, step, drawn episodes) to trajectories [B * G].

    Trajectories of one episode are neighbours. Shapes are those of the tokenised episodes, so that of a run is compiled
    once. Each process of a run gives the episodes of the trajectories that it holds; one that runs alone gives all.
    """

    def roll(params, batch: EpisodeBatch, key_N: jax.Array) -> Trajectory:
        memory_config = room_for(engine.memory, engine.rollout, batch.chunk_BTC.shape[1])
        memory = empty_memory(memory_config, (len(key_N),))
        chunks = (batch.chunk_BTC, batch.chunk_len_BT, batch.num_chunks_B)
        return rollout(engine, params, memory, key_N, *chunks, group=group)

    def run(params, step, batch_N: EpisodeBatch) -> Trajectory:
        N = batch_N.num_chunks_B.shape[0]
        key_N = trajectory_keys(seed, step, batch_N.episode_index_B, np.arange(N) % group)
        parts = N // (engine.rollout.rows or N)
        if parts == 1:
            return roll(params, batch_N, key_N)
        dealt = jax.tree.map(lambda x: deal(x, parts, group), (batch_N, key_N))
        return jax.tree.map(lambda x: gather_parts(x, group), jax.lax.map(lambda part: roll(params, *part), dealt))

    # The rows stay where they are, so that every process finds its own again.
    run = jax.jit(run) if engine.mesh is None else jax.jit(run, out_shardings=rows(engine.mesh))

    def collect(params: Any, step: int, drawn: Drawn) -> Trajectory:
        N = len(drawn.index_B) * group
        batch_N = jax.tree.map(lambda x: np.repeat(x, group, axis=0), drawn.batch)
        return run(params, np.int32(step), place_rows(batch_N, engine.mesh, N))

    return collect
