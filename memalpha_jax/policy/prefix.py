"""What the prompts of a batch have in common is run once, and short prompts are not run at full width.

    prompt of a row     | prefix, S0 tokens | like the first row of its group | its own |
    keys and values     | one copy          | one copy per group              | per row |

Everything else about a prompt is data, and shapes are not, so a few `Plan`s are compiled and each batch takes the
cheapest that it fits. Positions and tokens are those of whole prompts, and nothing but rounding can differ.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from memalpha_jax.errors import UserError
from memalpha_jax.policy.attention import Causal, Shared
from memalpha_jax.policy.buckets import widths
from memalpha_jax.policy.config import PolicyConfig
from memalpha_jax.policy.model import KVCache, Qwen3, SharedCache


@dataclasses.dataclass(frozen=True)
class PromptLayout:
    """What is known of a batch of prompts before it is seen.

    Attributes:
      prefix_tokens: S0, tokens that all prompts begin with, each being longer than that.
      group: G, so many neighbouring rows often begin alike; 1 if they do not. Must divide the rows (and those of
        each device, or groups would be torn apart).
      buckets: of so many prompt widths the smallest that holds the longest prompt is run; each is compiled.
    """

    prefix_tokens: int = 0
    group: int = 1
    buckets: int = 1

    def check(self, rows: int, prompt_slots: int) -> None:
        """UserError unless this can be true of prompts [rows, prompt_slots]."""
        if not 0 <= self.prefix_tokens < prompt_slots:
            raise UserError(f"a common prefix of {self.prefix_tokens} tokens does not fit prompts of {prompt_slots}")
        if self.group < 1 or rows % self.group:
            raise UserError(f"{rows} prompts do not divide into groups of {self.group}; change one of the two")
        if self.buckets < 1:
            raise UserError(f"prompts have {self.buckets} widths; there must be at least 1")


ALONE = PromptLayout()
"""Nothing is known."""


class Plan(NamedTuple):
    """Slots of a row's own part of its prompt and of the part run once per group; 0 if nothing is."""

    own: int
    lead: int


class Rest(NamedTuple):
    """Prompts behind the common prefix.

    Attributes:
      tokens_NP: int32. length_N: int32. active_N: bool, whether a row matters.
      alike_N: int32, how many tokens a row has in common with the first of its group, itself at most all but one.
    """

    tokens_NP: jax.Array
    length_N: jax.Array
    active_N: jax.Array
    alike_N: jax.Array


def rest_of(layout: PromptLayout, prompt_NP: jax.Array, length_N: jax.Array, active_N: jax.Array) -> Rest:
    """Cuts off the prefix and compares what is left within groups."""
    tokens_NP = prompt_NP[:, layout.prefix_tokens :]
    N, P = tokens_NP.shape
    length_N = jnp.clip(length_N - layout.prefix_tokens, 1, P)
    if layout.group == 1:
        return Rest(tokens_NP, length_N, active_N, jnp.zeros(N, jnp.int32))
    first_NP, first_len_N = (jnp.repeat(x[:: layout.group], layout.group, axis=0) for x in (tokens_NP, length_N))
    same_NP = (tokens_NP == first_NP) & (jnp.arange(P) < first_len_N[:, None])
    alike_N = jnp.cumprod(same_NP, axis=1, dtype=jnp.int32).sum(axis=1)
    return Rest(tokens_NP, length_N, active_N, jnp.minimum(alike_N, length_N - 1))  # the last one gives the logits


def make_plans(layout: PromptLayout, rows: int, slots: int) -> list[Plan]:
    """All plans for prompts with `slots` slots behind the prefix, cheapest first; the last fits every batch."""
    S0 = layout.prefix_tokens
    rests = sorted({width - S0 for width in widths(S0 + slots, layout.buckets) if width > S0})
    together = [Plan(own, lead) for lead in rests for own in (1, lead // 2) if own and layout.group > 1]

    def cost(plan: Plan) -> float:
        return rows * plan.own + rows / layout.group * plan.lead

    worthwhile = [plan for plan in together if cost(plan) < rows * slots]
    return sorted([*(Plan(rest, 0) for rest in rests), *worthwhile], key=cost)


def choose_plan(plans: Sequence[Plan], rest: Rest) -> jax.Array:
    """int32 index of the first plan that all active rows fit."""

    def longest(length_N: jax.Array) -> jax.Array:
        return jnp.max(jnp.where(rest.active_N, length_N, 0))

    whole, own = longest(rest.length_N), longest(rest.length_N - rest.alike_N)
    fits = [(whole <= plan.lead) & (own <= plan.own) if plan.lead else whole <= plan.own for plan in plans]
    return jnp.argmax(jnp.stack(fits)).astype(jnp.int32)


def run_once(
    config: PolicyConfig, params, tokens_MS: jax.Array, start: int, before: SharedCache, visible_N: jax.Array | None
) -> SharedCache:
    """Runs what rows share, from position `start`, and appends its keys and values to what is in front of it."""
    positions = range(start, start + tokens_MS.shape[1])
    cache: KVCache
    _, cache = Qwen3(config).apply({"params": params}, tokens_MS, positions, Causal(), shared=before, method="hidden")
    before = before or ((),) * len(cache)
    return tuple((*parts, Shared(kv.k_NKDS, kv.v_NKSD, visible_N)) for parts, kv in zip(before, cache, strict=True))


def own_part(plan: Plan, rest: Rest) -> tuple[jax.Array, jax.Array, jax.Array | int]:
    """Each row's own tokens [N, own], their number [N], and how many of `rest` come before them: [N], or 0 for all."""
    if not plan.lead:
        return rest.tokens_NP[:, : plan.own], jnp.minimum(rest.length_N, plan.own), 0
    before_N = jnp.minimum(rest.alike_N, plan.lead)  # only rows that do not matter can have more
    slot_NS = jnp.minimum(before_N[:, None] + jnp.arange(plan.own), rest.tokens_NP.shape[1] - 1)
    tokens_NS = jnp.take_along_axis(rest.tokens_NP, slot_NS, axis=1)
    return tokens_NS, jnp.clip(rest.length_N - before_N, 1, plan.own), before_N
