"""The items most like a chunk, on the device: BM25Okapi of each item with the passage it is most like.

Items are the documents; pairs of neighbouring tokens are the words.

Sorting the arena by (token, row) makes every term one group of neighbours and every posting one run within
it: document frequencies, term frequencies and the vocabulary's mean idf are then differences of positions.
That costs time in proportion to the arena. `similar_index.py` does the same on the host for memories that grow long.

What a term adds to a score is rounded to a multiple of 2**-14. Sums of such numbers are exact in any order (below
1024, which only a long passage of one rare term could exceed), so items that are equally like a passage are so to the
last bit, and both implementations break the tie alike.

Axes: I item rows, A arena tokens, C chunk (or query) tokens, W passages.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memalpha_jax.memory.retrieval import EPSILON, K1, B
from memalpha_jax.memory.state import MemoryState

TOKEN_BITS = 18  # of a hashed pair
SORT_KEYS = 2**32 - 1
NO_TOKEN = jnp.iinfo(jnp.int32).max
SHARES = 2**14
"""Shares of a score are multiples of 1 / SHARES."""
PASSAGE_TOKENS = 6
MOST_PASSAGES = 24


class Postings(NamedTuple):
    """The arena sorted by token: everything about a memory's terms that does not depend on the query."""

    token_A: jax.Array
    row_A: jax.Array
    run_A: jax.Array  # bool: first position of a term in an item
    term_start_A: jax.Array  # where the group of this position's term starts
    share_A: jax.Array  # at the start of a run: what the term, asked for once, adds to the item's score


def similar_items(state: MemoryState, chunk_C: jax.Array, chunk_len: jax.Array, k: int) -> jax.Array:
    """int32 [k]: rows of the items of both lists most like the chunk, best first, ties by row; then -1.

    An item's score is that for the passage it is most like. Items that are some passage's best come before all
    others: a chunk is about many things, and one of them must not take every place.
    """
    postings, items = build_postings(state), state.length_I.shape[0]
    passage_WC, length_W = passages(pairs(chunk_C, chunk_len), chunk_len)
    scores_WI = jax.vmap(lambda query, n: bm25_scores(postings, query, n, items))(passage_WC, length_W)
    # The first passage counts even when it is empty: an empty chunk scores 0 everywhere.
    real_W = (length_W > 0) | (jnp.arange(length_W.shape[0]) == 0)
    scores_WI = jnp.where(real_W[:, None] & state.alive_I, scores_WI, -jnp.inf)
    score_I, best_W = scores_WI.max(0), scores_WI.argmax(1)
    leads_I = jnp.zeros(items, bool).at[jnp.where(real_W, best_W, items)].set(True, mode="drop") & state.alive_I
    order_I = jnp.lexsort((-score_I, ~leads_I))[:k]
    row = jnp.where(state.alive_I[order_I], order_I, -1)
    return jnp.pad(row, (0, k - row.shape[0]), constant_values=-1)


def pairs(tokens: jax.Array, lengths: jax.Array) -> jax.Array:
    """int32: every token with its successor as one number below 2**18 (hashed); the last one with 0.

    Single tokens say little: the pieces of a name belong to many names, their sequence to one.

    Args:
      tokens: [C]. lengths: how many of them are real, or bool [C], True where a text ends.
    """
    last_C = jnp.arange(tokens.shape[0]) == lengths - 1 if jnp.ndim(lengths) == 0 else lengths
    return hash_pairs(tokens, jnp.where(last_C, 0, jnp.roll(tokens, -1)))


def hash_pairs(tokens, followers):
    """int32 below 2**18 of each token and the one after it; numpy arrays give a numpy array."""
    mixed = (tokens.astype(np.uint32) * np.uint32(0x9E3779B1)) ^ (followers.astype(np.uint32) * np.uint32(0x85EBCA77))
    return ((mixed ^ (mixed >> np.uint32(15))) * np.uint32(0xC2B2AE3D) >> np.uint32(32 - TOKEN_BITS)).astype(np.int32)


