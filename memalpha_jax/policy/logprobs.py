"""Log-probabilities of given replies: the training forward pass."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from memalpha_jax.errors import UserError
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
) -> tuple[jax.Array, jax.Array]:
    """Log-probability and entropy of every reply token, [N, R] float32, in the layout the sampler used.

    Args:
      prompt_len_N: a length over P, of a prompt that was too long to be answered, counts as P.
      temperature: of the sampling distribution (0 counts as 1, as in the sampler).
      slice_tokens: vocabulary logits are made for that many reply positions at a time and recomputed in the
        backward pass, so that no [N, R, V] array exists; 0 makes them at once. Must divide R, else UserError.

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
    slot_S = jnp.arange(P + R)
    reply_slot = slot_S >= P
    position_NS = jnp.where(reply_slot, prompt_len_N[:, None] + slot_S - P, slot_S)
    valid_NS = jnp.where(reply_slot, slot_S - P < reply_len_N[:, None], slot_S < prompt_len_N[:, None])
    mask_NSS = (slot_S[:, None] >= slot_S[None, :])[None] & valid_NS[:, None, :]
    tokens_NS = jnp.concatenate([prompt_NP, reply_NR], axis=1)
    hidden, _ = model.apply({"params": params}, tokens_NS, position_NS, mask_NSS, method="hidden")
    # Reply token 0 is predicted at the last prompt position, token r > 0 at reply slot r - 1.
    first = jnp.take_along_axis(hidden, (prompt_len_N - 1)[:, None, None], axis=1)
    predicting_NRD = jnp.concatenate([first, hidden[:, P:-1]], axis=1)

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
