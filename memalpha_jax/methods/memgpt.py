"""memgpt: core blocks that the model edits, archival memory, and a search of all messages (MemGPT, arXiv 2310.08560).

The working context (blocks persona and human, of limited length, here `core_tokens` each) is changed by append and
replace calls; archival memory is written by insert and read by search; recall memory holds every message and is
searched. A chunk is one event: the model calls functions, and when a search was among them it is shown what was found
and goes on (the paper's chaining of calls). A question is an event of its own, in which the model only searches, page
by page; the reader is given the core and everything that was found.

What was simplified: the queue of recent messages holds one message, the present chunk, so nothing is evicted from it
and there are no recursive summary and no warning of memory pressure; at most `ROUNDS` replies an event; both searches
are that of `config.retrieval`, BM25 unless it is told to embed (the original embeds for archival memory and matches
text in recall memory); a search that the model does not make finds nothing. Recall memory keeps the stream word for
word, and it counts as memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memalpha_jax.methods.method import Entry, Operation, Passage
from memalpha_jax.methods.prompting import Prompt, Slots, load_prompts
from memalpha_jax.methods.replies import FunctionCall, read_function_calls
from memalpha_jax.methods.session import ChatMemory, ChatMethod, ChatParts, Session, numbered
from memalpha_jax.methods.store import CoreBlocks

BLOCKS = ("persona", "human")
ARCHIVAL, RECALL = "archival", "recall"
SEARCHES = {"archival_memory_search": ARCHIVAL, "conversation_search": RECALL}
PAGE = 5
"""Results of one search."""
ROUNDS = 3

Results = dict[str, Passage]
"""What the searches of one event have found, by id, in the order it was found."""
Carry = Callable[[FunctionCall, Results], Operation]


def memgpt(parts: ChatParts, core_tokens: int) -> ChatMethod:
    """Args: core_tokens: longest core block."""
    return ChatMethod(
        name="memgpt",
        about="core blocks the model edits, archival memory it fills, all messages; it searches both for a question",
        settings=f"core={core_tokens} page={PAGE} rounds={ROUNDS}",
        prompts=("memgpt",),
        parts=parts,
        make=lambda session: TieredMemory(session, core_tokens),
    )


class TieredMemory(ChatMemory):
    """The memory of `memgpt`."""

    def __init__(self, session: Session, core_tokens: int):
        super().__init__(session)
        self._core = CoreBlocks(BLOCKS, core_tokens, session.parts.count_tokens)
        self._store = session.new_store()
        self._counts = dict.fromkeys((ARCHIVAL, RECALL), 0)
        prompts = load_prompts("memgpt")
        self._event_prompt, self._search_prompt = prompts["event"].stating(limit=core_tokens), prompts["search"]

    def read_chunk(self, chunk: str) -> list[Operation]:
        counts = {kind: str(count) for kind, count in self._counts.items()}
        operations, _ = self._event(self._event_prompt, {**counts, "chunk": chunk}, self._do)
        self._keep(RECALL, chunk)
        return operations or [Operation("call", status="no calls")]

    def _event(self, prompt: Prompt, slots: Slots, do: Carry) -> tuple[list[Operation], Results]:
        """Rounds of calls until no search finds anything new."""
        operations: list[Operation] = []
        results: Results = {}
        for _ in range(ROUNDS):
            before = len(results)
            shown = {"core": self._core.lines(), "results": numbered(list(results.values()))}
            calls = read_function_calls(self.session.ask(prompt, {**slots, **shown}))
            operations += [do(call, results) for call in calls]
            if len(results) == before:
                break
        return operations, results

    def _do(self, call: FunctionCall, results: Results) -> Operation:
        """Carries out one call of any function."""
        if call.name in SEARCHES:
            return self._search(call, results)
        if call.name == "archival_memory_insert":
            return self._keep(ARCHIVAL, call.text("content"))
        if call.name == "core_memory_append":
            return self._core.append(call.text("block"), call.text("content"))
        if call.name == "core_memory_replace":
            old, new = call.text("old_content"), call.text("new_content")
            return self._core.replace(call.text("block"), old, new)
        return Operation(call.name, status="unknown_tool")

    def _keep(self, kind: str, text: str) -> Operation:
        done = self._store.insert(kind, text, self.chunk)
        self._counts[kind] += done.status == "ok"
        return done

    def _search(self, call: FunctionCall, results: Results) -> Operation:
        """Carries out a search, and adds what it finds to `results`."""
        if call.name not in SEARCHES:
            return Operation(call.name, status="unknown_tool")
        kind, query, page = SEARCHES[call.name], call.text("query"), call.number("page")
        found = self._store.search([kind], query, (page + 1) * PAGE)[page * PAGE :]
        results.update((passage.id, passage) for passage in found if passage.id not in results)
        return Operation("search", kind, text=query, status="ok" if found else "nothing found")

    def find(self, question: str) -> list[Passage]:
        _, results = self._event(self._search_prompt, {"question": question}, self._search)
        return [*self._core.passages(), *results.values()]

    def entries(self) -> Sequence[Entry]:
        return [*self._core.entries(), *self._store.entries()]

    @property
    def memory_tokens(self) -> int:
        return self._core.tokens + self._store.tokens
