"""Which texts bear on a query: an index that is told of every change, and BM25 with the scores of rank_bm25.

Every update of a BM25 index changes the weight of every term: the idf goes by the number of items, the norm by their
mean length, and the idf of a term of most items by the mean idf of the vocabulary. So an update touches only the
postings of the item's own words, and weights are computed when a query asks for their term, and kept until the next
update.

Axes: R rows of an index, X numbers of items that hold some term.
"""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np

K1, B, EPSILON = 1.5, 0.75, 0.25
_WORD = re.compile(r"\b\w+\b")

Key = TypeVar("Key", bound=Hashable)


def words(text: str) -> list[str]:
    r"""Lower-cased `\b\w+\b` tokens in order."""
    return _WORD.findall(text.lower())


class TextIndex(Protocol[Key]):
    """Texts under keys, in the order they were added."""

    def add(self, key: Key, text: str) -> None:
        """A new text, behind all others. Raises ValueError for a key that is there."""
        ...

    def replace(self, key: Key, text: str) -> None:
        """Another text in the same place. Raises KeyError for a key that is not there."""
        ...

    def remove(self, key: Key) -> None:
        """Raises KeyError for a key that is not there."""
        ...

    def best(self, query: str, k: int) -> list[tuple[Key, float]]:
        """The `k` best texts with their scores, best first, ties in the order of the texts."""
        ...


class Rows(Generic[Key]):
    """Rows of growing arrays for keys in the order they were added; a row that falls free is used again.

    Attributes:
      size: rows that were ever in use at the same time.
    """

    def __init__(self) -> None:
        self.size = 0
        self._row: dict[Key, int] = {}
        self._free: list[int] = []
        self._order: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._row)

    def __getitem__(self, key: Key) -> int:
        return self._row[key]

    def add(self, key: Key) -> int:
        """The row of a new key; ValueError if it is there."""
        if key in self._row:
            raise ValueError(f"{key!r} is in the index already")
        if not self._free:
            self._free.append(self.size)
            self.size += 1
        self._row[key], self._order = self._free.pop(), None
        return self._row[key]

    def remove(self, key: Key) -> int:
        """The row that falls free; KeyError if there is no such key."""
        row = self._row.pop(key)
        self._free.append(row)
        self._order = None
        return row

    def keys(self) -> list[Key]:
        return list(self._row)

    def order(self) -> np.ndarray:
        """int64 [number of keys]: the row of each key."""
        if self._order is None:
            self._order = np.fromiter(self._row.values(), np.int64, len(self._row))
        return self._order


class _Posting(NamedTuple):
    """The items that hold a term, in any order, and how often each does."""

    rows: array
    counts: array


