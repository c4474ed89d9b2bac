"""Prefill and decode: replies of N prompts in one jitted loop, with the log-probability of every sampled token.

Prompts are right-padded to P slots and replies take the R slots after them, so every row writes the same slot at the
same time and a row's padding is simply never looked at. What prompts have in common is run once (`prefix.py`).
`logprobs.py` scores the same tokens, each reply right behind its prompt.
"""

from __future__ import annotations

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp

from memalpha_jax.errors import UserError
from memalpha_jax.policy.attention import Causal
from memalpha_jax.policy.config import PolicyConfig
from memalpha_jax.policy.model import KVCache, LayerCache, Qwen3, SharedCache, cast
from memalpha_jax.policy.prefix import (
    ALONE,
    Plan,
    PromptLayout,
    Rest,
    choose_plan,
    make_plans,
    own_part,
    rest_of,
    run_once,
)
from memalpha_jax.policy.sampling import SamplingConfig, draw, force_end, open_thinking


@flax.struct.dataclass
class Replies:
    """N replies, each field 0 (False) beyond a reply's length.

    Attributes:
      tokens_NR: int32.
      logprobs_NR: float32, under the whole softmax at the temperature: what `reply_logprobs` computes, so that the
        ratio of the same weights is 1, which it would not be to the truncated distribution.
      length_N: int32, end token included. finished_N: bool, False where R ran out before an end token.
      sampling_logprobs_NR: float32, under the truncated distribution that tokens were drawn from; 0 where forced.
        Without truncation and thinking budget they are `logprobs_NR`.
      forced_NR: bool, written not by choice but by the end of the thinking budget.
    """

    tokens_NR: jax.Array
    logprobs_NR: jax.Array
    length_N: jax.Array
    finished_N: jax.Array
    sampling_logprobs_NR: jax.Array
    forced_NR: jax.Array


def prefill(
    config: PolicyConfig,
    params,
    prompt_NP: jax.Array,
    length_N: jax.Array,
    extra_slots: int,
    start_N: jax.Array | int = 0,
    shared: SharedCache = (),
) -> tuple[jax.Array, KVCache]:
    """Runs the prompts; returns next-token logits [N, V] and a cache with room for `extra_slots` more tokens.

    `start_N` and `shared`: how many tokens come before each prompt, and their keys and values.
    """
    model = Qwen3(config)
    P = prompt_NP.shape[1]
    positions = range(start_N, start_N + P) if isinstance(start_N, int) else start_N[:, None] + jnp.arange(P)
    last_N1 = (length_N - 1)[:, None]
    hidden, cache = model.apply(
        {"params": params}, prompt_NP, positions, Causal(), shared=shared, read_NR=last_N1, method="hidden"
    )
    grown = tuple(
        LayerCache(
            jnp.pad(kv.k_NKDS, ((0, 0), (0, 0), (0, 0), (0, extra_slots))),
            jnp.pad(kv.v_NKSD, ((0, 0), (0, 0), (0, extra_slots), (0, 0))),
        )
        for kv in cache
    )
    return model.apply({"params": params}, hidden[:, 0], method="logits"), grown


def decode_step(
    config: PolicyConfig,
    params,
    token_N: jax.Array,
    cache: KVCache,
    length_N: jax.Array,
    step: jax.Array | int,
    prompt_slots: int,
    start_N: jax.Array | int = 0,
    shared: SharedCache = (),
) -> tuple[jax.Array, KVCache]:
    """One token for all rows: writes slot P + step, returns next logits [N, V] and the cache."""
    model = Qwen3(config)
    slots_S = jnp.arange(cache[0].k_NKDS.shape[3])
    in_prompt = slots_S < length_N[:, None]
    in_reply = (slots_S >= prompt_slots) & (slots_S <= prompt_slots + step)
    hidden, cache = model.apply(
        {"params": params},
        token_N[:, None],
        (start_N + length_N + step)[:, None],
        (in_prompt | in_reply)[:, None, :],
        cache,
        prompt_slots + step,
        shared,
        method="hidden",
    )
    return model.apply({"params": params}, hidden[:, 0], method="logits"), cache


def check_positions(config: PolicyConfig, prompt_tokens: int, reply_tokens: int) -> None:
    """UserError where prompt and reply can be longer than the context of the policy."""
    if 0 < config.max_positions < prompt_tokens + reply_tokens:
        raise UserError(
            f"a prompt of {prompt_tokens} tokens and a reply of {reply_tokens} are longer than the policy's context, "
            f"policy.max_positions={config.max_positions}: lower rollout.prompt_tokens or rollout.reply_tokens"
        )


def generate(
    config: PolicyConfig,
    params,
    prompt_NP: jax.Array,
    length_N: jax.Array,
    key_N: jax.Array,
    active_N: jax.Array,
    sampling: SamplingConfig,
    layout: PromptLayout = ALONE,
) -> Replies:
    """Replies to N right-padded prompts.

    Args:
      prompt_NP: int32; length_N: int32 true lengths.
      key_N: one PRNG key per row, so that a reply does not depend on what else is in the batch.
      active_N: bool; inactive rows (a trajectory whose episode has ended) give empty replies.
      sampling: see `SamplingConfig`. layout: what the prompts have in common; no reply depends on it.

    Raises:
      UserError: prompt and reply do not fit the context, or the layout cannot be that of these prompts.
    """
    N, P = prompt_NP.shape
    check_positions(config, P, sampling.reply_tokens)
    layout.check(N, P)
    params = cast(params, config.dtype)
    shared: SharedCache = ()
    if S0 := layout.prefix_tokens:
        shared = run_once(config, params, prompt_NP[:1, :S0], 0, (), None)
    rest = rest_of(layout, prompt_NP, length_N, active_N)
    thinking_N = open_thinking(prompt_NP, length_N, sampling) if sampling.thinking_budget else None
    written = _nothing_written(N, sampling, active_N, thinking_N)

    def by(plan: Plan, *arrays) -> _Written:
        return _write_replies(config, sampling, layout, plan, *arrays)

    plans = make_plans(layout, N, P - S0)
    arguments = params, shared, rest, key_N, written
    if len(plans) == 1:
        written = by(plans[0], *arguments)
    else:
        written = jax.lax.switch(choose_plan(plans, rest), [functools.partial(by, plan) for plan in plans], *arguments)
    return _replies(written)


