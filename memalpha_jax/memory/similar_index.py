"""`similar_items` on the host, from postings that are kept up to date call by call.

A chunk asks for a few dozen terms, and only the items that hold one of them cost time, not all that is stored. What
documents, terms, passages, scores and ties are is as in `similar.py`; see there why both find the same rows.

Postings lie in two parts: most are sorted by term, the latest follow in the order of writing and are looked through.
What a term adds to an item's score depends on how often it occurs there and on the item's length alone: on the kind of
the posting, and kinds are few. Postings of a text that was replaced or deleted are of kind GONE until all are sorted.

Axes: D item ids from 0 (the memory's ids less one), P postings, F kinds of postings, U terms.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from memalpha_jax.memory.retrieval import EPSILON, K1, B
from memalpha_jax.memory.similar import MOST_PASSAGES, PASSAGE_TOKENS, SHARES, TOKEN_BITS, hash_pairs
from memalpha_jax.memory.state import MemoryState, MemoryType, memory_items
from memalpha_jax.tools.calls import SUCCESSES, CallBatch, CallKind

LEAST_TAIL, TAIL_SHARE = 2048, 32
"""All is sorted anew when so many postings, and one in so many of all, are not sorted yet."""
GONE = 0  # the kind that adds nothing
Found = list[tuple[np.ndarray, np.ndarray]]
"""The postings of a term in pieces: their items, and their kinds. At most one posting of an item is not GONE."""


class SimilarIndex:
    """The items of one memory by the pairs of tokens in them."""

    def __init__(self) -> None:
        self._terms_of: list[np.ndarray | None] = []  # by id; None where there is no item
        self._items = _Table(tokens=np.int32, ground=np.float32)  # ground: 0, or -inf where there is no item
        self._postings = _Table(term=np.int32, item=np.intp, kind=np.int32)  # intp: indexing is fastest with it
        self._kinds = _Table(count=np.float32, tokens=np.float32)
        self._kind_of = {(0, 0): GONE}
        self._kinds.append(count=[0], tokens=[0])
        self._sorted = 0
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
        index._sort()
        return index

    @property
    def nbytes(self) -> int:
        """Bytes of everything kept, as arrays."""
        terms = sum(terms.nbytes for terms in self._terms_of if terms is not None)
        return terms + self._terms_of_frequency.nbytes + self._items.nbytes + self._postings.nbytes + self._kinds.nbytes

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
        tail = len(self._postings) - self._sorted
        if tail > LEAST_TAIL and tail * TAIL_SHARE > len(self._postings):
            self._sort()

    def best(self, chunk: np.ndarray, k: int) -> np.ndarray:
        """int32 [k]: the rows that `similar_items` gives for a chunk of these tokens."""
        if not self._alive:
            return np.full(k, -1, np.int32)
        term_U, asked_C = np.unique(_pairs(chunk), return_inverse=True)
        found = self._find(term_U)
        frequency = [sum(np.count_nonzero(kind_P) for _, kind_P in pieces) for pieces in found]
        share_UF = self._shares(np.array(frequency))
        ground_D = self._items["ground"]
        # A passage is two halves, and half of it is half of the next.
        half = max(PASSAGE_TOKENS, 2 * -(-len(chunk) // MOST_PASSAGES)) // 2
        score_D, passage_D, leads = np.full_like(ground_D, -np.inf), np.empty_like(ground_D), set()
        here_D, next_D = np.zeros_like(ground_D), np.zeros_like(ground_D)
        _add_shares(here_D, asked_C[:half], found, share_UF)
        for start in range(0, max(1, len(chunk)), half):
            next_D.fill(0)
            _add_shares(next_D, asked_C[start + half : start + 2 * half], found, share_UF)
            np.add(here_D, next_D, out=passage_D)
            passage_D += ground_D
            leads.add(int(np.argmax(passage_D)))
            np.maximum(score_D, passage_D, out=score_D)
            here_D, next_D = next_D, here_D
        best = _best_first(score_D, sorted(leads), k)
        rows = [np.count_nonzero(np.isfinite(ground_D[:item])) for item in best]
        return np.array(rows + [-1] * (k - len(rows)), np.int32)

    def _shares(self, frequency_U: np.ndarray) -> np.ndarray:
        """float32 [U, F]: what terms that so many items hold add to scores, by the kind of posting."""
        weight_U = _idf(frequency_U, self._alive)
        common_U = 2 * frequency_U > self._alive
        if common_U.any():  # their idf is negative: epsilon times the mean over all terms stands for it
            occurring = np.flatnonzero(self._terms_of_frequency)
            number = self._terms_of_frequency[occurring]
            weight_U[common_U] = EPSILON * (number * _idf(occurring, self._alive)).sum() / number.sum()
        # The order of operations is that of `similar.build_postings`, in single precision as there.
        count_F, tokens_F = self._kinds["count"], self._kinds["tokens"]
        norm_F = K1 * (1 - B + B * tokens_F * self._alive / self._tokens)
        share_UF = weight_U.astype(np.float32)[:, None] * (count_F * (K1 + 1) / (count_F + norm_F))
        return np.round(share_UF * SHARES) / SHARES

    def _find(self, term_U: np.ndarray) -> list[Found]:
        """The postings of each term (rising numbers)."""
        item_P, kind_P = self._postings["item"], self._postings["kind"]
        low_U, high_U, latest, number = self._places(term_U)
        found = []
        for u, (a, b) in enumerate(zip(low_U.tolist(), high_U.tolist(), strict=True)):
            new = latest[number == u]
            found.append([(item_P[a:b], kind_P[a:b]), (item_P[new], kind_P[new])])
        return found

    def _frequencies(self, term_U: np.ndarray) -> np.ndarray:
        """How many items hold each term (rising numbers)."""
        kind_P = self._postings["kind"]
        low_U, high_U, latest, number = self._places(term_U)
        old = [np.count_nonzero(kind_P[a:b]) for a, b in zip(low_U.tolist(), high_U.tolist(), strict=True)]
        return old + np.bincount(number[kind_P[latest] != GONE], minlength=len(term_U))

    def _places(self, term_U: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Where the sorted postings of each term begin and end; the places of the others, and their terms' numbers."""
        term_P = self._postings["term"]
        low_U, high_U = (np.searchsorted(term_P[: self._sorted], term_U, side) for side in ("left", "right"))
        asked = np.zeros(1 << TOKEN_BITS, bool)
        asked[term_U] = True
        latest = self._sorted + np.flatnonzero(asked[term_P[self._sorted :]])
        return low_U, high_U, latest, np.searchsorted(term_U, term_P[latest])

    def _weights(self, frequency_U: np.ndarray) -> np.ndarray:
        """float32: idf of terms that so many items hold; where negative, epsilon times the mean over all terms."""
        idf_U = _idf(frequency_U, self._alive)
        common_U = 2 * frequency_U > self._alive
        if common_U.any():
            occurring = np.flatnonzero(self._terms_of_frequency)
            number = self._terms_of_frequency[occurring]
            idf_U[common_U] = EPSILON * (number * _idf(occurring, self._alive)).sum() / number.sum()
        return idf_U.astype(np.float32)

    def _skip_ids(self, next_id: int) -> None:
        """Makes room for ids below `next_id`, which hold nothing as yet."""
        while len(self._items) < next_id - 1:
            self._items.append(tokens=[0], ground=[-np.inf])
            self._terms_of.append(None)

    def _put(self, item: int, tokens: np.ndarray) -> None:
        term_U, count_U = np.unique(_pairs(tokens), return_counts=True)
        self._count(self._frequencies(term_U), 1, len(tokens))
        kind_U = [self._kind(count, len(tokens)) for count in count_U.tolist()]
        self._postings.append(term=term_U, item=[item] * len(term_U), kind=kind_U)
        self._terms_of[item] = term_U
        self._items.set(item, tokens=len(tokens), ground=0.0)

    def _kind(self, count: int, tokens: int) -> int:
        """The number of this kind of posting: of a term that an item of so many tokens holds so often."""
        number = self._kind_of.setdefault((count, tokens), len(self._kind_of))
        if number == len(self._kinds):
            self._kinds.append(count=[count], tokens=[tokens])
        return number

    def _remove(self, item: int) -> None:
        own = self._terms_of[item]
        assert own is not None  # the call has succeeded
        self._count(self._frequencies(own), -1, int(self._items["tokens"][item]))
        low_U, high_U, *_ = self._places(own)
        for a, b in [*zip(low_U, high_U, strict=True), (self._sorted, len(self._postings))]:
            self._postings["kind"][a:b][self._postings["item"][a:b] == item] = GONE
        self._items.set(item, tokens=0, ground=-np.inf)
        self._terms_of[item] = None

    def _count(self, frequency_U: np.ndarray, change: int, tokens: int) -> None:
        """One text more or less, whose terms so many items hold now.

        A term that nothing holds is none, so `_terms_of_frequency[0]` stays 0.
        """
        if self._alive + 2 > len(self._terms_of_frequency):
            self._terms_of_frequency = np.pad(self._terms_of_frequency, (0, len(self._terms_of_frequency) + 1))
        np.add.at(self._terms_of_frequency, frequency_U, -1)
        np.add.at(self._terms_of_frequency, frequency_U + change, 1)
        self._terms_of_frequency[0] = 0
        self._alive += change
        self._tokens += change * tokens

    def _sort(self) -> None:
        """Sorts all postings and forgets those that are gone."""
        self._postings.keep(np.flatnonzero(self._postings["kind"] != GONE))
        self._postings.keep(np.argsort(self._postings["term"], kind="stable"))
        self._sorted = len(self._postings)