class Bm25Index(Generic[Key]):
    """BM25Okapi over texts, k1 1.5, b 0.75, epsilon 0.25, words as in `words`.

    Scores depend on the texts and their order alone, not on the updates that led to them.
    """

    def __init__(self, items: Iterable[tuple[Key, str]] = ()):
        """items: keys and texts; `enumerate(texts)` makes positions the keys."""
        self._rows: Rows[Key] = Rows()
        self._counts: list[Counter[str]] = []  # by row
        self._lengths = array("d")  # by row
        self._words = 0
        self._postings: dict[str, _Posting] = {}
        self._terms_with: Counter[int] = Counter()  # number of terms by the number of items that hold them
        self._norm: np.ndarray | None = None
        self._mean_idf: float | None = None
        self._weights: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for key, text in items:
            self.add(key, text)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, key: Key, text: str) -> None:
        """A new item, behind all others. Raises ValueError for a key that is there."""
        row = self._rows.add(key)
        if row == len(self._counts):
            self._counts.append(Counter())
            self._lengths.append(0)
        self._put(row, text)

    def replace(self, key: Key, text: str) -> None:
        """Another text for an item, which stays in its place. Raises KeyError for a key that is not there."""
        row = self._rows[key]
        self._take(row)
        self._put(row, text)

    def remove(self, key: Key) -> None:
        """Raises KeyError for a key that is not there."""
        self._take(self._rows.remove(key))

    def scores(self, query: str) -> np.ndarray:
        """float64 [number of items], in their order; a word asked for twice counts twice."""
        scores_R = np.zeros(self._rows.size)
        for term in words(query):
            if term in self._postings:
                rows, weights = self._weights.get(term) or self._weigh(term)
                scores_R[rows] += weights
        return scores_R[self._rows.order()]

    def best(self, query: str, k: int) -> list[tuple[Key, float]]:
        """The `k` best items with their scores, best first, ties in the order of the items.

        A query without a word says nothing about relevance: it gets the newest items, newest first.
        """
        keys = self._rows.keys()
        if not words(query):
            return [(key, 0.0) for key in keys[::-1][: max(k, 0)]]
        scores = self.scores(query)
        return [(keys[i], float(scores[i])) for i in largest(scores, k)]

    def rank(self, query: str, k: int) -> list[Key]:
        """The keys of `best`."""
        return [key for key, _ in self.best(query, k)]

    def _put(self, row: int, text: str) -> None:
        terms = words(text)
        counts = Counter(terms)
        self._forget()
        self._counts[row], self._lengths[row] = counts, len(terms)
        self._words += len(terms)
        for term, count in counts.items():
            posting = self._postings.get(term)
            if posting is None:
                posting = self._postings[term] = _Posting(array("q"), array("d"))
            self._terms_with[len(posting.rows)] -= 1
            posting.rows.append(row)
            posting.counts.append(count)
            self._terms_with[len(posting.rows)] += 1

    def _take(self, row: int) -> None:
        self._forget()
        for term in self._counts[row]:
            posting = self._postings[term]
            at = int(np.flatnonzero(np.frombuffer(posting.rows, np.int64) == row)[0])
            self._terms_with[len(posting.rows)] -= 1
            for column in posting:
                column[at] = column[-1]
                column.pop()
            self._terms_with[len(posting.rows)] += 1
            if not posting.rows:
                del self._postings[term]
        self._words -= int(self._lengths[row])
        self._counts[row], self._lengths[row] = Counter(), 0

    def _forget(self) -> None:
        """Nothing that was computed survives an update."""
        self._norm = self._mean_idf = None
        self._weights = {}

    def _weigh(self, term: str) -> tuple[np.ndarray, np.ndarray]:
        """Rows and shares of the score of one term, computed in the order in which rank_bm25 does it."""
        if self._norm is None:
            lengths = np.array(self._lengths)
            self._norm = K1 * (1 - B + B * lengths / (self._words / len(self._rows)))
        rows, counts = (np.array(column) for column in self._postings[term])
        weights = self._idf(len(rows)) * (counts * (K1 + 1) / (counts + self._norm[rows]))
        self._weights[term] = rows, weights
        return rows, weights

    def _idf(self, frequency: int) -> float:
        """BM25Okapi's idf of a term of so many items; where negative (most items hold it), epsilon times the mean."""
        items = len(self._rows)
        idf = math.log(items - frequency + 0.5) - math.log(frequency + 0.5)
        if idf >= 0:
            return idf
        if self._mean_idf is None:
            held = [(n, count) for n, count in self._terms_with.items() if n and count]
            n_X, count_X = np.array(held, np.float64).T
            terms = count_X * (np.log(items - n_X + 0.5) - np.log(n_X + 0.5))
            self._mean_idf = math.fsum(terms) / len(self._postings)  # exact, so that the order does not matter
        return EPSILON * self._mean_idf


def bm25_rank(items: Sequence[str], query: str, k: int) -> list[int]:
    """Positions of the `k` best items for a list that is asked only once: see `Bm25Index.best`."""
    return Bm25Index(enumerate(items)).rank(query, k)


def largest(scores: np.ndarray, k: int) -> np.ndarray:
    """Positions of the `k` largest scores, largest first, ties by position."""
    k = min(k, len(scores))
    if k <= 0:
        return np.zeros(0, np.int64)
    chosen = np.flatnonzero(scores >= np.partition(scores, len(scores) - k)[-k])
    return chosen[np.argsort(-scores[chosen], kind="stable")][:k]
