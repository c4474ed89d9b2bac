"""Dense retrieval: texts and queries as vectors, compared by cosine; and its fusion with BM25."""

from __future__ import annotations

from typing import Generic, Protocol

import numpy as np

from memalpha_jax.memory.retrieval import Bm25Index, Key, Rows, largest

RANK_CONSTANT = 60
"""k of reciprocal-rank fusion."""


class Encoder(Protocol):
    """Texts to vectors of length 1; width: D, of a vector."""

    @property
    def width(self) -> int: ...

    def texts(self, texts: list[str]) -> np.ndarray:
        """float32 [number of texts, D]."""
        ...

    def query(self, query: str) -> np.ndarray:
        """float32 [D]."""
        ...


class DenseIndex(Generic[Key]):
    """Cosines of texts with a query. What was added since the last query is embedded by the next one, all at once."""

    def __init__(self, encoder: Encoder):
        self._encoder = encoder
        self._rows: Rows[Key] = Rows()
        self._vectors_RD = np.zeros((0, encoder.width), np.float32)
        self._waiting: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, key: Key, text: str) -> None:
        """A new text, behind all others. Raises ValueError for a key that is there."""
        self._waiting[self._rows.add(key)] = text

    def replace(self, key: Key, text: str) -> None:
        """Another text in the same place. Raises KeyError for a key that is not there."""
        self._waiting[self._rows[key]] = text

    def remove(self, key: Key) -> None:
        """Raises KeyError for a key that is not there."""
        self._waiting.pop(self._rows.remove(key), None)

    def keys(self) -> list[Key]:
        return self._rows.keys()

    def scores(self, query: str) -> np.ndarray:
        """float64 [number of texts], in their order; from -1 to 1."""
        self._embed()
        return (self._vectors_RD @ self._encoder.query(query))[self._rows.order()].astype(np.float64)

    def best(self, query: str, k: int) -> list[tuple[Key, float]]:
        """The `k` best texts with their scores, best first, ties in the order of the texts."""
        keys, scores = self._rows.keys(), self.scores(query)
        return [(keys[i], float(scores[i])) for i in largest(scores, k)]

    def _embed(self) -> None:
        missing = self._rows.size - len(self._vectors_RD)
        if missing > 0:
            room = max(missing, len(self._vectors_RD))  # doubles, so that a text costs its own row and no copy of all
            self._vectors_RD = np.pad(self._vectors_RD, [(0, room), (0, 0)])
        if self._waiting:
            self._vectors_RD[list(self._waiting)] = self._encoder.texts(list(self._waiting.values()))
            self._waiting = {}


class FusionIndex(Generic[Key]):
    """Reciprocal-rank fusion of BM25 and dense retrieval (Cormack, Clarke and Buettcher, SIGIR 2009).

    A text's score is the sum of 1 / (60 + rank) over the rankings it is in, ranks from 1. BM25 ranks only texts that
    share a word with the query, so that the order of the others, which is that of insertion, counts for nothing.
    """

    def __init__(self, encoder: Encoder):
        self._sparse: Bm25Index[Key] = Bm25Index()
        self._dense: DenseIndex[Key] = DenseIndex(encoder)

    def __len__(self) -> int:
        return len(self._dense)

    def add(self, key: Key, text: str) -> None:
        """A new text, behind all others. Raises ValueError for a key that is there."""
        self._sparse.add(key, text)
        self._dense.add(key, text)

    def replace(self, key: Key, text: str) -> None:
        """Another text in the same place. Raises KeyError for a key that is not there."""
        self._sparse.replace(key, text)
        self._dense.replace(key, text)

    def remove(self, key: Key) -> None:
        """Raises KeyError for a key that is not there."""
        self._sparse.remove(key)
        self._dense.remove(key)

    def scores(self, query: str) -> np.ndarray:
        """float64 [number of texts], in their order."""
        sparse, dense = self._sparse.scores(query), self._dense.scores(query)
        return np.where(sparse != 0, reciprocal_ranks(sparse), 0) + reciprocal_ranks(dense)

    def best(self, query: str, k: int) -> list[tuple[Key, float]]:
        """The `k` best texts with their scores, best first, ties in the order of the texts."""
        keys, scores = self._dense.keys(), self.scores(query)
        return [(keys[i], float(scores[i])) for i in largest(scores, k)]


def reciprocal_ranks(scores: np.ndarray) -> np.ndarray:
    """1 / (60 + rank) of each score, the largest of rank 1, ties by position."""
    found = np.zeros(len(scores))
    found[np.argsort(-scores, kind="stable")] = 1 / (RANK_CONSTANT + 1 + np.arange(len(scores)))
    return found
