"""The items most like a chunk, on the device: exact BM25Okapi with items for documents and tokens for words.

Sorting the arena by (token, row) makes every term one group of neighbours and every posting one run within
it: document frequencies, term frequencies and the vocabulary's mean idf are then differences of positions.

Axes: I item rows, A arena tokens, C chunk tokens.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from memalpha_jax.memory.retrieval import EPSILON, K1, B
from memalpha_jax.memory.state import MemoryState

TOKEN_BITS = 18  # ids of every vocabulary in use are below 2**18
NO_TOKEN = jnp.iinfo(jnp.int32).max


def similar_items(state: MemoryState, chunk_C: jax.Array, chunk_len: jax.Array, k: int) -> jax.Array:
    """int32 [k]: rows of the highest scoring items of both lists, best first, ties by row; then -1."""
    score_I = jnp.where(state.alive_I, similarity(state, chunk_C, chunk_len), -jnp.inf)
    best, row = jax.lax.top_k(score_I, min(k, score_I.shape[0]))
    return jnp.pad(jnp.where(best > -jnp.inf, row, -1), (0, k - row.shape[0]), constant_values=-1)


def similarity(state: MemoryState, chunk_C: jax.Array, chunk_len: jax.Array) -> jax.Array:
    """float32 [I]: BM25Okapi score of each item for the chunk's first `chunk_len` tokens; token ids below
    2**18."""
    used, position_A = state.used, jnp.arange(state.arena_A.shape[0])
    token_A, row_A = _sorted_postings(state)
    term_A = (position_A < used) & ((position_A == 0) | (token_A != jnp.roll(token_A, 1)))
    run_A = term_A | ((position_A < used) & (row_A != jnp.roll(row_A, 1)))

    runs_before = jnp.append(jnp.cumsum(run_A) - run_A, run_A.sum())
    frequency_A = runs_before[_next(term_A)] - runs_before[:-1]
    weight_A = _asked(token_A, chunk_C, chunk_len) * _idf(frequency_A, term_A, state.rows)

    term_start_A = jax.lax.cummax(jnp.where(term_A, position_A, 0))
    tf_A = jnp.minimum(_next(run_A), used) - position_A
    length_I = state.length_I.astype(jnp.float32)
    norm_I = K1 * (1 - B + B * length_I * state.rows / jnp.maximum(used, 1))
    share_A = weight_A[term_start_A] * tf_A * (K1 + 1) / (tf_A + norm_I[row_A])
    return jnp.zeros(length_I.shape[0]).at[row_A].add(jnp.where(run_A, share_A, 0.0), mode="drop")


def _sorted_postings(state: MemoryState) -> tuple[jax.Array, jax.Array]:
    """(token_A, row_A) of the arena's tokens sorted by token, then row; unused positions come last."""
    size, items = state.arena_A.shape[0], state.length_I.shape[0]
    first = jnp.zeros(size, jnp.int32).at[state.start_I].add(state.alive_I, mode="drop")
    row_A = jnp.cumsum(first) - 1
    token_A = jnp.where(jnp.arange(size) < state.used, state.arena_A, NO_TOKEN)
    if items << TOKEN_BITS > 2**32 - 1:
        token_A, row_A = jax.lax.sort((token_A, row_A), num_keys=2)
        return token_A, row_A
    # One 32-bit key sorts several times faster than two.
    key_A = state.arena_A.astype(jnp.uint32) * items + row_A.astype(jnp.uint32)
    key_A = jnp.sort(jnp.where(jnp.arange(size) < state.used, key_A, jnp.uint32(2**32 - 1)))
    token_A = jnp.where(jnp.arange(size) < state.used, key_A // items, NO_TOKEN).astype(jnp.int32)
    return token_A, (key_A % items).astype(jnp.int32)


def _next(mark_A: jax.Array) -> jax.Array:
    """int32 [A]: the nearest marked position after each position, A if there is none."""
    size = mark_A.shape[0]
    at_or_after = jax.lax.cummin(jnp.where(mark_A, jnp.arange(size), size), reverse=True)
    return jnp.append(at_or_after[1:], size)


def _asked(token_A: jax.Array, chunk_C: jax.Array, chunk_len: jax.Array) -> jax.Array:
    """float32 [A]: at the start of a term's group, how often the chunk holds the term; elsewhere 0."""
    start_C = jnp.searchsorted(token_A, chunk_C)
    found_C = token_A.at[start_C].get(mode="fill", fill_value=NO_TOKEN) == chunk_C
    found_C &= jnp.arange(chunk_C.shape[0]) < chunk_len
    return jnp.zeros(token_A.shape[0]).at[start_C].add(found_C, mode="drop")


def _idf(frequency_A: jax.Array, term_A: jax.Array, rows: jax.Array) -> jax.Array:
    """float32 [A]: a term's idf at the start of its group; where negative, epsilon times the mean."""
    frequency_A = jnp.where(term_A, frequency_A, 0)
    idf_A = jnp.log(rows - frequency_A + 0.5) - jnp.log(frequency_A + 0.5)
    mean = jnp.where(term_A, idf_A, 0.0).sum() / jnp.maximum(term_A.sum(), 1)
    return jnp.where(2 * frequency_A > rows, EPSILON * mean, idf_A)
