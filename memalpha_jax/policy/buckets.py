"""Rows of like length together, each block of them only as wide as it has to be, and all of it inside one jit.

Axes: X blocks, M rows of a block.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

Rows = TypeVar("Rows")
STEP = 128
"""Fused attention kernels take whole blocks of so many tokens."""


def widths(slots: int, buckets: int) -> tuple[int, ...]:
    """`buckets` widths in equal steps up to `slots`; whole blocks of `STEP` where rows are long enough for that."""
    step = STEP if slots >= STEP * buckets else 1
    return tuple(min(-(-slots * (i + 1) // (buckets * step)) * step, slots) for i in range(buckets))


def sorted_by_length(blocks: Rows, tokens_XM: jax.Array) -> Rows:
    """A pytree of [X, M, ...] with the rows in the order of their lengths, over all blocks."""
    order = jnp.argsort(tokens_XM.reshape(-1))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[order].reshape(x.shape), blocks)


def sum_over_blocks(
    function: Callable[[Any, int], Any], blocks: Any, tokens_XM: jax.Array, slots: Sequence[int]
) -> Any:
    """The sum of `function(block, width)` over blocks, by a scan; width is the least of `slots` that holds its rows.

    Args:
      function: gives a pytree of arrays, of the same shapes for every width; compiled once per width.
      blocks: pytree of [X, M, ...]. tokens_XM: int32 lengths; a block whose lengths are all 0 is left out.
    """
    first = jax.tree.map(lambda x: x[0], blocks)
    shapes = jax.eval_shape(lambda: function(first, slots[-1]))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    branches = [lambda block: zeros, *(functools.partial(_call, function, width) for width in slots)]

    def add(total: Any, block_and_tokens: Any) -> tuple[Any, None]:
        block, tokens_M = block_and_tokens
        return jax.tree.map(jnp.add, total, jax.lax.switch(_bucket(tokens_M, slots), branches, block)), None

    return jax.lax.scan(add, zeros, (blocks, tokens_XM))[0]


def padding(tokens_XM: jax.Array, slots: Sequence[int]) -> jax.Array:
    """Share of the slots that `sum_over_blocks` computes which hold no token, float32; arguments as there."""
    width_X = jnp.asarray((0, *slots))[_bucket(tokens_XM, slots)]
    return 1 - jnp.sum(tokens_XM) / jnp.maximum(jnp.sum(width_X) * tokens_XM.shape[1], 1)


def _bucket(tokens_M: jax.Array, slots: Sequence[int]) -> jax.Array:
    """int32: 1 + the place of the least width that holds the last axis, 0 where there is nothing to hold."""
    return jnp.searchsorted(jnp.asarray((0, *slots)), jnp.max(tokens_M, axis=-1))


def _call(function: Callable[[Any, int], Any], width: int, block: Any) -> Any:
    return function(block, width)
