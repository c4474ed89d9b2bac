"""BM25 over many items: queries and updates of our index beside rank_bm25, on the processor.

The words of items and queries are drawn by Zipf's law, as in language: some are in most items, most are in few.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from memalpha_jax.benchmarks.report import BM25_PEER, OURS, Measured, Result
from memalpha_jax.benchmarks.timing import Device, alternate
from memalpha_jax.errors import UserError
from memalpha_jax.memory.retrieval import Bm25Index, words

VOCABULARY = 20_000
ITEM_WORDS = (5, 40)
QUERY_WORDS = 8
QUERIES = 100
TOP = 20


def bench_retrieval(items: int, device: Device, repeats: int) -> Result:
    """Times the same queries and the same build by both, and our updates, each followed by a query.

    rank_bm25 has no update but to build everything anew.

    Raises:
      UserError: rank_bm25 is not installed.
    """
    peer_class = load_peer()
    drawn = random_texts(items + QUERIES, np.random.default_rng(0))
    texts, queries = drawn[:items], [" ".join(text.split()[:QUERY_WORDS]) for text in drawn[items:]]
    index, peer = Bm25Index(enumerate(texts)), peer_class([words(text) for text in texts])

    def ranked_by_peer(query: str) -> list[int]:
        return np.argsort(-peer.get_scores(words(query)), kind="stable")[:TOP].tolist()

    def update_and_query(at: int) -> list[int]:
        index.replace(at % items, texts[at % items])
        return index.rank(queries[at], TOP)

    asked, built, updated = f"{QUERIES} queries", "build", f"{QUERIES} updates, each with a query"
    runs: dict[tuple[str, str], Callable[[], Any]] = {
        (asked, OURS): lambda: [index.rank(query, TOP) for query in queries],
        (asked, BM25_PEER): lambda: [ranked_by_peer(query) for query in queries],
        (built, OURS): lambda: Bm25Index(enumerate(texts)),
        (built, BM25_PEER): lambda: peer_class([words(text) for text in texts]),
        (updated, OURS): lambda: [update_and_query(at) for at in range(QUERIES)],
    }
    timings = alternate({str(name): run for name, run in runs.items()}, repeats, device.sample)
    measured = [Measured(part, by, timings[str((part, by))], None) for part, by in runs]
    seconds = {(one.part, one.by): one.timing.min for one in measured}
    apart = [np.abs(index.scores(query) - peer.get_scores(words(query))).max() for query in queries]
    checks = {
        "items": items,
        f"queries per second, {OURS}": round(QUERIES / seconds[asked, OURS]),
        f"queries per second, {BM25_PEER}": round(QUERIES / seconds[asked, BM25_PEER]),
        "queries, times as fast": round(seconds[asked, BM25_PEER] / seconds[asked, OURS], 1),
        "ms for an update with a query": round(1000 * seconds[updated, OURS] / QUERIES, 3),
        "same best items in the same order": f"{_same(index, ranked_by_peer, queries)} of {QUERIES}",
        "largest difference of a score": f"{max(apart):.1e}",
    }
    return Result(measured, checks, BM25_PEER)


def _same(index: Bm25Index[int], ranked_by_peer: Callable[[str], list[int]], queries: Sequence[str]) -> int:
    return sum(index.rank(query, TOP) == ranked_by_peer(query) for query in queries)


def random_texts(count: int, rng: np.random.Generator) -> list[str]:
    """Texts of 5 to 40 words."""
    weight_V = 1 / np.arange(1, VOCABULARY + 1)
    lengths = rng.integers(ITEM_WORDS[0], ITEM_WORDS[1] + 1, count)
    drawn = iter(rng.choice(VOCABULARY, int(lengths.sum()), p=weight_V / weight_V.sum()).tolist())
    return [" ".join(f"w{next(drawn)}" for _ in range(length)) for length in lengths]


def load_peer() -> Any:
    """The class BM25Okapi of rank_bm25; UserError where that is not installed."""
    try:
        return importlib.import_module("rank_bm25").BM25Okapi
    except ImportError as error:
        raise UserError(
            "retrieval is measured beside rank_bm25, which is not installed here: pip install 'memalpha_jax[test]'"
        ) from error
