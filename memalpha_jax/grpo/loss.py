"""The clipped objective of one block of replies, as a sum, so that blocks can be accumulated exactly.

Every averaging is expressed by token weights known before the forward pass: the loss is `-sum(w * objective)`.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from memalpha_jax.errors import UserError

AVERAGINGS = ("subaction", "token", "sequence", "constant")


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """Attributes:
    averaging: how tokens are averaged within a reply (see `token_weights`).
    clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high] (PPO, eq. 7; split as in DAPO, eq. 10).
    dual_clip: for negative advantages the objective is bounded below by dual_clip * A; 0 turns it off.
    kl_coef: weight of the k3 divergence to the reference policy (DeepSeekMath, eq. 4); at 0 none is kept.
    """

    averaging: str = "subaction"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 0.0
    kl_coef: float = 0.0


def token_weights(
    averaging: str, subaction_NTR: jax.Array, length_NT: jax.Array, active_NT: jax.Array, max_subactions: int
) -> jax.Array:
    """Weight [N, T, R] float32 of every reply token; 0 on padding, on inactive steps and where `subaction` is -1.

    `subaction`: mean over a sub-action's tokens, mean over a reply's sub-actions, sum over chunks, mean over the
    N trajectories (Mem-alpha). `token` and `sequence`: mean over a reply's tokens, mean over replies (with
    `sequence` the ratio is the reply's geometric mean, GSPO). `constant`: token sum over the constant R (Dr. GRPO),
    mean over replies. `max_subactions`: one more than the calls a reply may hold.
    """
    R = subaction_NTR.shape[-1]
    real = (jnp.arange(R) < length_NT[..., None]) & active_NT[..., None] & (subaction_NTR >= 0)
    replies = jnp.maximum(jnp.sum(active_NT & (length_NT > 0)), 1)
    if averaging in ("token", "sequence"):
        return real / jnp.maximum(jnp.sum(real, axis=-1, keepdims=True), 1) / replies
    if averaging == "constant":
        return real / (R * replies)
    if averaging != "subaction":
        raise UserError(f"grpo.averaging is {averaging!r}; known: {', '.join(AVERAGINGS)}")
    index = jnp.where(real, subaction_NTR, -1)
    tokens_in_NTK = jnp.sum(index[..., None] == jnp.arange(max_subactions), axis=-2)
    tokens_in_own = jnp.take_along_axis(tokens_in_NTK, jnp.maximum(index, 0), axis=-1)
    subactions = jnp.maximum(jnp.sum(tokens_in_NTK > 0, axis=-1, keepdims=True), 1)
    tokens_in_own = jnp.maximum(tokens_in_own, 1)
    return real / (tokens_in_own * subactions * active_NT.shape[0])


def policy_loss(
    config: ObjectiveConfig,
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantage: jax.Array,
    weights: jax.Array,
    reference_logprobs: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of M replies as a weighted sum, and weighted sums of what is worth watching.

    Args:
      logprobs, old_logprobs, weights: [M, R] float32; reference_logprobs too, needed when kl_coef is not 0.
      advantage: [M] float32.
    """
    real = weights > 0
    log_ratio = jnp.where(real, logprobs - old_logprobs, 0.0)
    if config.averaging == "sequence":
        mean = jnp.sum(log_ratio, axis=-1) / jnp.maximum(jnp.sum(real, axis=-1), 1)
        # GSPO, eq. 5: one ratio per reply, whose gradient reaches each token with weight 1/length.
        log_ratio = jnp.where(real, mean[:, None], 0.0)
    ratio = jnp.exp(log_ratio)
    A = advantage[:, None]
    clipped = jnp.clip(ratio, 1 - config.clip_low, 1 + config.clip_high)
    objective = jnp.minimum(ratio * A, clipped * A)
    if config.dual_clip > 0:
        objective = jnp.where(A < 0, jnp.maximum(objective, config.dual_clip * A), objective)
    loss = -jnp.sum(weights * objective)
    sums = {
        "clip_fraction": jnp.sum(weights * (clipped != ratio)),
        "old_kl": jnp.sum(weights * (ratio - 1 - log_ratio)),
        "weight": jnp.sum(weights),
    }
    if config.kl_coef != 0:
        assert reference_logprobs is not None, "kl_coef is not 0: a reference policy is needed"
        delta = jnp.where(real, reference_logprobs - logprobs, 0.0)
        kl = jnp.sum(weights * (jnp.exp(delta) - 1 - delta))
        loss, sums["reference_kl"] = loss + config.kl_coef * kl, kl
    return loss, sums
