"""Prefill and decode: replies of N prompts in one jitted loop, with the log-probability of every sampled token.

Prompts are right-padded to P slots and replies take the R slots after them, so every row writes the same slot at the
same time and a row's padding is simply never looked at. `logprobs.py` scores the same tokens, each
reply right behind its prompt.
"""

from __future__ import annotations

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from memalpha_jax.policy.attention import Causal
from memalpha_jax.policy.config import PolicyConfig
from memalpha_jax.policy.model import KVCache, LayerCache, Qwen3


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How replies are drawn.

    Attributes:
      reply_tokens: R, most tokens of one reply, its end token included.
      temperature: of the softmax; 0 takes the most likely token (log-probs are then those at temperature 1).
      eos_id: the token that ends a reply.
    """

    reply_tokens: int
    temperature: float
    eos_id: int


@flax.struct.dataclass
class Replies:
    """tokens_NR int32 (0 beyond the length), logprobs_NR float32 (0 beyond), length_N int32, finished_N bool.

    `finished_N` is False where R ran out before the end token.
    """

    tokens_NR: jax.Array
    logprobs_NR: jax.Array
    length_N: jax.Array
    finished_N: jax.Array


def prefill(config: PolicyConfig, params, prompt_NP: jax.Array, length_N: jax.Array, extra_slots: int):
    """Runs the prompts; returns next-token logits [N, V] and a cache with room for `extra_slots` more tokens."""
    model = Qwen3(config)
    positions = jnp.broadcast_to(jnp.arange(prompt_NP.shape[1]), prompt_NP.shape)
    hidden, cache = model.apply({"params": params}, prompt_NP, positions, Causal(), method="hidden")
    last_ND = jnp.take_along_axis(hidden, (length_N - 1)[:, None, None], axis=1)[:, 0]
    grown = tuple(
        LayerCache(
            jnp.pad(kv.k_NKDS, ((0, 0), (0, 0), (0, 0), (0, extra_slots))),
            jnp.pad(kv.v_NKSD, ((0, 0), (0, 0), (0, extra_slots), (0, 0))),
        )
        for kv in cache
    )
    return model.apply({"params": params}, last_ND, method="logits"), grown


def decode_step(config: PolicyConfig, params, token_N, cache: KVCache, length_N, step, prompt_slots: int):
    """One token for all rows: writes slot P + step, returns next logits [N, V] and the cache."""
    model = Qwen3(config)
    slots_S = jnp.arange(cache[0].k_NKDS.shape[3])
    in_prompt = slots_S < length_N[:, None]
    in_reply = (slots_S >= prompt_slots) & (slots_S <= prompt_slots + step)
    mask_N1S = (in_prompt | in_reply)[:, None, :]
    hidden, cache = model.apply(
        {"params": params},
        token_N[:, None],
        (length_N + step)[:, None],
        mask_N1S,
        cache,
        prompt_slots + step,
        method="hidden",
    )
    return model.apply({"params": params}, hidden[:, 0], method="logits"), cache


def sample_token(logits_NV: jax.Array, key_N: jax.Array, step, temperature: float):
    """Draws one token per row with that row's own key; returns (token_N, logprob_N)."""
    if temperature == 0.0:
        token_N = jnp.argmax(logits_NV, axis=-1)
        logprobs = jax.nn.log_softmax(logits_NV)
    else:
        logprobs = jax.nn.log_softmax(logits_NV / temperature)
        fold = jax.vmap(jax.random.fold_in, (0, None))
        token_N = jax.vmap(jax.random.categorical)(fold(key_N, step), logprobs)
    return token_N.astype(jnp.int32), jnp.take_along_axis(logprobs, token_N[:, None], axis=1)[:, 0]


def generate(
    config: PolicyConfig,
    params,
    prompt_NP: jax.Array,
    length_N: jax.Array,
    key_N: jax.Array,
    active_N: jax.Array,
    sampling: SamplingConfig,
) -> Replies:
    """Replies to N right-padded prompts.

    Args:
      prompt_NP: int32; length_N: int32 true lengths.
      key_N: one PRNG key per row, so that a reply does not depend on what else is in the batch.
      active_N: bool; inactive rows (a trajectory whose episode has ended) give empty replies.
      sampling: see `SamplingConfig`.
    """
    N, P = prompt_NP.shape
    R = sampling.reply_tokens
    logits, cache = prefill(config, params, prompt_NP, length_N, R)

    def unfinished(state):
        step, *_, done_N = state
        return (step < R) & ~jnp.all(done_N)

    def advance(state):
        step, logits, cache, tokens_NR, logprobs_NR, reply_N, done_N = state
        token_N, logprob_N = sample_token(logits, key_N, step, sampling.temperature)
        token_N, logprob_N = jnp.where(done_N, 0, token_N), jnp.where(done_N, 0.0, logprob_N)
        tokens_NR = jax.lax.dynamic_update_slice_in_dim(tokens_NR, token_N[:, None], step, 1)
        logprobs_NR = jax.lax.dynamic_update_slice_in_dim(logprobs_NR, logprob_N[:, None], step, 1)
        reply_N = reply_N + ~done_N
        done_N = done_N | (token_N == sampling.eos_id)
        logits, cache = decode_step(config, params, token_N, cache, length_N, step, P)
        return step + 1, logits, cache, tokens_NR, logprobs_NR, reply_N, done_N

    empty = (jnp.zeros((N, R), jnp.int32), jnp.zeros((N, R), jnp.float32), jnp.zeros((N,), jnp.int32))
    state = jax.lax.while_loop(unfinished, advance, (jnp.int32(0), logits, cache, *empty, ~active_N))
    _, _, _, tokens_NR, logprobs_NR, reply_N, done_N = state
    return Replies(tokens_NR, logprobs_NR, reply_N, done_N)
