"""Log-probabilities of given replies: the training forward pass."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from memalpha_jax.errors import UserError
from memalpha_jax.policy.attention import Causal
from memalpha_jax.policy.config import PolicyConfig
from memalpha_jax.policy.model import Qwen3


def reply_logprobs(
    config: PolicyConfig,
    params,
    prompt_NP: jax.Array,
    prompt_len_N: jax.Array,
    reply_NR: jax.Array,
    reply_len_N: jax.Array,
    *,
    temperature: float = 1.0,
    slice_tokens: int = 0,
    width: int = 0,
) -> tuple[jax.Array, jax.Array]:
    """Log-probability and entropy of every reply token, [N, R] float32.

    Each reply stands right behind its prompt, so that rows have no gaps and need only be as wide as the longest.

    Args:
      prompt_len_N: at least 1; a length over P, of a prompt that was too long to be answered, counts as P.
      temperature: of the sampling distribution (0 counts as 1, as in the sampler).
      slice_tokens: vocabulary logits are made for that many reply positions at a time and recomputed in the
        backward pass, so that no [N, R, V] array exists; 0 makes them at once. Must divide R, else UserError.
      width: S, slots of a row, its prompt and reply together; 0 takes P + R. No row may be longer.

    Values beyond a reply's length are meaningless: mask by length.
    """
    N, P = prompt_NP.shape
    R = reply_NR.shape[1]
    if 0 < slice_tokens < R and R % slice_tokens:
        raise UserError(
            f"grpo.logprob_slice is {slice_tokens} and rollout.reply_tokens is {R}: the first must divide "
            "the second (0 makes all logits at once)"
        )
    prompt_len_N = jnp.minimum(prompt_len_N, P)  # an index out of range would read NaN, even at weight 0
    model = Qwen3(config)
    tokens_NS = joined(prompt_NP, prompt_len_N, reply_NR, width or P + R)
    slots = tokens_NS.shape[1]
    # Reply token r is predicted at the slot before its own.
    slot_NR = jnp.minimum(prompt_len_N[:, None] - 1 + jnp.arange(R), slots - 1)
    predicting_NRD, _ = model.apply(
        {"params": params}, tokens_NS, range(slots), Causal(), read_NR=slot_NR, method="hidden"
    )

    def score(states: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = model.apply({"params": params}, states, method="logits") / (temperature or 1.0)
        logp = jax.nn.log_softmax(logits)
        chosen = jnp.take_along_axis(logp, tokens[..., None], axis=-1)[..., 0]
        return chosen, -jnp.sum(jnp.exp(logp) * logp, axis=-1)

    if slice_tokens <= 0 or slice_tokens >= R:
        return score(predicting_NRD, reply_NR)
    parts = R // slice_tokens
    states = predicting_NRD.reshape(N, parts, slice_tokens, -1).swapaxes(0, 1)
    tokens = reply_NR.reshape(N, parts, slice_tokens).swapaxes(0, 1)
    logp, entropy = jax.lax.map(lambda xs: jax.checkpoint(score)(*xs), (states, tokens))
    return logp.swapaxes(0, 1).reshape(N, R), entropy.swapaxes(0, 1).reshape(N, R)


def joined(prompt_NP: jax.Array, prompt_len_N: jax.Array, reply_NR: jax.Array, width: int) -> jax.Array:
    """Rows [N, width] of each prompt with its reply right behind it; what lies behind both is no matter."""
    P, R = prompt_NP.shape[1], reply_NR.shape[1]
    slot_S = jnp.arange(width)
    behind_NS = slot_S - prompt_len_N[:, None]
    from_prompt = jnp.take(prompt_NP, jnp.minimum(slot_S, P - 1), axis=1)
    from_reply = jnp.take_along_axis(reply_NR, jnp.clip(behind_NS, 0, R - 1), axis=1)
    return jnp.where(behind_NS < 0, from_prompt, from_reply)
