"""BM25 over texts on the host, for readers: the scores of rank_bm25's BM25Okapi from a postings index.

A posting's share of the score depends only on its term and document, so it is computed once, and a query
adds up one short array per word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

K1, B, EPSILON = 1.5, 0.75, 0.25
_WORD = re.compile(r"\b\w+\b")


def words(text: str) -> list[str]:
    r"""Lower-cased `\b\w+\b` tokens in order."""
    return _WORD.findall(text.lower())


class TermIndex:
    """BM25Okapi over documents that are sequences of terms of any hashable type; read-only once made."""

    def __init__(self, documents: Sequence[Sequence[Hashable]]):
        self.size = len(documents)
        counts = [Counter(document) for document in documents]
        terms: dict[Hashable, int] = {}
        term_P = np.array([terms.setdefault(t, len(terms)) for c in counts for t in c], np.int64)
        tf_P = np.array([tf for c in counts for tf in c.values()], np.float64)
        doc_P = np.repeat(np.arange(self.size), [len(c) for c in counts])
        length = np.array([len(document) for document in documents], np.float64)
        norm = K1 * (1 - B + B * length / (length.mean() or 1.0)) if self.size else length
        frequency = np.bincount(term_P, minlength=len(terms))
        weight_P = _idf(frequency, self.size)[term_P] * tf_P * (K1 + 1) / (tf_P + norm[doc_P])
        order = np.argsort(term_P, kind="stable")
        ends = np.cumsum(frequency)[:-1]
        documents_of = np.split(doc_P[order], ends)
        weights_of = np.split(weight_P[order], ends)
        self._postings = {term: (documents_of[i], weights_of[i]) for term, i in terms.items()}

    def scores(self, query: Iterable[Hashable]) -> np.ndarray:
        """float64 [number of documents]; a term asked for twice counts twice."""
        scores = np.zeros(self.size)
        for term in query:
            if posting := self._postings.get(term):
                scores[posting[0]] += posting[1]
        return scores


class Bm25Index:
    """BM25Okapi over texts, k1 1.5, b 0.75, epsilon 0.25, words as in `words`."""

    def __init__(self, items: Sequence[str]):
        self._index = TermIndex([words(item) for item in items])

    def scores(self, query: str) -> np.ndarray:
        """float64 [number of items]."""
        return self._index.scores(words(query))

    def rank(self, query: str, k: int) -> list[int]:
        """Positions of the `k` best items in score order, ties by position.

        A query without a word says nothing about relevance: it gets the most recent items, newest first.
        """
        terms, size = words(query), self._index.size
        if not terms:
            return list(range(size - 1, -1, -1))[: max(k, 0)]
        return np.argsort(-self._index.scores(terms), kind="stable")[: max(k, 0)].tolist()


def bm25_rank(items: Sequence[str], query: str, k: int) -> list[int]:
    """`Bm25Index(items).rank(query, k)` for a list that is asked only once."""
    return Bm25Index(items).rank(query, k)


def _idf(frequency: np.ndarray, size: int) -> np.ndarray:
    """BM25Okapi's idf per term; where negative (terms of most documents), epsilon times the mean."""
    idf = np.log(size - frequency + 0.5) - np.log(frequency + 0.5)
    return np.where(idf < 0, EPSILON * idf.mean(), idf) if idf.size else idf
