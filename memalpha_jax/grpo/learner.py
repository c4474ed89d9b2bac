"""The learner step: loss and gradient of a batch of trajectories as nested scans, one optimizer update per minibatch.

minibatches ▸ chunk steps ▸ blocks of rows        (gradients are summed, never averaged, over the inner two)
"""

from __future__ import annotations

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import optax

from memalpha_jax.errors import UserError
from memalpha_jax.grpo.loss import ObjectiveConfig, policy_loss, token_weights
from memalpha_jax.policy.config import PolicyConfig
from memalpha_jax.policy.logprobs import reply_logprobs
from memalpha_jax.policy.optimizer import OptimizerConfig
from memalpha_jax.rollout.trajectory import Trajectory


@dataclasses.dataclass(frozen=True)
class GRPOConfig:
    """Attributes:
    episodes: B, episodes per step. group: G, trajectories per episode.
    steps: optimizer steps of the run (each on B * G fresh trajectories).
    grouping: "episode", "chunk" or "source"; scale: "group" or "batch" (see `advantages.py`).
    minibatches: updates per batch of trajectories; must divide B * G.
    block_rows: rows of one forward and backward pass; smaller blocks stay in cache and in memory; 0 takes all.
    logprob_slice: reply tokens whose vocabulary logits exist at once; 0 takes all.
    max_skipped: the run stops after this many steps in a row with a gradient that is not finite.
    """

    episodes: int = 32
    group: int = 8
    steps: int = 205
    grouping: str = "episode"
    scale: str = "group"
    minibatches: int = 1
    block_rows: int = 0
    logprob_slice: int = 0
    max_skipped: int = 5
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()


@flax.struct.dataclass
class TrainState:
    """params (layers stacked), the optimizer's state, step int32, and int32 counts of skipped updates."""

    params: dict
    opt_state: optax.OptState
    step: jax.Array
    skipped: jax.Array
    skipped_in_a_row: jax.Array


def init_state(params: dict, optimizer: optax.GradientTransformation) -> TrainState:
    """A fresh state; every counter has a buffer of its own, since the state is donated."""
    counters = (jnp.zeros((), jnp.int32) for _ in range(3))
    return TrainState(params, optimizer.init(params), *counters)


@flax.struct.dataclass
class Block:
    """The part of M replies that the loss needs; every field has leading axes [.., M]."""

    prompt: jax.Array
    prompt_len: jax.Array
    reply: jax.Array
    reply_len: jax.Array
    old_logprobs: jax.Array
    advantage: jax.Array
    weights: jax.Array


def to_blocks(trajectory: Trajectory, advantage_NT: jax.Array, config: GRPOConfig) -> Block:
    """Arranges trajectories as [minibatch, T, blocks, rows, ...].

    Rows are dealt out with the row axis slowest, so that a block holds rows of every shard of the batch.
    UserError if they do not divide.
    """
    N, T = advantage_NT.shape
    mini, M = config.minibatches, N // config.minibatches
    rows = min(config.block_rows, M) or M
    if N % mini or M % rows:
        raise UserError(
            f"{N} trajectories (grpo.episodes x grpo.group) do not divide into grpo.minibatches={mini} parts "
            f"of blocks of grpo.block_rows={rows} rows; change one of the four so that they do"
        )

    def arrange(x: jax.Array) -> jax.Array:
        x = x.reshape(rows, M // rows, mini, T, *x.shape[2:])
        return jnp.moveaxis(x, (2, 3, 1, 0), (0, 1, 2, 3))

    t = trajectory
    max_subactions = t.statuses_NTK.shape[-1] + 1

    def weights_of(subaction, length, active):
        return token_weights(config.objective.averaging, subaction, length, active, max_subactions)

    by_minibatch = lambda x: jnp.moveaxis(x.reshape(M, mini, *x.shape[1:]), 1, 0)
    weights = jax.lax.map(
        lambda a: weights_of(*a), jax.tree.map(by_minibatch, (t.subaction_NTR, t.reply_len_NT, t.active_NT))
    )
    weights_NTR = jnp.moveaxis(weights, 0, 1).reshape(N, *weights.shape[2:])
    fields = (
        t.prompt_NTP,
        t.prompt_len_NT,
        t.reply_NTR,
        t.reply_len_NT,
        t.logprobs_NTR,
        advantage_NT,
        weights_NTR,
    )
    return Block(*(arrange(x) for x in fields))


def block_loss(params, reference, block: Block, policy: PolicyConfig, config: GRPOConfig, temperature: float):
    """Weighted-sum loss of one block and its watched sums; see `policy_loss`."""

    def score(p):
        return reply_logprobs(
            policy,
            p,
            block.prompt,
            block.prompt_len,
            block.reply,
            block.reply_len,
            temperature=temperature,
            slice_tokens=config.logprob_slice,
        )

    logprobs, entropy = score(params)
    reference_logprobs = None if reference is None else jax.lax.stop_gradient(score(reference)[0])
    loss, sums = policy_loss(
        config.objective, logprobs, block.old_logprobs, block.advantage, block.weights, reference_logprobs
    )
    return loss, sums | {"loss": loss, "entropy": jnp.sum(block.weights * entropy)}


def accumulate(params, reference, blocks: Block, policy: PolicyConfig, config: GRPOConfig, temperature: float):
    """Gradient and watched sums over [T, blocks, rows, ...], by a scan over chunk steps of a scan over blocks."""
    gradient = jax.grad(block_loss, has_aux=True)

    def one_block(total, block):
        new = gradient(params, reference, block, policy, config, temperature)
        return jax.tree.map(jnp.add, total, new), None

    def one_step(total, step_blocks):
        return jax.lax.scan(one_block, total, step_blocks)[0], None

    first = jax.tree.map(lambda x: x[0, 0], blocks)
    shapes = jax.eval_shape(lambda: gradient(params, reference, first, policy, config, temperature))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(one_step, zeros, blocks)[0]


def apply_gradient(state: TrainState, gradient, optimizer: optax.GradientTransformation) -> tuple[TrainState, dict]:
    """One update; a gradient that is not finite leaves params and optimizer as they are and is counted."""
    norm = optax.global_norm(gradient)
    finite = jnp.isfinite(norm)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
    new = TrainState(
        keep(params, state.params),
        keep(opt_state, state.opt_state),
        state.step,
        state.skipped + ~finite,
        jnp.where(finite, 0, state.skipped_in_a_row + 1),
    )
    return new, {"grad_norm": norm}


def update(
    state: TrainState,
    reference,
    trajectory: Trajectory,
    advantage_NT: jax.Array,
    *,
    policy: PolicyConfig,
    config: GRPOConfig,
    temperature: float,
    optimizer: optax.GradientTransformation,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One GRPO step: `config.minibatches` optimizer updates on one batch of trajectories.

    Returns the new state and scalar metrics, averaged over the minibatches.
    """
    blocks = to_blocks(trajectory, advantage_NT, config)

    def one_minibatch(state, minibatch):
        gradient, sums = accumulate(state.params, reference, minibatch, policy, config, temperature)
        state, norms = apply_gradient(state, gradient, optimizer)
        weight = jnp.maximum(sums.pop("weight"), 1e-9)
        loss = sums.pop("loss")
        return state, {name: value / weight for name, value in sums.items()} | norms | {"loss": loss}

    state, metrics = jax.lax.scan(one_minibatch, state, blocks)
    return dataclasses.replace(state, step=state.step + 1), jax.tree.map(jnp.mean, metrics)
