"""The rollout and the update of a run as functions of abstract arguments: traced, or lowered and compiled."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from memalpha_jax.experiment import Config
from memalpha_jax.grpo.learner import update
from memalpha_jax.planning.abstract import Layout, abstract_arguments, make_run_optimizer
from memalpha_jax.planning.liveness import peak_bytes
from memalpha_jax.policy.config import PolicyConfig
from memalpha_jax.policy.sharding import rows, tree_shardings
from memalpha_jax.rollout.engine import make_engine
from memalpha_jax.rollout.rollout import rollout


class _StandIn:
    """A tokenizer for the fixed text of prompts, whose memory is next to nothing: four characters a token."""

    vocab_size, eos_id = 1, 0

    def encode(self, text: str) -> list[int]:
        return [0] * -(-len(text) // 4)

    encode_trusted = encode

    def decode(self, ids: Sequence[int]) -> str:
        raise NotImplementedError("no reply is ever parsed while planning")

    def token_bytes(self, token: int) -> bytes:
        raise NotImplementedError("no reply is ever parsed while planning")


def update_step(config: Config, policy: PolicyConfig, mesh: Mesh | None = None) -> Callable:
    """`learner.update` as training jits it, of (state, base, reference, trajectory, advantage_NT)."""
    return functools.partial(
        update,
        policy=policy,
        config=config.grpo,
        temperature=config.rollout.temperature,
        optimizer=make_run_optimizer(config),
        mesh=mesh,
    )


def rollout_step(config: Config, policy: PolicyConfig, mesh: Mesh | None = None) -> Callable:
    """`rollout` of (params, memory, key_N, chunk_NTC, chunk_len_NT, num_chunks_N), which are rolled out at once."""
    engine = make_engine(policy, config.memory, config.rollout, _StandIn(), mesh=mesh)
    return functools.partial(rollout, engine, group=config.grpo.group)


@functools.cache  # what fits is searched for, and the advice searches again
def traced_update(config: Config, policy: PolicyConfig, rows: int, widened: bool) -> int:
    """Estimated peak bytes of the update of `rows` trajectories on one device, besides its arguments.

    `widened`: see `peak_bytes`.
    """
    a = abstract_arguments(config, policy, rows)
    arguments = (a.state, a.base, a.reference, a.trajectory, a.advantage_NT)
    jaxpr = jax.make_jaxpr(update_step(config, policy))(*arguments)
    owned = len(jax.tree.leaves(a.state))
    return peak_bytes(jaxpr.jaxpr, [i < owned for i in range(len(jaxpr.jaxpr.invars))], widened)


@functools.cache
def traced_rollout(config: Config, policy: PolicyConfig, rows: int, widened: bool) -> int:
    """Estimated peak bytes of a rollout of `rows` trajectories on one device, besides its arguments."""
    if config.rollout.share_group:  # whole groups only
        rows = -(-rows // config.grpo.group) * config.grpo.group
    a = abstract_arguments(config, policy, rows)
    return peak_bytes(jax.make_jaxpr(rollout_step(config, policy))(a.params, *a.episodes).jaxpr, widened=widened)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """Bytes per device of a compiled function: its arguments, what it gives and needs besides, and their sum."""

    arguments: int
    besides: int

    @property
    def total(self) -> int:
        return self.arguments + self.besides


def compile_update(
    config: Config, policy: PolicyConfig, devices: Sequence[Any], layout: Layout, options: dict[str, Any] | None = None
) -> Compiled:
    """Compiles the update for these devices, abstract ones included; nothing is allocated or run.

    `options` are XLA's.
    """
    mesh, a = _mesh(devices, layout), abstract_arguments(config, policy, layout.rows * layout.shards)
    parameters, state = functools.partial(_sharded, mesh=mesh), tree_shardings(a.state, mesh)
    step = jax.jit(update_step(config, policy, mesh), donate_argnums=0, out_shardings=(state, None))
    by_row = lambda tree: _with(tree, jax.tree.map(lambda _: rows(mesh), tree))
    reference = None if a.reference is None else parameters(a.reference)
    arguments = (_with(a.state, state), parameters(a.base), reference, by_row(a.trajectory), by_row(a.advantage_NT))
    return _analysis(step.lower(*arguments), devices, options)


def compile_rollout(
    config: Config, policy: PolicyConfig, devices: Sequence[Any], layout: Layout, options: dict[str, Any] | None = None
) -> Compiled:
    """Compiles the rollout of `rollout.rows` trajectories for these devices."""
    mesh, a = _mesh(devices, layout), abstract_arguments(config, policy, layout.rollout_rows * layout.shards)
    episodes = _with(a.episodes, jax.tree.map(lambda _: rows(mesh), a.episodes))
    step = jax.jit(rollout_step(config, policy, mesh))
    return _analysis(step.lower(_sharded(a.params, mesh), *episodes), devices, options)


def _mesh(devices: Sequence[Any], layout: Layout) -> Mesh:
    shape = (layout.data, layout.fsdp, layout.tensor)
    return Mesh(np.array(devices).reshape(shape), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def _sharded(tree: Any, mesh: Mesh) -> Any:
    return _with(tree, tree_shardings(tree, mesh))


def _with(tree: Any, shardings: Any) -> Any:
    def place(shape: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    return jax.tree.map(place, tree, shardings)


def _analysis(lowered: Any, devices: Sequence[Any], options: dict[str, Any] | None) -> Compiled:
    if devices[0].platform == "cpu":
        options = {"xla_backend_optimization_level": 0, **(options or {})}  # the code is not run, memory is the same
    m = lowered.compile(compiler_options=options).memory_analysis()
    besides = m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes
    return Compiled(m.argument_size_in_bytes, besides)
