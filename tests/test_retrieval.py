"""BM25 on the host and on the device against the rank_bm25 library."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_bm25 import BM25Okapi

from memalpha_jax.memory import similar
from memalpha_jax.memory.retrieval import Bm25Index, bm25_rank, words
from memalpha_jax.memory.similar import SHARES, bm25_scores, build_postings, pairs, similar_items
from memalpha_jax.memory.state import MemoryConfig, MemoryState, empty_memory

TEXTS = st.lists(st.text("abcde .é'_-7", max_size=30), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.text("ABcdef é.7", max_size=20))
def test_scores_equal_rank_bm25(items, query):
    if not any(words(item) for item in items):
        return  # rank_bm25 divides by zero
    expected = BM25Okapi([words(item) for item in items]).get_scores(words(query))
    np.testing.assert_allclose(Bm25Index(items).scores(query), expected, rtol=0, atol=1e-9)


def test_a_term_in_most_items_gets_epsilon_times_the_mean_idf():
    items = ["the cat", "the dog", "the cow and the hen", "rain"]
    expected = BM25Okapi([words(item) for item in items])
    assert expected.idf["the"] == 0.25 * expected.average_idf  # the case this test is about
    np.testing.assert_allclose(
        Bm25Index(items).scores("the the hen"), expected.get_scores(["the", "the", "hen"]), atol=1e-12
    )


def test_rank_breaks_ties_by_position_and_stops_at_k():
    items = ["red fox", "blue fox", "red hen", "grey owl", "red fox"]
    assert bm25_rank(items, "red fox", 3) == [0, 4, 1]
    assert bm25_rank(items, "zebra", 3) == [0, 1, 2]
    assert bm25_rank(items, "red", 99) == [0, 2, 4, 1, 3]
    assert bm25_rank(items, "red", 0) == []


def test_a_query_without_words_gets_the_most_recent_items():
    assert bm25_rank(["a", "b", "c"], "?! ...", 2) == [2, 1]


@pytest.mark.parametrize("items", [[], ["..."], ["", "!"]])
def test_items_without_words_are_no_error(items):
    assert bm25_rank(items, "anything", 5) == list(range(len(items)))


def build_states(documents_N: list[list[list[int]]], config: MemoryConfig) -> MemoryState:
    """A batch of memories that hold the given token lists, in that order."""
    states = jax.tree.map(np.array, empty_memory(config, (len(documents_N),)))
    for n, documents in enumerate(documents_N):
        flat = [token for document in documents for token in document]
        states.arena_A[n, : len(flat)] = flat
        states.length_I[n, : len(documents)] = [len(document) for document in documents]
        states.type_I[n, : len(documents)] = [1 + i % 2 for i in range(len(documents))]
    return jax.tree.map(jnp.asarray, states)


def random_case(rng: np.random.Generator) -> tuple[list[list[int]], list[int]]:
    vocab = int(rng.choice([3, 12, 200_000]))  # small ones give terms in most documents, hence negative idf

    def tokens(most: int) -> list[int]:
        return rng.integers(1, vocab + 1, rng.integers(1, most)).tolist()

    documents = [tokens(12) for _ in range(rng.integers(1, 17))]
    query = tokens(20) + documents[rng.integers(len(documents))][:3]
    return documents, query


def terms(tokens: list[int]) -> list[str]:
    """Neighbouring tokens as words, for rank_bm25."""
    return [f"{one}-{other}" for one, other in zip(tokens, [*tokens[1:], 0], strict=True)]


def make_batch(rng: np.random.Generator, count: int, width: int):
    cases = [random_case(rng) for _ in range(count)]
    states = build_states([documents for documents, _ in cases], MemoryConfig(items=16, arena_tokens=180))
    query_len = np.array([len(query) for _, query in cases])
    query_NC = np.array([query + rng.integers(1, 5, width - len(query)).tolist() for _, query in cases])
    return cases, states, query_NC, query_len


def test_scores_on_the_device_equal_rank_bm25_over_pairs_of_tokens():
    cases, states, query_NC, query_len = make_batch(np.random.default_rng(0), 300, 24)

    def scores(state, query_C, length):
        return bm25_scores(build_postings(state), pairs(query_C, length), length, 16)

    scores_NI = np.asarray(jax.jit(jax.vmap(scores))(states, query_NC, query_len))
    for (documents, query), found in zip(cases, scores_NI, strict=True):
        expected = BM25Okapi([terms(document) for document in documents]).get_scores(terms(query))
        # Every share of a score is rounded to a multiple of 1 / SHARES.
        np.testing.assert_allclose(found[: len(documents)], expected, atol=len(query) / 2 / SHARES + 1e-4, rtol=1e-5)


def best_rows(documents: list[list[int]], query: list[int], k: int) -> list[int]:
    """`similar_items` as a loop: passages of 6 terms, 3 apart; each one's best item before all others."""
    words = terms(query)
    index = BM25Okapi([terms(document) for document in documents])
    parts = [index.get_scores(words[at : at + 6]) for at in range(0, max(1, len(words)), 3)]
    leads = {int(np.argmax(part)) for part in parts}
    score = np.max(parts, axis=0)
    return sorted(range(len(documents)), key=lambda row: (row not in leads, -score[row], row))[:k]


@pytest.mark.parametrize("sort_bits", [2**32 - 1, 0])
def test_similar_items_equal_a_loop_over_passages(sort_bits, monkeypatch):
    monkeypatch.setattr(similar, "SORT_KEYS", sort_bits)  # 0 takes the path of tables too large for one key
    k = 5
    # Scores far enough apart that single precision orders them as double precision does.
    cases, states, query_NC, query_len = make_batch(np.random.default_rng(1), 300, 40)
    rows_Nk = jax.jit(jax.vmap(lambda s, q, n: similar_items(s, q, n, k)))(states, query_NC, query_len)
    same = 0
    for (documents, query), rows in zip(cases, np.asarray(rows_Nk), strict=True):
        found = rows[rows >= 0].tolist()
        assert len(found) == len(set(found)) == min(k, len(documents))
        same += found == best_rows(documents, query, k)
    assert same >= 285


def test_similar_items_of_an_empty_memory_or_chunk():
    config = MemoryConfig(items=4, arena_tokens=16)
    states = build_states([[], [[1, 2], [3]]], config)
    query_NC = jnp.array([[1, 2], [3, 3]])
    rows_Nk = jax.jit(jax.vmap(lambda s, q, n: similar_items(s, q, n, 6)))(states, query_NC, jnp.array([2, 0]))
    assert rows_Nk.tolist() == [[-1] * 6, [0, 1, -1, -1, -1, -1]]