def passages(chunk_C: jax.Array, chunk_len: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Overlapping passages [W, size] of a chunk and their lengths: 6 tokens each, longer for long chunks.

    Each starts in the middle of the one before, so that a sentence of half a passage lies whole in one. They depend
    on the chunk alone, not on how far it is padded.
    """
    size = jnp.maximum(PASSAGE_TOKENS, 2 * -(-chunk_len // MOST_PASSAGES))
    widest = max(PASSAGE_TOKENS, 2 * -(-chunk_C.shape[0] // MOST_PASSAGES))
    start_W = jnp.arange(MOST_PASSAGES) * (size // 2)
    passage_WC = chunk_C.at[start_W[:, None] + jnp.arange(widest)].get(mode="fill", fill_value=0)
    return passage_WC, jnp.clip(chunk_len - start_W, 0, size)


def build_postings(state: MemoryState) -> Postings:
    """Sorts the arena; see `Postings`."""
    used, position_A = state.used, jnp.arange(state.arena_A.shape[0])
    token_A, row_A = _sorted_postings(state, pairs(state.arena_A, _item_ends(state)))
    term_A = (position_A < used) & ((position_A == 0) | (token_A != jnp.roll(token_A, 1)))
    run_A = term_A | ((position_A < used) & (row_A != jnp.roll(row_A, 1)))
    runs_before = jnp.append(jnp.cumsum(run_A) - run_A, run_A.sum())
    frequency_A = runs_before[_next(term_A)] - runs_before[:-1]
    tf_A = jnp.minimum(_next(run_A), used) - position_A
    length_I = state.length_I.astype(jnp.float32)
    norm_I = K1 * (1 - B + B * length_I * state.rows / jnp.maximum(used, 1))
    term_start_A = jax.lax.cummax(jnp.where(term_A, position_A, 0))
    weight_A = _idf(frequency_A, term_A, state.rows)[term_start_A]
    share_A = jnp.round(weight_A * (tf_A * (K1 + 1) / (tf_A + norm_I[row_A])) * SHARES) / SHARES
    return Postings(token_A, row_A, run_A, term_start_A, share_A)


def bm25_scores(postings: Postings, query_C: jax.Array, query_len: jax.Array, items: int) -> jax.Array:
    """float32 [I]: BM25Okapi score of each of `items` rows for the query's first `query_len` terms."""
    asked_A = _asked(postings.token_A, query_C, query_len)
    share_A = jnp.where(postings.run_A, asked_A[postings.term_start_A] * postings.share_A, 0.0)
    return jnp.zeros(items).at[postings.row_A].add(share_A, mode="drop")


def _item_ends(state: MemoryState) -> jax.Array:
    """bool [A]: True at the last token of every item."""
    end_I = jnp.where(state.alive_I, state.start_I + state.length_I - 1, state.arena_A.shape[0])
    return jnp.zeros(state.arena_A.shape[0], bool).at[end_I].set(True, mode="drop")


def _sorted_postings(state: MemoryState, term_A: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(term_A, row_A) of the arena's terms sorted by term, then row; unused positions come last."""
    size, items = state.arena_A.shape[0], state.length_I.shape[0]
    first = jnp.zeros(size, jnp.int32).at[state.start_I].add(state.alive_I, mode="drop")
    row_A = jnp.cumsum(first) - 1
    token_A = jnp.where(jnp.arange(size) < state.used, term_A, NO_TOKEN)
    if items << TOKEN_BITS > SORT_KEYS:
        token_A, row_A = jax.lax.sort((token_A, row_A), num_keys=2)
        return token_A, row_A
    # One 32-bit key sorts several times faster than two.
    key_A = term_A.astype(jnp.uint32) * items + row_A.astype(jnp.uint32)
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
