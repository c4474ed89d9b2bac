"""mem0: facts, each compared with the most similar stored ones (Mem0, arXiv 2504.19413).

Extraction: the model lists the facts of a chunk. Update: for each fact in turn the `similar` nearest memories are
looked up (the paper: 10), and the model chooses ADD, UPDATE, DELETE or NONE. A question retrieves the nearest
memories.

What was simplified: extraction sees the chunk alone, without the running summary of the conversation and the last ten
messages; nearness is that of `config.retrieval`, BM25 unless it is told to embed; the graph variant is left out. As
in the paper, one fact leads to one event: a fact that deletes what it contradicts is not stored besides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from memalpha_jax.methods.facts import FACT, FactMemory
from memalpha_jax.methods.method import Operation, Passage
from memalpha_jax.methods.prompting import load_prompts
from memalpha_jax.methods.replies import read_edits
from memalpha_jax.methods.session import ChatMethod, ChatParts, Session, numbered


def mem0(parts: ChatParts, similar: int, top_k: int) -> ChatMethod:
    """Args: similar: memories a new fact is compared with. top_k: memories handed over for a question."""
    found = f"{parts.retrieval.about}, {top_k} of them"
    return ChatMethod(
        name="mem0",
        about=f"facts, each added, merged or dropped beside the {similar} most similar; {found}",
        settings=f"similar={similar} top_k={top_k}",
        prompts=("facts", "mem0"),
        parts=parts,
        make=lambda session: Mem0Memory(session, similar, top_k),
    )


class Mem0Memory(FactMemory):
    """The memory of `mem0`."""

    def __init__(self, session: Session, similar: int, top_k: int):
        super().__init__(session, similar)
        self._top_k = top_k

    def revise(self, facts: Sequence[str]) -> list[Operation]:
        return [self._decide(fact) for fact in facts]

    def _decide(self, fact: str) -> Operation:
        near = self.store.search([FACT], fact, self.similar)
        if not near:  # as in the paper: nothing similar, so it is new
            return self.store.insert(FACT, fact, self.chunk)
        slots = {"fact": fact, "similar": numbered(near)}
        edits = read_edits(self.session.ask(load_prompts("mem0")["decide"], slots))
        if not edits:
            return Operation("decide", FACT, text=fact, status="bad_json")
        edit = dataclasses.replace(edits[0], text=edits[0].text or fact)
        return self.store.apply(edit, FACT, {passage.id for passage in near}, self.chunk)

    def find(self, question: str) -> list[Passage]:
        return self.store.search([FACT], question, self._top_k)
