"""The learner step: loss and gradient of a batch of trajectories as nested scans, one optimizer update per minibatch.

minibatches ▸ blocks of rows        (a row is one chunk step of one trajectory; gradients are summed, never averaged)

Parameters that are trained are float32 and met in the policy's dtype; with adapters the rest, `base`, is held in that
dtype and never changes.
"""

from __future__ import annotations

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from memalpha_jax.errors import UserError
from memalpha_jax.grpo.loss import ObjectiveConfig, policy_loss, token_weights
from memalpha_jax.policy.buckets import padding, sorted_by_length, sum_over_blocks, widths
from memalpha_jax.policy.config import LoraConfig, PolicyConfig
from memalpha_jax.policy.logprobs import reply_logprobs
from memalpha_jax.policy.model import cast
from memalpha_jax.policy.optimizer import OptimizerConfig
from memalpha_jax.policy.sharding import ROWS, in_force
from memalpha_jax.rollout.trajectory import Trajectory


@dataclasses.dataclass(frozen=True)
class GRPOConfig:
    """Attributes:
    episodes: B, episodes per step. group: G, trajectories per episode.
    steps: optimizer steps of the run (each on B * G fresh trajectories).
    grouping: "episode", "chunk" or "source"; scale: "group" or "batch" (see `advantages.py`).
    minibatches: updates per batch of trajectories; must divide B * G.
    block_rows: rows of one forward and backward pass; smaller blocks stay in cache and in memory; 0 takes all
      trajectories of a minibatch.
    buckets: in how many widths rows may be computed: with more than one, rows are sorted by length, and a block is as
      wide as the narrowest bucket that holds its longest row. Each is compiled.
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
    buckets: int = 1
    logprob_slice: int = 0
    max_skipped: int = 5
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()


@flax.struct.dataclass
class TrainState:
    """params that are trained (float32, layers stacked), the optimizer's state, step int32, and int32 counts of skipped
    updates.
    """

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
    """Arranges trajectories as [minibatch, blocks, rows, ...]; with buckets, by the length of rows.

    Without, rows are dealt out with the row axis slowest, so that a block holds rows of every shard of the batch.
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
        x = jnp.moveaxis(x, (2, 3, 1, 0), (0, 1, 2, 3))
        return x.reshape(mini, T * (M // rows), rows, *x.shape[4:])

    t = trajectory
    fields = (
        t.prompt_NTP,
        t.prompt_len_NT,
        t.reply_NTR,
        t.reply_len_NT,
        t.logprobs_NTR,
        advantage_NT,
        _weights(t, config),
    )
    blocks = Block(*(arrange(jnp.asarray(x)) for x in fields))
    return jax.vmap(lambda b: sorted_by_length(b, row_tokens(b)))(blocks) if config.buckets > 1 else blocks


def _weights(t: Trajectory, config: GRPOConfig) -> jax.Array:
    """Token weights [N, T, R]: every minibatch is averaged over its own trajectories."""
    mini = config.minibatches
    max_subactions = t.statuses_NTK.shape[-1] + 1
    by_minibatch = lambda x: jnp.moveaxis(x.reshape(-1, mini, *x.shape[1:]), 1, 0)

    def of_minibatch(a):
        subaction, length, active = a
        return token_weights(config.objective.averaging, subaction, length, active, max_subactions)

    # No loop: on CPUs, processes meet in the collectives of a loop and in those beside it in any order, and wait for
    # each other for ever.
    weights = jax.vmap(of_minibatch)(jax.tree.map(by_minibatch, (t.subaction_NTR, t.reply_len_NT, t.active_NT)))
    return jnp.moveaxis(weights, 0, 1).reshape(*t.subaction_NTR.shape)


def row_tokens(block: Block) -> jax.Array:
    """Tokens of each row that has a weight, else 0."""
    return jnp.where(jnp.any(block.weights > 0, axis=-1), block.prompt_len + block.reply_len, 0)


def row_widths(block: Block, config: GRPOConfig) -> tuple[int, ...]:
    """The widths that blocks are computed with; the last holds the longest prompt with the longest reply."""
    return widths(block.prompt.shape[-1] + block.reply.shape[-1], config.buckets)


def block_loss(params, reference, block: Block, policy: PolicyConfig, config: GRPOConfig, temperature: float, width=0):
    """Weighted-sum loss of one block and its watched sums; see `policy_loss`.

    params: the whole tree, in the dtype it is computed with; reference: as params, or None. width: slots of a row.
    """

    def score(p, policy):
        return reply_logprobs(
            policy,
            p,
            block.prompt,
            block.prompt_len,
            block.reply,
            block.reply_len,
            temperature=temperature,
            slice_tokens=config.logprob_slice,
            width=width,
        )

    logprobs, entropy = score(params, policy)
    plain = dataclasses.replace(policy, lora=LoraConfig())
    reference_logprobs = None if reference is None else jax.lax.stop_gradient(score(reference, plain)[0])
    loss, sums = policy_loss(
        config.objective, logprobs, block.old_logprobs, block.advantage, block.weights, reference_logprobs
    )
    return loss, sums | {"loss": loss, "entropy": jnp.sum(block.weights * entropy)}


def accumulate(params, base, reference, blocks: Block, policy: PolicyConfig, config: GRPOConfig, temperature: float):
    """Gradient (float32, of `params`) and watched sums over [blocks, rows, ...]."""
    computed = cast(params, policy.dtype)  # once, so that the blocks do not

    def gradient(block: Block, width: int):
        def loss(p):
            return block_loss({**base, **p}, reference, block, policy, config, temperature, width)

        gradient, sums = jax.grad(loss, has_aux=True)(computed)
        return jax.tree.map(lambda x: x.astype(jnp.float32), (gradient, sums))

    return sum_over_blocks(gradient, blocks, row_tokens(blocks), row_widths(blocks, config))


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
    base,
    reference,
    trajectory: Trajectory,
    advantage_NT: jax.Array,
    *,
    policy: PolicyConfig,
    config: GRPOConfig,
    temperature: float,
    optimizer: optax.GradientTransformation,
    mesh: Mesh | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One GRPO step: `config.minibatches` optimizer updates on one batch of trajectories.

    Args:
      base: the parameters that are not trained, in the policy's dtype; {} where all are.
      mesh: over which the rows of every block are split; must divide them.
      reference: the initial policy in the policy's dtype, without adapters; None where `kl_coef` is 0.

    Returns the new state and scalar metrics, averaged over the minibatches; `padding` is the share of the rows' slots
    that hold no token.
    """
    blocks = to_blocks(trajectory, advantage_NT, config)
    if mesh is not None:
        blocks = jax.lax.with_sharding_constraint(blocks, NamedSharding(mesh, Spec(None, None, *ROWS)))

    def one_minibatch(state, minibatch_and_padding):
        minibatch, share = minibatch_and_padding
        gradient, sums = accumulate(state.params, base, reference, minibatch, policy, config, temperature)
        state, watched = apply_gradient(state, gradient, optimizer)
        watched |= {"loss": sums.pop("loss"), "padding": share}
        weight = jnp.maximum(sums.pop("weight"), 1e-9)
        return state, {name: value / weight for name, value in sums.items()} | watched

    with in_force(mesh):
        # Worked out before the loop that carries it, for the reason given in `_weights`.
        share = jax.vmap(lambda minibatch: padding(row_tokens(minibatch), row_widths(minibatch, config)))(blocks)
        state, metrics = jax.lax.scan(one_minibatch, state, (blocks, share))
    return dataclasses.replace(state, step=state.step + 1), jax.tree.map(jnp.mean, metrics)
