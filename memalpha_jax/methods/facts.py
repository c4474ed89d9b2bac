"""Memories that are a flat list of facts: taken from a chunk by one call, then compared with what is stored."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from memalpha_jax.methods.method import Entry, Operation
from memalpha_jax.methods.prompting import load_prompts
from memalpha_jax.methods.replies import listed
from memalpha_jax.methods.session import ChatMemory, Session

FACT = "fact"
MAX_FACTS = 64
"""Of one chunk: each costs a search, and with mem0 a call."""


class FactMemory(ChatMemory):
    """Subclasses say how new facts are compared with old ones, and how facts are found for a question."""

    def __init__(self, session: Session, similar: int):
        super().__init__(session)
        self.store, self.similar = session.new_store(), similar

    def read_chunk(self, chunk: str) -> list[Operation]:
        facts = listed(self.session.ask(load_prompts("facts")["extract"], {"chunk": chunk}), "facts")
        if facts is None:
            return [Operation("extract", FACT, status="bad_json")]
        dropped = [Operation("extract", FACT, text=fact, status="too many facts") for fact in facts[MAX_FACTS:]]
        return [*(self.revise(facts[:MAX_FACTS]) if facts else ()), *dropped]

    @abstractmethod
    def revise(self, facts: Sequence[str]) -> list[Operation]:
        """Compares new facts with the stored ones, and changes those."""

    def entries(self) -> Sequence[Entry]:
        return self.store.entries()

    @property
    def memory_tokens(self) -> int:
        return self.store.tokens
