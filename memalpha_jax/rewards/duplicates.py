"""Which calls store again what the same trajectory has stored before."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from memalpha_jax.memory.retrieval import words
from memalpha_jax.memory.state import MemoryType
from memalpha_jax.tools.calls import SUCCESSES, CallKind

_CORE = -1  # owner of the core paragraph, beside the item ids
_SLACK = 1e-9  # 0.8 * 15 must not ask for more than 12 words because of rounding


@lru_cache(maxsize=65536)
def _text_words(text: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """The words of a text in order and as a set; a text without words is a word of its own."""
    in_order = tuple(words(text)) or (text.strip(),)
    return in_order, frozenset(in_order)


def jaccard(one: str, other: str) -> float:
    """Words in both texts over words in either, without case or punctuation."""
    a, b = _text_words(one)[1], _text_words(other)[1]
    return len(a & b) / len(a | b)


@dataclass
class _Stored:
    """Everything one trajectory has stored so far, deleted and overwritten texts included.

    A text is compared with the texts of other items by Jaccard, with earlier texts of its own item (an update
    rewrites a text and may well change a single word) by equality of words.
    """

    threshold: float
    owners: list[int] = field(default_factory=list)
    word_sets: list[frozenset[str]] = field(default_factory=list)
    rows_by_word: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    exact: set[tuple[int, tuple[str, ...]]] = field(default_factory=set)

    def has(self, owner: int, text: str) -> bool:
        in_order, bag = _text_words(text)
        if (owner, in_order) in self.exact:
            return True
        # A text that shares enough words shares at least one of any `probes` of them; the rarest are looked
        # up.
        probes = len(bag) - math.ceil(self.threshold * len(bag) - _SLACK) + 1
        rarest = sorted([self.rows_by_word.get(word, ()) for word in bag], key=len)[:probes]
        rows = set().union(*rarest)
        return any(self.owners[row] != owner and self._near(bag, self.word_sets[row]) for row in rows)

    def _near(self, one: frozenset[str], other: frozenset[str]) -> bool:
        return len(one & other) >= self.threshold * len(one | other) - _SLACK

    def add(self, owner: int, text: str) -> None:
        in_order, bag = _text_words(text)
        self.exact.add((owner, in_order))
        for word in bag:
            self.rows_by_word[word].append(len(self.owners))
        self.owners.append(owner)
        self.word_sets.append(bag)


def near_duplicates(
    kind_NTK: np.ndarray,
    memory_type_NTK: np.ndarray,
    item_id_NTK: np.ndarray,
    status_NTK: np.ndarray,
    texts: Sequence[Sequence[Sequence[str]]],
    threshold: float,
) -> np.ndarray:
    """bool[N, T, K]: calls that changed the memory but brought nothing new.

    A call is compared with everything stored before it in its trajectory, in order of chunks and calls: near
    means a word Jaccard of at least `threshold` with a text of another item of any type, or the same words as
    an earlier text of the item it rewrites. `texts[n][t][k]` is the text of call k.
    """
    success_NTK = np.isin(status_NTK, SUCCESSES)
    writes_NTK = success_NTK & np.isin(kind_NTK, (CallKind.INSERT, CallKind.UPDATE))
    repeated_NTK = np.zeros(status_NTK.shape, bool)
    owner_NTK = np.where(kind_NTK == CallKind.INSERT, 0, item_id_NTK)
    owner_NTK = np.where(memory_type_NTK == MemoryType.CORE, _CORE, owner_NTK)
    stored, trajectory, next_id = _Stored(threshold), -1, 1
    places = np.argwhere(writes_NTK)
    for (n, t, k), owner in zip(places.tolist(), owner_NTK[writes_NTK].tolist(), strict=True):
        if n != trajectory:
            stored, trajectory, next_id = _Stored(threshold), n, 1
        if owner == 0:  # a new item; ids count the successful inserts from 1
            owner, next_id = next_id, next_id + 1
        text = texts[n][t][k]
        repeated_NTK[n, t, k] = stored.has(owner, text)
        stored.add(owner, text)
    return repeated_NTK
