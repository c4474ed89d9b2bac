"""One gather that concatenates stretches of a token pool: what compaction and rendering come down to."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def concatenate_segments(
    pool_P: jax.Array, start_S: jax.Array, length_S: jax.Array, size: int, most_changes: int | None = None
) -> jax.Array:
    """Lays `pool[start_s : start_s + length_s]` for s = 0, 1, .. end to end.

    Every output position reads the pool at its own index plus a shift that is constant within a segment.
    The shift is the running sum of its changes at segment starts, so one small scatter, one cumsum and one
    gather do everything, and empty segments need no care (their changes add up at the same place).

    A running sum over a long output takes most of the time. Where a caller knows that the shift changes at few places
    only, each position adds up the changes before it.

    Args:
      pool_P: int32. start_S, length_S: int32, lengths >= 0. size: output length.
      most_changes: at how many segments at most the shift differs from that of the segment before (from 0 at the
        first); None where that is not known.
    Returns:
      int32 [size], padded with 0, or cut at `size` if the segments are longer than that.
    """
    end_S = jnp.cumsum(length_S)
    shift_S = start_S - (end_S - length_S)
    change_S = jnp.diff(shift_S, prepend=jnp.zeros(1, shift_S.dtype))
    position = jnp.arange(size)
    if most_changes is None:
        shift = jnp.cumsum(jnp.zeros(size, shift_S.dtype).at[end_S - length_S].add(change_S, mode="drop"))
    else:
        (changed,) = jnp.nonzero(change_S, size=most_changes, fill_value=len(change_S))
        place = (end_S - length_S).at[changed].get(mode="fill", fill_value=size)
        change = change_S.at[changed].get(mode="fill", fill_value=0)
        # Unrolled, all of this is one pass over the output.
        shift = sum(jnp.where(position >= place[i], change[i], 0) for i in range(most_changes))
    tokens = pool_P.at[position + shift].get(mode="fill", fill_value=0)
    return jnp.where(position < end_S[-1], tokens, 0)
