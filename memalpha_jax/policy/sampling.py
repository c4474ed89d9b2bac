"""How the next token is drawn: temperature, truncation, stop tokens, and an end forced upon long thinking."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from memalpha_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How replies are drawn. Everything after `eos_id` is off by default.

    Attributes:
      reply_tokens: R, most tokens of one reply, its end token included.
      temperature: of the softmax; 0 takes the most likely token (log-probs are then those at temperature 1), which
        no truncation can remove.
      eos_id: the token that ends a reply. stop_ids: others that end it too.
      top_k: only the k most likely tokens; 0 takes all.
      top_p: only the most likely tokens that together reach this probability; 1 takes all.
      min_p: only tokens at least this share as likely as the most likely one; 0 takes all.
      thinking_budget: a reply still thinking after so many tokens is made to stop (`think_end_ids`); 0 is no budget.
      think_start_id, think_end_id: the tokens between which a reply thinks. It starts out thinking where the last
        of the two in its prompt is the first.
      think_end_ids: what it is made to write then, `think_end_id` among it; () is `think_end_id` alone.

    Raises:
      UserError: a value out of range, or a budget that leaves no room for an answer.
    """

    reply_tokens: int
    temperature: float
    eos_id: int
    stop_ids: tuple[int, ...] = ()
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    thinking_budget: int = 0
    think_start_id: int = -1
    think_end_id: int = -1
    think_end_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, good, rule in (
            ("top_k", self.top_k >= 0, "at least 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p < 1, "at least 0 and below 1"),
            ("thinking_budget", self.thinking_budget >= 0, "at least 0"),
        ):
            if not good:
                raise UserError(f"{name} of the sampler is {getattr(self, name)}; it must be {rule}")
        if self.thinking_budget:
            self._check_thinking()

    def _check_thinking(self) -> None:
        if self.think_end_id < 0 or self.think_end_id not in self.forced_ids:
            raise UserError(
                "a thinking budget needs think_end_id, the token that ends thinking, and think_end_ids must hold it"
            )
        if self.thinking_budget + len(self.forced_ids) >= self.reply_tokens:
            raise UserError(
                f"thinking_budget is {self.thinking_budget} of reply_tokens, {self.reply_tokens}: with the "
                f"{len(self.forced_ids)} token(s) that end thinking no room is left for an answer; lower the budget"
            )

    @property
    def truncates(self) -> bool:
        """Whether some tokens can never be drawn."""
        return self.temperature > 0 and (self.top_k > 0 or self.top_p < 1 or self.min_p > 0)

    @property
    def forced_ids(self) -> tuple[int, ...]:
        """What a reply over its thinking budget is made to write."""
        return self.think_end_ids or (self.think_end_id,)


def may_be_drawn(logits_NV: jax.Array, sampling: SamplingConfig) -> jax.Array:
    """bool [N, V]: the tokens that truncation leaves.

    top-k, then top-p, then min-p, each on what the one before has left; a tie with the last token kept is kept.
    top-p is nucleus sampling (arXiv 1904.09751), min-p arXiv 2407.01082. The most likely token always stays.

    Logits are compared as they come: divided by the temperature once for a limit and once for the comparison, they may
    differ in the last bit.
    """
    highest_N1 = jnp.max(logits_NV, axis=-1, keepdims=True)
    least_N1 = jnp.full_like(highest_N1, -jnp.inf)
    if sampling.top_k or sampling.top_p < 1:
        # Sorting a whole vocabulary is slow, so top-p sorts what top-k has left.
        k = min(sampling.top_k or logits_NV.shape[-1], logits_NV.shape[-1])
        sorted_Nk, _ = jax.lax.top_k(logits_NV, k)
        least_N1 = sorted_Nk[:, -1:]
        if sampling.top_p < 1:  # otherwise rounding could cut off the last ones
            probs_Nk = jax.nn.softmax(sorted_Nk / sampling.temperature)
            before_Nk = jnp.cumsum(probs_Nk, axis=-1) - probs_Nk
            kept_Nk = (before_Nk < sampling.top_p) | (jnp.arange(k) == 0)
            least_N1 = jnp.min(jnp.where(kept_Nk, sorted_Nk, jnp.inf), axis=-1, keepdims=True)
    if sampling.min_p:
        least_N1 = jnp.maximum(least_N1, highest_N1 + sampling.temperature * jnp.log(sampling.min_p))
    return logits_NV >= least_N1


def draw(
    logits_NV: jax.Array, key_N: jax.Array, step: jax.Array | int, sampling: SamplingConfig
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws one token per row with that row's own key.

    Returns:
      token_N int32, and log-probs [N, V] of two distributions: the softmax at the temperature, which is what the
      training forward computes, and the truncated one that was drawn from; without truncation they are the same.
    """
    if sampling.temperature == 0.0:
        logprobs_NV = jax.nn.log_softmax(logits_NV)
        return first_of_highest(logits_NV), logprobs_NV, logprobs_NV
    logprobs_NV = jax.nn.log_softmax(logits_NV / sampling.temperature)
    drawn_from_NV = logprobs_NV
    if sampling.truncates:
        drawn_from_NV = jax.nn.log_softmax(jnp.where(may_be_drawn(logits_NV, sampling), logprobs_NV, -jnp.inf))
    fold = jax.vmap(jax.random.fold_in, (0, None))
    gumbel_NV = jax.vmap(lambda key: jax.random.gumbel(key, drawn_from_NV.shape[1:]))(fold(key_N, step))
    return first_of_highest(gumbel_NV + drawn_from_NV), logprobs_NV, drawn_from_NV  # as `jax.random.categorical`


def first_of_highest(x_NV: jax.Array) -> jax.Array:
    """int32 [N]: argmax of finite numbers (and of -inf), for which XLA on a CPU has no vector code.

    A row that holds NaN gives its last place.
    """
    V = x_NV.shape[-1]
    place_NV = jnp.where(x_NV == jnp.max(x_NV, axis=-1, keepdims=True), jnp.arange(V), V - 1)
    return jnp.min(place_NV, axis=-1).astype(jnp.int32)


def open_thinking(prompt_NP: jax.Array, length_N: jax.Array, sampling: SamplingConfig) -> jax.Array:
    """bool [N]: whether a prompt ends inside thinking."""
    slot_P = jnp.arange(prompt_NP.shape[1])

    def last(token: int) -> jax.Array:
        found_NP = (prompt_NP == token) & (slot_P < length_N[:, None])
        return jnp.max(jnp.where(found_NP, slot_P, -1), axis=1)

    return last(sampling.think_start_id) > last(sampling.think_end_id)


def force_end(
    token_N: jax.Array, thinking_N: jax.Array, forced_N: jax.Array, step: jax.Array | int, sampling: SamplingConfig
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Keeps replies to their thinking budget.

    Args:
      token_N: what was drawn. thinking_N: bool, whether the reply is thinking. forced_N: int32, how many of
        `forced_ids` the reply has just been made to write, 0 when it writes freely. step: tokens written so far.

    Returns:
      the token to write, bool [N] whether it is a forced one, and the new thinking_N and forced_N.
    """
    ids = jnp.asarray(sampling.forced_ids, jnp.int32)
    is_forced_N = (forced_N > 0) | (thinking_N & (step >= sampling.thinking_budget))
    token_N = jnp.where(is_forced_N, ids[forced_N], token_N)
    forced_N = jnp.where(is_forced_N, (forced_N + 1) % len(sampling.forced_ids), 0)
    thinking_N = (thinking_N | (token_N == sampling.think_start_id)) & (token_N != sampling.think_end_id)
    return token_N, is_forced_N, thinking_N, forced_N
