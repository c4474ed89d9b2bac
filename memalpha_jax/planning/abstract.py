"""The arguments of the rollout and the update of a run as shapes and dtypes, without arrays."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import ShapeDtypeStruct

from memalpha_jax.errors import UserError
from memalpha_jax.experiment import Config
from memalpha_jax.grpo.learner import TrainState, init_state
from memalpha_jax.memory.state import empty_memory
from memalpha_jax.policy.config import PolicyConfig
from memalpha_jax.policy.lora import is_adapter
from memalpha_jax.policy.model import parameter_shapes
from memalpha_jax.policy.optimizer import make_optimizer
from memalpha_jax.policy.sharding import MeshConfig
from memalpha_jax.rollout.rollout import room_for
from memalpha_jax.rollout.trajectory import Trajectory
from memalpha_jax.tools.calls import call_batch_spec


@dataclasses.dataclass(frozen=True)
class Layout:
    """Sizes of the mesh axes over a machine's devices, and the rows that one device has.

    Attributes:
      data, fsdp, tensor: as in `MeshConfig`, data filled in.
      rows: trajectories of one step per device. rollout_rows: those that are rolled out at once. block_rows: rows of
        one forward and backward pass.
    """

    data: int
    fsdp: int
    tensor: int
    rows: int
    rollout_rows: int
    block_rows: int

    @property
    def shards(self) -> int:
        return self.data * self.fsdp


def layout(config: Config, devices: int) -> Layout:
    """The layout of a run over so many devices; UserError where mesh, batch and blocks do not divide."""
    mesh: MeshConfig = config.mesh
    data = mesh.data or devices // (mesh.fsdp * mesh.tensor)
    if data * mesh.fsdp * mesh.tensor != devices or data < 1:
        raise UserError(
            f"mesh.data={mesh.data}, mesh.fsdp={mesh.fsdp}, mesh.tensor={mesh.tensor} do not fit {devices} device(s): "
            "their product must be the number of devices (data=0 takes what is left)"
        )
    shards, N = data * mesh.fsdp, config.grpo.episodes * config.grpo.group
    if N % shards:
        raise UserError(
            f"grpo.episodes x grpo.group is {N}, which {shards} shards do not divide (mesh.data x mesh.fsdp); "
            "change either"
        )
    minibatch = N // config.grpo.minibatches
    block, rolled = min(config.grpo.block_rows, minibatch) or minibatch, config.rollout.rows or N
    for key, rows in ("grpo.block_rows", block), ("rollout.rows", rolled):
        if rows % shards:
            raise UserError(
                f"{key} is {rows}, which {shards} shards do not divide (mesh.data x mesh.fsdp); set it to a multiple "
                f"of {shards}"
            )
    return Layout(data, mesh.fsdp, mesh.tensor, N // shards, rolled // shards, block // shards)


def make_run_optimizer(config: Config) -> optax.GradientTransformation:
    """The optimizer that training makes of the same config."""
    return make_optimizer(config.grpo.optimizer, config.grpo.steps * config.grpo.minibatches)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What a run holds and passes on, for `rows` trajectories.

    Attributes:
      state, base, reference: as `learner.update` takes them.
      params: all parameters in the dtype they are computed with, which the rollout takes.
      trajectory, advantage_NT: what the update takes. episodes: what the rollout takes, from the memory on.
    """

    state: TrainState
    base: dict[str, ShapeDtypeStruct]
    reference: dict[str, ShapeDtypeStruct] | None
    params: dict[str, ShapeDtypeStruct]
    trajectory: Trajectory
    advantage_NT: ShapeDtypeStruct
    episodes: tuple[Any, ...]


def abstract_arguments(config: Config, policy: PolicyConfig, rows: int) -> Arguments:
    """The arguments of both steps; T is `episodes.chunks`."""
    shapes = {name: shape for name, (shape, _) in parameter_shapes(policy).items()}
    adapters = policy.lora.rank > 0
    trained = {
        name: ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items() if not adapters or is_adapter(name)
    }
    computed = {name: ShapeDtypeStruct(shape, policy.dtype) for name, shape in shapes.items()}
    plain = {name: shape for name, shape in computed.items() if not is_adapter(name)}
    optimizer = make_run_optimizer(config)
    T, C = config.episodes.chunks, config.rollout.prompt_tokens
    memory = room_for(config.memory, config.rollout, T)
    return Arguments(
        state=jax.eval_shape(lambda params: init_state(params, optimizer), trained),
        base=plain if adapters else {},
        reference=plain if config.grpo.objective.kl_coef != 0 else None,
        params=computed,
        trajectory=abstract_trajectory(config, rows),
        advantage_NT=ShapeDtypeStruct((rows, T), jnp.float32),
        episodes=(
            jax.eval_shape(lambda: empty_memory(memory, (rows,))),
            jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rows)),
            ShapeDtypeStruct((rows, T, C), jnp.int32),
            ShapeDtypeStruct((rows, T), jnp.int32),
            ShapeDtypeStruct((rows,), jnp.int32),
        ),
    )


def abstract_trajectory(config: Config, rows: int) -> Trajectory:
    """`rows` trajectories of `episodes.chunks` chunk steps, with the memory that they may need."""
    T, rollout = config.episodes.chunks, config.rollout
    P, R, K = rollout.prompt_tokens, rollout.reply_tokens, rollout.max_calls

    def field(*shape: int, dtype: Any = jnp.int32) -> ShapeDtypeStruct:
        return ShapeDtypeStruct((rows, T, *shape), dtype)

    memory = room_for(config.memory, rollout, T)
    return Trajectory(
        prompt_NTP=field(P),
        prompt_len_NT=field(),
        reply_NTR=field(R),
        reply_len_NT=field(),
        finished_NT=field(dtype=jnp.bool_),
        logprobs_NTR=field(R, dtype=jnp.float32),
        subaction_NTR=field(R),
        calls=call_batch_spec(K, R, (rows, T)),
        statuses_NTK=field(K),
        active_NT=field(dtype=jnp.bool_),
        memory_tokens_NT=field(),
        memory=jax.eval_shape(lambda: empty_memory(memory, (rows,))),
    )
