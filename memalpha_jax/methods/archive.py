"""An archive of raw chunks beside any memory: a reader is also given the chunks that the entries came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeGuard

from memalpha_jax.episodes.chunkers import CountTokens
from memalpha_jax.methods.method import CHUNK, Context, Entry, Memory, Method, Passage, WriteRecord


class Archived:
    """`method`, with an archive for each of its memories."""

    def __init__(self, method: Method, count_tokens: CountTokens):
        self._method, self._count = method, count_tokens
        self.name = method.name

    @property
    def about(self) -> str:
        return f"{self._method.about}; with the raw chunks that the entries found point at"

    @property
    def identity(self) -> str:
        return f"archive {self._method.identity}"

    def open(self, n: int) -> list[ArchivedMemory]:
        return [ArchivedMemory(memory, self._count) for memory in self._method.open(n)]


class ArchivedMemory:
    """A memory and the chunks it was written from; chunks that no entry points at any more do not count as kept."""

    def __init__(self, memory: Memory, count_tokens: CountTokens):
        self._memory, self._count = memory, count_tokens
        self._chunks: list[str] = []

    def write(self, chunk: str) -> WriteRecord:
        self._chunks.append(chunk)
        return self._memory.write(chunk)

    def read(self, question: str) -> Context:
        """What the memory hands over, then each chunk it points at once, unless that is a passage already."""
        context = self._memory.read(question)
        after = 1 + max((p.place for p in context.passages), default=0)
        chunks = self._pointed_at(context.passages)
        found = [Passage(self._chunks[n], CHUNK, f"chunk {n}", after + n, chunk=n) for n in chunks]
        return dataclasses.replace(context, passages=(*context.passages, *found))

    def entries(self) -> Sequence[Entry]:
        return self._memory.entries()

    @property
    def memory_tokens(self) -> int:
        """Of the memory and of the chunks that its entries point at."""
        chunks = self._pointed_at(self.entries())
        return self._memory.memory_tokens + sum(self._count(self._chunks[n]) for n in chunks)

    def _pointed_at(self, entries: Sequence[Entry | Passage]) -> list[int]:
        """The chunks that these come from, in their order, without those that are among them word for word."""
        known = [(entry, entry.chunk) for entry in entries if _known(entry.chunk)]
        whole = {n for entry, n in known if entry.kind == CHUNK or entry.text == self._chunks[n]}
        return [n for n in dict.fromkeys(n for _, n in known) if n not in whole]

    def close(self) -> None:
        self._memory.close()


def _known(chunk: int | None) -> TypeGuard[int]:
    """Whether an entry says where it comes from; a text rewritten as a whole comes from no chunk in particular."""
    return chunk is not None and chunk >= 0
