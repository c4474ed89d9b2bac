"""long_context: no memory but the end of the stream itself, as much of it as the reader's context holds."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from memalpha_jax.episodes.chunkers import CountTokens
from memalpha_jax.methods.context import shorten
from memalpha_jax.methods.method import CHUNK, Context, Entry, Operation, Passage, WriteRecord


@dataclass(frozen=True)
class LongContext:
    """Keeps the last `tokens` tokens of the stream, older text is dropped from the front."""

    tokens: int
    count_tokens: CountTokens
    name: str = "long_context"

    @property
    def about(self) -> str:
        return f"the last {self.tokens} tokens of the stream, word for word"

    @property
    def identity(self) -> str:
        return f"long_context tokens={self.tokens}"

    def open(self, n: int) -> list[RecentText]:
        return [RecentText(self.tokens, self.count_tokens) for _ in range(n)]


class RecentText:
    """The memory of `LongContext`."""

    def __init__(self, tokens: int, count_tokens: CountTokens):
        self._limit, self._count = tokens, count_tokens
        self._kept: deque[tuple[Entry, int]] = deque()
        self._read = 0

    def write(self, chunk: str) -> WriteRecord:
        self._kept.append((Entry(str(self._read), CHUNK, chunk, self._read), self._count(chunk)))
        self._read += 1
        while (over := self.memory_tokens - self._limit) > 0:
            entry, tokens = self._kept.popleft()
            if tokens > over:
                text = shorten(entry.text, tokens - over, self._count, keep="end")
                self._kept.appendleft((Entry(entry.id, CHUNK, text, entry.chunk), self._count(text)))
        return WriteRecord(operations=(Operation("keep", CHUNK, str(self._read - 1)),))

    def read(self, question: str) -> Context:
        """The newest chunk first, so that a smaller budget keeps the end."""
        passages = [Passage(e.text, CHUNK, e.id, e.chunk, chunk=e.chunk) for e in self.entries()]
        return Context(tuple(reversed(passages)))

    def entries(self) -> Sequence[Entry]:
        return [entry for entry, _ in self._kept if entry.text]

    @property
    def memory_tokens(self) -> int:
        return sum(tokens for _, tokens in self._kept)

    def close(self) -> None:
        pass
