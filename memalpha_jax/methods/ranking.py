"""Which entries of a memory bear on a question: the best of each kind, by BM25."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest

from memalpha_jax.memory.retrieval import Bm25Index
from memalpha_jax.methods.method import Entry, Passage


def best_passages(entries: Sequence[Entry], kinds: Sequence[str], question: str, top_k: int) -> list[Passage]:
    """The `top_k` best entries of each of the kinds, the first of every kind before the second of any.

    A reader with room for fewer thus sees an equally shorter part of each kind.
    """
    of_kind: Mapping[str, list[tuple[int, Entry]]] = {kind: [] for kind in kinds}
    for place, entry in enumerate(entries):
        if entry.kind in of_kind:
            of_kind[entry.kind].append((place, entry))
    ranked = [_ranked(placed, question, top_k) for placed in of_kind.values() if placed]
    return [passage for passage in chain.from_iterable(zip_longest(*ranked)) if passage is not None]


def _ranked(placed: Sequence[tuple[int, Entry]], question: str, top_k: int) -> list[Passage]:
    index = Bm25Index([entry.text for _, entry in placed])
    scores = index.scores(question)
    found = [(*placed[row], float(scores[row])) for row in index.rank(question, top_k)]
    return [Passage(e.text, e.kind, e.id, place, score, e.chunk) for place, e, score in found]