class _Table:
    """Columns of numbers that grow at the end."""

    def __init__(self, **types: type):
        self._size = 0
        self._columns: dict[str, np.ndarray] = {name: np.zeros(64, dtype) for name, dtype in types.items()}

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, name: str) -> np.ndarray:
        return self._columns[name][: self._size]

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self._columns.values())

    def append(self, **values: Any) -> None:
        end = self._size + len(next(iter(values.values())))
        for name, own in values.items():
            column = self._columns[name]
            if end > len(column):
                self._columns[name] = column = np.pad(column, (0, max(end, 3 * len(column) // 2) - len(column)))
            column[self._size : end] = own
        self._size = end

    def set(self, row: int, **values: float) -> None:
        for name, value in values.items():
            self._columns[name][row] = value

    def keep(self, rows: np.ndarray) -> None:
        """Leaves these rows, in this order."""
        for name, column in self._columns.items():
            self._columns[name][: len(rows)] = column[rows]
        self._size = len(rows)


def _pairs(tokens: np.ndarray) -> np.ndarray:
    return hash_pairs(tokens, np.append(tokens[1:], np.int32(0)))


def _add_shares(score_D: np.ndarray, asked: np.ndarray, found: Sequence[Found], share_UF: np.ndarray) -> None:
    """Adds to each item's score what the terms asked for (numbers in `found`) are worth."""
    for u, times in collections.Counter(asked.tolist()).items():
        share_F = times * share_UF[u]
        for item_P, kind_P in found[u]:
            np.add.at(score_D, item_P, share_F.take(kind_P))


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
