"""mirix: six typed stores, each with a manager, and a router before them (MIRIX, arXiv 2507.07957).

Core memory (blocks persona and human, of limited length), episodic, semantic, procedural and resource memory and the
knowledge vault. Writing: the meta manager is shown a chunk and names the stores it concerns; the manager of each of
these is shown the chunk and what its store has that is most like it, and inserts, updates and deletes (core: appends
and rewrites). Reading: the core, and the best entries of every store.

What was simplified: an entry is one text where the original has fields (summary, details, actor, steps, ...);
retrieval is that of `config.retrieval`, BM25 unless it is told to embed, with the question as the topic that the
original's agent thinks of first; the managers work one after the other, not at once, which changes nothing, as each
has a store of its own; no screenshots; the vault is shown to the reader like any other store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from memalpha_jax.methods.method import CORE, EPISODIC, SEMANTIC, Entry, Operation, Passage
from memalpha_jax.methods.prompting import load_prompts
from memalpha_jax.methods.replies import Edit, listed, read_edits
from memalpha_jax.methods.session import ChatMemory, ChatMethod, ChatParts, Session, numbered
from memalpha_jax.methods.store import CoreBlocks

BLOCKS = ("persona", "human")
STORES: Mapping[str, str] = {
    EPISODIC: "episodic memory, of events with their time, place and participants",
    SEMANTIC: "semantic memory, of facts and concepts about the world, people and things, and of labelled examples",
    "procedural": "procedural memory, of guides and workflows, step by step",
    "resource": "resource memory, of documents and files, and what they say",
    "vault": "knowledge vault, of sensitive values to be kept word for word",
}
"""The stores that are lists, and how their managers are told of them."""


def mirix(parts: ChatParts, core_tokens: int, similar: int, top_k: int) -> ChatMethod:
    """Args: core_tokens: longest core block. similar: entries shown to a manager. top_k: entries of each store read."""
    found = f"{parts.retrieval.about}, {top_k} of each store"
    return ChatMethod(
        name="mirix",
        about=f"core blocks and five typed stores, a router and a manager each; {found}",
        settings=f"core={core_tokens} similar={similar} top_k={top_k}",
        prompts=("mirix",),
        parts=parts,
        make=lambda session: TypedStores(session, core_tokens, similar, top_k),
    )


class TypedStores(ChatMemory):
    """The memory of `mirix`."""

    def __init__(self, session: Session, core_tokens: int, similar: int, top_k: int):
        super().__init__(session)
        self._core = CoreBlocks(BLOCKS, core_tokens, session.parts.count_tokens)
        self._store = session.new_store()
        self._similar, self._top_k = similar, top_k
        prompts = load_prompts("mirix")
        self._route_prompt, self._core_prompt = prompts["route"], prompts["core"].stating(limit=core_tokens)
        self._list_prompts = {kind: prompts["list"].stating(store=told) for kind, told in STORES.items()}

    def read_chunk(self, chunk: str) -> list[Operation]:
        named = listed(self.session.ask(self._route_prompt, {"chunk": chunk}), "stores")
        if named is None:
            return [Operation("route", status="bad_json")]
        operations = []
        for kind in dict.fromkeys(name.lower() for name in named):
            if kind == CORE:
                operations += self._manage_core(chunk)
            elif kind in STORES:
                operations += self._manage_list(kind, chunk)
            else:
                operations.append(Operation("route", kind, status="unknown_type"))
        return operations

    def _manage_core(self, chunk: str) -> list[Operation]:
        slots = {"chunk": chunk, "core": self._core.lines()}
        edits = read_edits(self.session.ask(self._core_prompt, slots))
        if edits is None:
            return [Operation("manage", CORE, status="bad_json")]
        return [self._edit_core(edit) for edit in edits]

    def _edit_core(self, edit: Edit) -> Operation:
        if edit.name == "append":
            return self._core.append(edit.id, edit.text)
        if edit.name == "rewrite":
            return self._core.rewrite(edit.id, edit.text)
        return Operation(edit.name or "edit", CORE, edit.id, edit.text, "unknown_event")

    def _manage_list(self, kind: str, chunk: str) -> list[Operation]:
        near = self._store.search([kind], chunk, self._similar)
        slots = {"chunk": chunk, "entries": numbered(near)}
        edits = read_edits(self.session.ask(self._list_prompts[kind], slots))
        shown = {passage.id for passage in near}
        if edits is None:
            return [Operation("manage", kind, status="bad_json")]
        return [self._store.apply(edit, kind, shown, self.chunk) for edit in edits]

    def find(self, question: str) -> list[Passage]:
        return [*self._core.passages(), *self._store.search(tuple(STORES), question, self._top_k)]

    def entries(self) -> Sequence[Entry]:
        return [*self._core.entries(), *self._store.entries()]

    @property
    def memory_tokens(self) -> int:
        return self._core.tokens + self._store.tokens