@flax.struct.dataclass
class _Written:
    """Replies so far; the last four fields are None where `SamplingConfig` has no use for them.

    token_N int32 is the last token of each; thinking_N and ending_N are the state of `force_end`.
    """

    token_N: jax.Array
    tokens_NR: jax.Array
    logprobs_NR: jax.Array
    length_N: jax.Array
    done_N: jax.Array
    sampling_logprobs_NR: jax.Array | None
    forced_NR: jax.Array | None
    thinking_N: jax.Array | None
    ending_N: jax.Array | None


def _nothing_written(N: int, sampling: SamplingConfig, active_N: jax.Array, thinking_N: jax.Array | None) -> _Written:
    R, budget = sampling.reply_tokens, sampling.thinking_budget
    return _Written(
        token_N=jnp.zeros(N, jnp.int32),
        tokens_NR=jnp.zeros((N, R), jnp.int32),
        logprobs_NR=jnp.zeros((N, R), jnp.float32),
        length_N=jnp.zeros(N, jnp.int32),
        done_N=~active_N,
        sampling_logprobs_NR=jnp.zeros((N, R), jnp.float32) if budget or sampling.truncates else None,
        forced_NR=jnp.zeros((N, R), bool) if budget else None,
        thinking_N=thinking_N,
        ending_N=jnp.zeros(N, jnp.int32) if budget else None,
    )


def _write_replies(
    config: PolicyConfig,
    sampling: SamplingConfig,
    layout: PromptLayout,
    plan: Plan,
    params,
    shared: SharedCache,
    rest: Rest,
    key_N: jax.Array,
    written: _Written,
) -> _Written:
    """Prefill and decode as one plan has it."""
    tokens_NS, length_N, before_N = own_part(plan, rest)
    start_N = before_N + layout.prefix_tokens
    if plan.lead:
        lead_MS = rest.tokens_NP[:: layout.group, : plan.lead]
        shared = run_once(config, params, lead_MS, layout.prefix_tokens, shared, before_N)
    logits, cache = prefill(config, params, tokens_NS, length_N, sampling.reply_tokens, start_N, shared)

    def unfinished(state) -> jax.Array:
        step, _, written = state
        return (step < sampling.reply_tokens) & ~jnp.all(written.done_N)

    def advance(state):
        step, cache, written = state
        logits, cache = decode_step(
            config, params, written.token_N, cache, length_N, step - 1, plan.own, start_N, shared
        )
        return step + 1, cache, _write(written, logits, key_N, step, sampling)

    state = (jnp.int32(1), cache, _write(written, logits, key_N, 0, sampling))
    return jax.lax.while_loop(unfinished, advance, state)[2]


def _write(
    w: _Written, logits_NV: jax.Array, key_N: jax.Array, step: jax.Array | int, sampling: SamplingConfig
) -> _Written:
    """Draws token number `step` of every reply that goes on."""
    token_N, logprobs_NV, drawn_from_NV = draw(logits_NV, key_N, step, sampling)
    forced_N, optional = jnp.zeros_like(w.done_N), {}

    def put(x_NR: jax.Array, x_N: jax.Array) -> jax.Array:
        x_N = jnp.where(w.done_N, jnp.zeros_like(x_N), x_N)
        return jax.lax.dynamic_update_slice_in_dim(x_NR, x_N[:, None], step, 1)

    def of_token(x_NV: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x_NV, token_N[:, None], axis=1)[:, 0]

    if w.forced_NR is not None:
        token_N, forced_N, thinking_N, ending_N = force_end(token_N, w.thinking_N, w.ending_N, step, sampling)
        optional = {"forced_NR": put(w.forced_NR, forced_N), "thinking_N": thinking_N, "ending_N": ending_N}
    if w.sampling_logprobs_NR is not None:
        drawn_N = jnp.where(forced_N, 0.0, of_token(drawn_from_NV))
        optional["sampling_logprobs_NR"] = put(w.sampling_logprobs_NR, drawn_N)
    ends_N = functools.reduce(jnp.logical_or, (token_N == i for i in (sampling.eos_id, *sampling.stop_ids)))
    return dataclasses.replace(
        w,
        token_N=jnp.where(w.done_N, 0, token_N),
        tokens_NR=put(w.tokens_NR, token_N),
        logprobs_NR=put(w.logprobs_NR, of_token(logprobs_NV)),
        length_N=w.length_N + ~w.done_N,
        done_N=w.done_N | ends_N,
        **optional,
    )


def _replies(w: _Written) -> Replies:
    return Replies(
        w.tokens_NR,
        w.logprobs_NR,
        w.length_N,
        w.done_N,
        w.logprobs_NR if w.sampling_logprobs_NR is None else w.sampling_logprobs_NR,
        jnp.zeros_like(w.tokens_NR, bool) if w.forced_NR is None else w.forced_NR,
    )
