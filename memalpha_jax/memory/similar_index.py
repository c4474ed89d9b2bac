"""`similar_items` on the host, from postings that are kept up to date call by call.

A chunk asks for a few dozen terms, and only the items that hold one of them cost time, not all that is stored. Documents,
terms, passages, scores and ties are those of `similar.py`; see there why both find the same rows.

Postings lie in one table in the order of writing. All but the latest are also sorted by term; the latest are few and are
searched one by one. A text that was replaced or deleted leaves its postings behind until the table is sorted anew.

Axes: D item ids from 0 (the memory's ids less one), T texts ever stored, P postings, U terms of one text.
"""

from __future__ import annotations

import collections

import numpy as np

from memalpha_jax.memory.retrieval import EPSILON, K1, B
from memalpha_jax.memory.similar import MOST_PASSAGES, PASSAGE_TOKENS, SHARES, TOKEN_BITS, hash_pairs
from memalpha_jax.memory.state import MemoryState, MemoryType, memory_items
from memalpha_jax.tools.calls import SUCCESSES, CallBatch, CallKind

LEAST_TAIL, TAIL_SHARE = 2048, 32
"""The table is sorted anew when this many postings, and one in so many of all, are not sorted yet."""
GONE = -1


class SimilarIndex:
    """The items of one memory by the pairs of tokens in them."""

    def __init__(self) -> None:
        self._items = _Table(text=np.int32, tokens=np.int32, ground=np.float32)  # by id; text GONE, ground -inf: no item
        self._id_of_text = _Table(id=np.int32)
        self._postings = _Table(term=np.int32, count=np.int32, text=np.int32)
        self._sorted_terms, self._order = np.zeros(0, np.int32), np.zeros(0, np.int32)
        self._frequency = np.zeros(1 << TOKEN_BITS, np.int32)
        self._terms_of_frequency = np.zeros(1, np.int32)
        self._alive, self._tokens = 0, 0

    @classmethod
    def of(cls, state: MemoryState) -> SimilarIndex:
        """The index of a memory; `state` on the host, without leading axes."""
        index = cls()
        for item in memory_items(state):
            index._skip_ids(item.id + 1)
            index._put(item.id - 1, np.asarray(item.tokens, np.int32))
        index._skip_ids(int(state.next_id))
        return index

    @property
    def nbytes(self) -> int:
        """Bytes of everything kept."""
        tables = (self._items, self._id_of_text, self._postings)
        arrays = (self._sorted_terms, self._order, self._frequency, self._terms_of_frequency)
        return sum(table.nbytes for table in tables) + sum(array.nbytes for array in arrays)

    def apply(self, calls: CallBatch, status_K: np.ndarray) -> None:
        """Follows the calls of one reply [K] (numpy arrays) that had these statuses."""
        for k in np.flatnonzero(np.isin(status_K, SUCCESSES)):
            kind, tokens = calls.kind_K[k], calls.content_KL[k, : calls.length_K[k]]
            if calls.memory_type_K[k] == MemoryType.CORE:
                continue
            item = len(self._items) if kind == CallKind.INSERT else int(calls.item_id_K[k]) - 1
            if kind == CallKind.INSERT:
                self._skip_ids(item + 2)
            else:
                self._remove(item)
            if kind != CallKind.DELETE:
                self._put(item, tokens)
        tail = len(self._postings) - len(self._order)
        if tail > LEAST_TAIL and tail * TAIL_SHARE > len(self._postings):
            self._sort()

    def best(self, chunk: np.ndarray, k: int) -> np.ndarray:
        """int32 [k]: the rows that `similar_items` gives for a chunk of these tokens."""
        if not self._alive:
            return np.full(k, -1, np.int32)
        terms = _pairs(chunk)
        size = max(PASSAGE_TOKENS, 2 * -(-len(terms) // MOST_PASSAGES))
        starts = [w * (size // 2) for w in range(MOST_PASSAGES) if w == 0 or w * (size // 2) < len(terms)]
        shares = self._shares(np.unique(terms))
        ground_D = self._items["ground"]
        score_D, leads = np.full_like(ground_D, -np.inf), set()
        for start in starts:
            of_passage_D = ground_D.copy()
            for term, times in collections.Counter(terms[start : start + size].tolist()).items():
                item_P, share_P = shares[term]
                of_passage_D[item_P] += times * share_P
            leads.add(int(np.argmax(of_passage_D)))
            np.maximum(score_D, of_passage_D, out=score_D)
        found = _best_first(score_D, sorted(leads), k)
        rows = [np.count_nonzero(np.isfinite(ground_D[:item])) for item in found]
        return np.array(rows + [-1] * (k - len(rows)), np.int32)

    def _shares(self, terms: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Of each term: the items that hold it, and what it adds to their scores, float32."""
        low, high = np.searchsorted(self._sorted_terms, terms), np.searchsorted(self._sorted_terms, terms, "right")
        tail_P = self._postings["term"][len(self._order) :]
        one, weights = np.float32(1), self._weights(terms)
        found = {}
        for term, a, b, weight in zip(terms.tolist(), low, high, weights, strict=True):
            at = np.concatenate([self._order[a:b], len(self._order) + np.flatnonzero(tail_P == term)])
            text_P = self._postings["text"][at]
            item_P = self._id_of_text["id"][text_P]
            current = self._items["text"][item_P] == text_P
            item_P, tf_P = item_P[current], self._postings["count"][at[current]].astype(np.float32)
            length_P = self._items["tokens"][item_P].astype(np.float32)
            norm_P = np.float32(K1) * (one - np.float32(B) + np.float32(B) * length_P * self._alive / self._tokens)
            share_P = np.round(weight * (tf_P * np.float32(K1 + 1) / (tf_P + norm_P)) * SHARES) / SHARES
            found[term] = item_P, share_P.astype(np.float32)
        return found

    def _weights(self, terms: np.ndarray) -> np.ndarray:
        """float32: idf of each term; where negative, epsilon times the mean over all terms stored."""
        frequency = self._frequency[terms]
        idf = _idf(frequency, self._alive)
        common = 2 * frequency > self._alive
        if common.any():
            occurring = np.flatnonzero(self._terms_of_frequency)
            number = self._terms_of_frequency[occurring]
            idf[common] = EPSILON * (number * _idf(occurring, self._alive)).sum() / number.sum()
        return idf.astype(np.float32)

    def _skip_ids(self, next_id: int) -> None:
        """Makes room for ids below `next_id`, which hold nothing as yet."""
        while len(self._items) < next_id - 1:
            self._items.append(text=[GONE], tokens=[0], ground=[-np.inf])

    def _put(self, item: int, tokens: np.ndarray) -> None:
        term_U, count_U = np.unique(_pairs(tokens), return_counts=True)
        text = len(self._id_of_text)
        self._id_of_text.append(id=[item])
        self._postings.append(term=term_U, count=count_U, text=np.full_like(term_U, text))
        self._items.set(item, text=text, tokens=len(tokens), ground=0.0)
        self._count(term_U, 1, len(tokens))

    def _remove(self, item: int) -> None:
        text_P, text = self._postings["text"], self._items["text"][item]
        own = slice(*np.searchsorted(text_P, [text, text + 1]))
        self._count(self._postings["term"][own], -1, int(self._items["tokens"][item]))
        self._items.set(item, text=GONE, tokens=0, ground=-np.inf)

    def _count(self, term_U: np.ndarray, change: int, tokens: int) -> None:
        """One text more or less; `_terms_of_frequency[0]` stays 0, since a term that nothing holds is none."""
        if self._alive + 2 > len(self._terms_of_frequency):
            self._terms_of_frequency = np.pad(self._terms_of_frequency, (0, len(self._terms_of_frequency) + 1))
        before = self._frequency[term_U]
        self._frequency[term_U] = before + change
        np.add.at(self._terms_of_frequency, before, -1)
        np.add.at(self._terms_of_frequency, before + change, 1)
        self._terms_of_frequency[0] = 0
        self._alive += change
        self._tokens += change * tokens

    def _sort(self) -> None:
        """Sorts all postings and forgets those of texts that are gone."""
        text_P = self._postings["text"]
        self._postings.keep(self._items["text"][self._id_of_text["id"][text_P]] == text_P)
        self._order = np.argsort(self._postings["term"], kind="stable").astype(np.int32)
        self._sorted_terms = self._postings["term"][self._order]


class _Table:
    """Columns of numbers that grow at the end."""

    def __init__(self, **types: type):
        self._size, self._columns = 0, {name: np.zeros(64, dtype) for name, dtype in types.items()}

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, name: str) -> np.ndarray:
        return self._columns[name][: self._size]

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self._columns.values())

    def append(self, **values) -> None:
        end = self._size + len(next(iter(values.values())))
        for name, own in values.items():
            column = self._columns[name]
            if end > len(column):
                self._columns[name] = column = np.pad(column, (0, max(end, 2 * len(column)) - len(column)))
            column[self._size : end] = own
        self._size = end

    def set(self, row: int, **values) -> None:
        for name, value in values.items():
            self._columns[name][row] = value

    def keep(self, mask: np.ndarray) -> None:
        """Drops the rows that are not marked."""
        kept = int(mask.sum())
        for column in self._columns.values():
            column[:kept] = column[: self._size][mask]
        self._size = kept


def _pairs(tokens: np.ndarray) -> np.ndarray:
    return hash_pairs(tokens, np.append(tokens[1:], np.int32(0)))


def _idf(frequency: np.ndarray, items: int) -> np.ndarray:
    return np.log(items - frequency + 0.5) - np.log(frequency + 0.5)


def _best_first(score_D: np.ndarray, leads: list[int], k: int) -> list[int]:
    """At most `k` items with a score: leads, then the others, each the best first, ties in their own order."""
    found = sorted(leads, key=lambda item: -score_D[item])[:k]
    more = k - len(found)
    others_D = score_D.copy()
    others_D[leads] = -np.inf
    if more <= 0:
        return found
    if more < len(others_D):
        least = np.partition(others_D, len(others_D) - more)[len(others_D) - more]
    else:
        least = -np.inf
    above, equal = np.flatnonzero(others_D > least), np.flatnonzero(others_D == least)
    chosen = [*above[np.argsort(-others_D[above], kind="stable")], *equal[: max(0, more - len(above))]]
    return found + [int(item) for item in chosen[:more] if np.isfinite(others_D[item])]
