"""One gather that concatenates stretches of a token pool: what compaction and rendering come down to."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def concatenate_segments(pool_P: jax.Array, start_S: jax.Array, length_S: jax.Array, size: int) -> jax.Array:
    """Lays `pool[start_s : start_s + length_s]` for s = 0, 1, .. end to end.

    Every output position reads the pool at its own index plus a shift that is constant within a segment.
    The shift is the running sum of its changes at segment starts, so one small scatter, one cumsum and one
    gather do everything, and empty segments need no care (their changes add up at the same place).

    Args:
      pool_P: int32. start_S, length_S: int32, lengths >= 0. size: output length.
    Returns:
      int32 [size], padded with 0, or cut at `size` if the segments are longer than that.
    """
    end_S = jnp.cumsum(length_S)
    shift_S = start_S - (end_S - length_S)
    change_S = jnp.diff(shift_S, prepend=jnp.zeros(1, shift_S.dtype))
    change = jnp.zeros(size, shift_S.dtype).at[end_S - length_S].add(change_S, mode="drop")
    position = jnp.arange(size)
    tokens = pool_P.at[position + jnp.cumsum(change)].get(mode="fill", fill_value=0)
    return jnp.where(position < end_S[-1], tokens, 0)
