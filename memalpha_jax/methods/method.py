"""What a method of remembering is: chunks are written to it one by one, and questions are put to what it kept.

memories = method.open(n)          # n empty memories, each used by a thread of its own
memory.write(chunk)                # one chunk after the other
memory.read(question)              # what the reader may look at
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

CORE, EPISODIC, SEMANTIC, CHUNK = "core", "episodic", "semantic", "chunk"
"""Kinds of entry that several methods have; a method may have others."""


@dataclass(frozen=True)
class Entry:
    """One piece of a memory: what it is called there, its kind, its text, and the chunk that last wrote it."""

    id: str
    kind: str
    text: str
    chunk: int


@dataclass(frozen=True)
class Operation:
    """One thing a method did to its memory while it read a chunk.

    Attributes:
      name: such as insert, update, delete, search. kind, id: of the entry concerned, "" where there is none.
      text: what was written or looked for. status: "ok", or why nothing came of it.
    """

    name: str
    kind: str = ""
    id: str = ""
    text: str = ""
    status: str = "ok"


@dataclass(frozen=True)
class WriteRecord:
    """What happened while a chunk was read.

    Attributes:
      replies: of the model, in order. operations: what they led to.
      prompt_tokens, reply_tokens: of all its calls together, as the model counts.
    """

    replies: tuple[str, ...] = ()
    operations: tuple[Operation, ...] = ()
    prompt_tokens: int = 0
    reply_tokens: int = 0


@dataclass(frozen=True)
class Passage:
    """One text the reader may look at.

    Attributes:
      place: position of the entry in its memory: a reader for whom order matters has them in this order.
      score: of the retrieval, None where there was none. chunk: where the text comes from.
    """

    text: str
    kind: str
    id: str = ""
    place: int = 0
    score: float | None = None
    chunk: int | None = None


@dataclass(frozen=True)
class Context:
    """What a memory has to say to a question: passages, the most relevant first.

    Attributes:
      answer: the answer itself, of a method that has no text to show a reader.
      calls: calls of a language model it took to find them.
    """

    passages: tuple[Passage, ...] = ()
    answer: str | None = None
    calls: int = 0


class Memory(Protocol):
    """The memory of one episode."""

    def write(self, chunk: str) -> WriteRecord:
        """Reads the next chunk. Raises ChatError where the method's model fails for good."""
        ...

    def read(self, question: str) -> Context:
        """What the reader may look at to answer `question`; more than its budget is cut off by the caller."""
        ...

    def entries(self) -> Sequence[Entry]:
        """Everything that is kept, in the memory's own order."""
        ...

    @property
    def memory_tokens(self) -> int:
        """Length of what is kept, in tokens of the run's tokenizer; markup and ids do not count."""
        ...

    def close(self) -> None:
        """The thread of this memory asks no more; to close twice does nothing."""
        ...


class Method(Protocol):
    """A way of remembering.

    Attributes:
      name: as in `config.methods`. about: one sentence for tables: what it keeps, and what was simplified.
      identity: tells its results from those it would have with another model or other settings.
    """

    @property
    def name(self) -> str: ...

    @property
    def about(self) -> str: ...

    @property
    def identity(self) -> str: ...

    def open(self, n: int) -> Sequence[Memory]:
        """`n` empty memories that are written side by side, each by a thread of its own.

        What a memory becomes does not depend on timing; it may depend on `n` and on its place among them only as far as
        floating-point sums do.
        """
        ...
