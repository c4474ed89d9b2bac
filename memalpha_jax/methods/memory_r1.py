"""memory_r1: a flat bank kept by a memory manager, read by an answer agent that filters (Memory-R1, arXiv 2508.19828).

Writing (memory manager): the facts of a chunk are extracted, the memories related to them are retrieved, and the
manager answers with one list of ADD, UPDATE, DELETE and NOOP. Reading (answer agent): up to 60 memories are retrieved
for the question, and a distillation step keeps those that help.

What was simplified: manager and answer agent are not fine-tuned by reinforcement learning; nearness is that of
`config.retrieval`, BM25 unless it is told to embed, and the 60 candidates come from one bank instead of 30 from each
speaker's; distillation is a call of its own, where the original filters and answers in one reply, so that every
method is answered by the same reader. A distillation that cannot be read filters nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from memalpha_jax.methods.facts import FACT, FactMemory
from memalpha_jax.methods.method import Operation, Passage
from memalpha_jax.methods.prompting import load_prompts
from memalpha_jax.methods.replies import listed, read_edits
from memalpha_jax.methods.session import ChatMethod, ChatParts, numbered

CANDIDATES = 60


def memory_r1(parts: ChatParts, similar: int) -> ChatMethod:
    """Args: similar: stored memories that the manager is shown for each new fact."""
    found = f"{parts.retrieval.about}, {CANDIDATES} of them, filtered by the model"
    return ChatMethod(
        name="memory_r1",
        about=f"a flat bank of facts kept by an untrained manager; {found}",
        settings=f"similar={similar} candidates={CANDIDATES}",
        prompts=("facts", "memory_r1"),
        parts=parts,
        make=lambda session: MemoryBank(session, similar),
    )


class MemoryBank(FactMemory):
    """The memory of `memory_r1`."""

    def revise(self, facts: Sequence[str]) -> list[Operation]:
        near = [passage for fact in facts for passage in self.store.search([FACT], fact, self.similar)]
        related = sorted({passage.id: passage for passage in near}.values(), key=lambda passage: passage.place)
        slots = {"facts": [f"- {fact}" for fact in facts], "related": numbered(related)}
        edits = read_edits(self.session.ask(load_prompts("memory_r1")["manage"], slots))
        if not edits:
            return [Operation("manage", FACT, status="bad_json")]
        shown = {passage.id for passage in related}
        return [self.store.apply(edit, FACT, shown, self.chunk) for edit in edits]

    def find(self, question: str) -> list[Passage]:
        found = self.store.search([FACT], question, CANDIDATES)
        if not found:
            return []
        slots = {"question": question, "memories": numbered(found)}
        useful = listed(self.session.ask(load_prompts("memory_r1")["distil"], slots), "useful")
        return found if useful is None else [passage for passage in found if passage.id in useful]
