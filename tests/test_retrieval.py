"""BM25 on the host and on the device against the rank_bm25 library."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_bm25 import BM25Okapi

from memalpha_jax.memory import similar
from memalpha_jax.memory.retrieval import Bm25Index, bm25_rank, largest, words
from memalpha_jax.memory.similar import SHARES, bm25_scores, build_postings, pairs, similar_items
from memalpha_jax.memory.state import MemoryConfig, MemoryState, empty_memory

TEXTS = st.lists(st.text("abcde .é'_-7", max_size=30), min_size=1, max_size=12)


def equals_rank_bm25(index: Bm25Index[int], texts: dict[int, str], query: str) -> None:
    """The scores of the library for these texts, and their order."""
    if not any(map(words, texts.values())):
        return  # rank_bm25 divides by zero
    expected = BM25Okapi([words(text) for text in texts.values()]).get_scores(words(query))
    np.testing.assert_allclose(index.scores(query), expected, rtol=0, atol=1e-9)
    if words(query):
        keys, order = list(texts), np.argsort(-expected, kind="stable")
        assert index.rank(query, len(texts)) == [keys[i] for i in order]
        assert index.best(query, 3) == [(keys[i], index.scores(query)[i]) for i in order[:3]]


def update(index: Bm25Index[int], texts: dict[int, str], name: str, key: int, text: str) -> None:
    """One change of both, if the key allows it."""
    if name == "add" and key not in texts:
        index.add(key, text)
        texts[key] = text
    elif name == "replace" and key in texts:
        index.replace(key, text)
        texts[key] = text
    elif name == "remove" and key in texts:
        index.remove(key)
        del texts[key]


UPDATES = st.tuples(st.sampled_from(["add", "replace", "remove"]), st.integers(0, 5), st.text("abc .é", max_size=12))


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.lists(UPDATES, max_size=12), st.text("ABc é.7", max_size=20))
def test_scores_equal_rank_bm25_after_any_updates(items, updates, query):
    index, texts = Bm25Index(enumerate(items)), dict(enumerate(items))
    equals_rank_bm25(index, texts, query)
    for name, key, text in updates:
        update(index, texts, name, key, text)
        index.scores(query)  # what this computes must not outlive the next update
    equals_rank_bm25(index, texts, query)
    assert index.scores(query).tolist() == Bm25Index(texts.items()).scores(query).tolist()


def test_a_thousand_random_memories_equal_rank_bm25():
    rng = np.random.default_rng(2)
    for _ in range(1000):
        vocabulary = [f"w{i}" for i in range(rng.choice([4, 30, 1000]))]

        def text(most: int, vocabulary: list[str] = vocabulary) -> str:
            return " ".join(rng.choice(vocabulary, rng.integers(0, most)))

        index, texts = Bm25Index(), {}
        for _ in range(rng.integers(1, 40)):
            name = str(rng.choice(["add", "add", "add", "replace", "remove"]))
            update(index, texts, name, int(rng.integers(30)), text(25))
        if texts:
            equals_rank_bm25(index, texts, text(12))


def test_a_replaced_item_keeps_its_place_and_one_added_again_goes_last():
    index = Bm25Index(enumerate(["red fox", "red owl", "red hen"]))
    index.replace(1, "red cow")
    assert index.rank("red", 3) == [0, 1, 2]
    index.remove(0)
    index.add(0, "red fox")
    assert index.rank("red", 3) == index.rank("?", 3)[::-1] == [1, 2, 0]
    assert len(index) == 3


def test_updates_of_keys_that_are_not_there_are_refused():
    index = Bm25Index(enumerate(["red fox"]))
    with pytest.raises(ValueError, match="in the index already"):
        index.add(0, "blue fox")
    for refused in (lambda: index.replace(1, "blue fox"), lambda: index.remove(1)):
        with pytest.raises(KeyError):
            refused()
    assert index.best("red", 9) == Bm25Index(enumerate(["red fox"])).best("red", 9)


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0])), st.integers(-1, 12))
def test_the_largest_are_those_of_a_stable_sort(scores, k):
    expected = sorted(range(len(scores)), key=lambda i: -scores[i])[: max(k, 0)]
    assert largest(np.array(scores), k).tolist() == expected


def test_a_term_in_most_items_gets_epsilon_times_the_mean_idf():
    items = ["the cat", "the dog", "the cow and the hen", "rain"]
    expected = BM25Okapi([words(item) for item in items])
    assert expected.idf["the"] == 0.25 * expected.average_idf  # the case this test is about
    np.testing.assert_allclose(
        Bm25Index(enumerate(items)).scores("the the hen"), expected.get_scores(["the", "the", "hen"]), atol=1e-12
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
