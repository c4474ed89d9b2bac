"""bm25_rag: no memory but all raw chunks, of which those are read that BM25 ranks first for the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memalpha_jax.episodes.chunkers import CountTokens
from memalpha_jax.memory.retrieval import Bm25Index
from memalpha_jax.methods.method import CHUNK, Context, Entry, Operation, Passage, WriteRecord


@dataclass(frozen=True)
class Bm25Rag:
    """Keeps every chunk; hands over the `chunks` best (the published comparison: 2)."""

    chunks: int
    count_tokens: CountTokens
    name: str = "bm25_rag"

    @property
    def about(self) -> str:
        return f"every raw chunk; the {self.chunks} that BM25 ranks first are read"

    @property
    def identity(self) -> str:
        return f"bm25_rag chunks={self.chunks}"

    def open(self, n: int) -> list[RawChunks]:
        return [RawChunks(self.chunks, self.count_tokens) for _ in range(n)]


class RawChunks:
    """The memory of `Bm25Rag`."""

    def __init__(self, chunks: int, count_tokens: CountTokens):
        self._chunks, self._count = chunks, count_tokens
        self._entries: list[Entry] = []
        self._index: Bm25Index[int] = Bm25Index()
        self._tokens = 0

    def write(self, chunk: str) -> WriteRecord:
        at = len(self._entries)
        self._entries.append(Entry(str(at), CHUNK, chunk, at))
        self._index.add(at, chunk)
        self._tokens += self._count(chunk)
        return WriteRecord(operations=(Operation("keep", CHUNK, str(at)),))

    def read(self, question: str) -> Context:
        found = [(self._entries[at], score) for at, score in self._index.best(question, self._chunks)]
        return Context(tuple(Passage(e.text, CHUNK, e.id, e.chunk, score, e.chunk) for e, score in found))

    def entries(self) -> Sequence[Entry]:
        return self._entries

    @property
    def memory_tokens(self) -> int:
        return self._tokens

    def close(self) -> None:
        pass
