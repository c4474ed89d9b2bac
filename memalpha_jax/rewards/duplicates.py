"""Which calls store again what the same trajectory has stored before."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from memalpha_jax.memory.retrieval import words
from memalpha_jax.memory.state import MemoryType
from memalpha_jax.tools.calls import CallKind, Status

_SLACK = 1e-9  # 0.8 * 15 must not ask for more than 12 words because of rounding


@lru_cache(maxsize=65536)
def _text_words(text: str) -> tuple[str, ...]:
    return tuple(words(text)) or (text.strip(),)


def jaccard(one: str, other: str) -> float:
    """Words in both texts over words in either, without case or punctuation."""
    a, b = frozenset(_text_words(one)), frozenset(_text_words(other))
    return len(a & b) / len(a | b)


@dataclass
class _Stored:
    """Everything one trajectory has stored so far, deleted and overwritten texts included.

    A text is compared with the texts of other items by Jaccard, with earlier texts of its own item (an update
    rewrites a text and may well change a single word) by equality of words.
    """

    threshold: float
    owners: list[Hashable] = field(default_factory=list)
    word_sets: list[frozenset[str]] = field(default_factory=list)
    rows_by_word: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    exact: set[tuple[Hashable, tuple[str, ...]]] = field(default_factory=set)

    def has(self, owner: Hashable, text: str) -> bool:
        in_order = _text_words(text)
        if (owner, in_order) in self.exact:
            return True
        bag = frozenset(in_order)
        # A text that shares enough words shares at least one of any `probes` of them; the rarest are looked
        # up.
        probes = len(bag) - math.ceil(self.threshold * len(bag) - _SLACK) + 1
        rarest = sorted(bag, key=lambda word: len(self.rows_by_word.get(word, ())))[:probes]
        rows = {row for word in rarest for row in self.rows_by_word.get(word, ())}
        return any(self.owners[row] != owner and self._near(bag, self.word_sets[row]) for row in rows)

    def _near(self, one: frozenset[str], other: frozenset[str]) -> bool:
        return len(one & other) >= self.threshold * len(one | other) - _SLACK

    def add(self, owner: Hashable, text: str) -> None:
        in_order = _text_words(text)
        self.exact.add((owner, in_order))
        self.owners.append(owner)
        self.word_sets.append(frozenset(in_order))
        for word in self.word_sets[-1]:
            self.rows_by_word[word].append(len(self.owners) - 1)


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
    success_NTK = np.isin(status_NTK, (Status.OK, Status.TRUNCATED))
    writes_NTK = success_NTK & np.isin(kind_NTK, (CallKind.INSERT, CallKind.UPDATE))
    repeated_NTK = np.zeros(status_NTK.shape, bool)
    for n in range(len(status_NTK)):
        stored, next_id = _Stored(threshold), 1  # ids count the successful inserts
        for t, k in np.argwhere(writes_NTK[n]).tolist():
            owner: Hashable = int(item_id_NTK[n, t, k])
            if memory_type_NTK[n, t, k] == MemoryType.CORE:
                owner = "core"
            elif kind_NTK[n, t, k] == CallKind.INSERT:
                owner, next_id = next_id, next_id + 1
            text = texts[n][t][k]
            repeated_NTK[n, t, k] = stored.has(owner, text)
            stored.add(owner, text)
    return repeated_NTK
