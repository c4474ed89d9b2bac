"""Which entries of a memory bear on a question: the best of each kind, by indexes that follow the memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain, takewhile, zip_longest

from memalpha_jax.memory.retrieval import TextIndex
from memalpha_jax.methods.method import Entry, Passage


class Ranking:
    """The entries of one memory, an index for each kind; only what changed since the last question is read again."""

    def __init__(self, make_index: Callable[[], TextIndex[str]]):
        self._make_index = make_index
        self._kinds: dict[str, _Followed] = {}

    def best_passages(self, entries: Sequence[Entry], kinds: Sequence[str], question: str, top_k: int) -> list[Passage]:
        """The `top_k` best entries of each of the kinds, the first of every kind before the second of any.

        A reader with room for fewer thus sees an equally shorter part of each kind.

        Raises:
          ValueError: two entries of a kind have the same id.
        """
        of_kind: Mapping[str, list[tuple[int, Entry]]] = {kind: [] for kind in kinds}
        for place, entry in enumerate(entries):
            if entry.kind in of_kind:
                of_kind[entry.kind].append((place, entry))
        ranked = [self._ranked(kind, placed, question, top_k) for kind, placed in of_kind.items()]
        return [passage for passage in chain.from_iterable(zip_longest(*ranked)) if passage is not None]

    def _ranked(self, kind: str, placed: Sequence[tuple[int, Entry]], question: str, top_k: int) -> list[Passage]:
        if kind not in self._kinds:
            self._kinds[kind] = _Followed(self._make_index())
        by_id = {entry.id: (place, entry) for place, entry in placed}
        if len(by_id) < len(placed):
            raise ValueError(f"two entries of kind {kind!r} have the same id")
        index = self._kinds[kind].follow({id: entry.text for id, (_, entry) in by_id.items()})
        found = [(*by_id[id], score) for id, score in index.best(question, top_k)]
        return [Passage(e.text, kind, e.id, place, score, e.chunk) for place, e, score in found]


class _Followed:
    """An index, and the texts that it holds, by id and in its order."""

    def __init__(self, index: TextIndex[str]):
        self._index, self._texts = index, dict[str, str]()

    def follow(self, texts: Mapping[str, str]) -> TextIndex[str]:
        """The index after it was given exactly these texts, in this order, by as few updates as keep it."""
        for id in [id for id in self._texts if id not in texts]:
            self._index.remove(id)
            del self._texts[id]
        # Ties go by the order of the index: what follows the first one out of order is added anew.
        pairs = zip(self._texts, texts, strict=False)
        kept = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        for id in list(self._texts)[kept:]:
            self._index.remove(id)
        for id, text in list(texts.items())[kept:]:
            self._index.add(id, text)
        for id in list(texts)[:kept]:
            if self._texts[id] != texts[id]:
                self._index.replace(id, texts[id])
        self._texts = dict(texts)
        return self._index
