"""memalpha over a chat model: our memory as text, written by any language model with the tools of the policy.

The published comparison has a row for an untrained model (gpt-4.1-mini) with the same memory. The model is shown what
a policy is shown (`tools/prompts`, `memory/template.py`), its reply is parsed by `tools.wire`, and calls get the same
statuses. For the same replies both end with the same memory.

What differs: the template's markup becomes the roles of messages, which the model's own template marks up; the items
shown besides the most recent ones are those most like the chunk by words, not by pairs of tokens; in a prompt over
the model's context fewer items are shown, and then the chunk is cut, where the policy refuses it; and there is no
limit to the calls of one reply, nor to the items that are kept.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from memalpha_jax.memory.render import shown_choices
from memalpha_jax.memory.state import LISTS, MemoryConfig, MemoryType
from memalpha_jax.memory.template import PromptTemplate, parse_template
from memalpha_jax.methods.method import CORE, Entry, Operation, Passage
from memalpha_jax.methods.prompting import Prompt, Slots
from memalpha_jax.methods.session import ChatMemory, ChatMethod, ChatParts, Session
from memalpha_jax.policy.tokenizer import Tokenizer
from memalpha_jax.tools.calls import CallKind, Status, ToolCall, truncate_with_note
from memalpha_jax.tools.prompts import load_template
from memalpha_jax.tools.schemas import tools_text
from memalpha_jax.tools.wire import parse_calls

_TURN = re.compile(r"<\|im_start\|>(\w+)\n|<\|im_end\|>\n?")
_NAMES = {kind: kind.name.lower() for kind in MemoryType}


@dataclasses.dataclass(frozen=True)
class NotebookSettings:
    """What a notebook is written with. `wire`: also the name of its template. `top_k`: entries of each list read."""

    memory: MemoryConfig
    tokenizer: Tokenizer
    wire: str
    top_k: int

    def count(self, text: str) -> int:
        return len(self.tokenizer.encode(text))


def memalpha_chat(parts: ChatParts, memory: MemoryConfig, tokenizer: Tokenizer, wire: str, top_k: int) -> ChatMethod:
    """Args: memory: sizes of the core and what is shown. tokenizer: counts, and cuts the core. wire: see `tools.wire`.

    Raises:
      UserError: no such wire.
    """
    settings = NotebookSettings(memory, tokenizer, wire, top_k)
    template = load_template(wire)
    parsed = parse_template(template, memory, tools_text(wire, memory.enabled))
    prompt = chat_prompt(parsed)
    found = f"{parts.retrieval.about}, {top_k} of each list"
    return ChatMethod(
        name="memalpha",
        about=f"core, episodic and semantic memory written by a chat model; {found}",
        settings=f"chat wire={wire} top_k={top_k} {memory} template={template!r}",
        prompts=(),
        parts=parts,
        make=lambda session: TextNotebook(session, settings, parsed, prompt),
    )


def chat_prompt(template: PromptTemplate) -> Prompt:
    """The fixed texts and slots of a template by the roles that its markup gives them."""
    role = ""
    parts: dict[str, list[tuple[str, str]]] = {"system": [], "user": []}
    for kind, value in template.parts:
        if kind == "slot":
            parts[role].append((kind, value))
            continue
        start = 0
        for turn in _TURN.finditer(value):
            parts.setdefault(role, []).append((kind, value[start : turn.start()]))
            role, start = turn[1] or "", turn.end()
        parts.setdefault(role, []).append((kind, value[start:]))
    system = "".join(value if kind == "text" else f"{{{{{value}}}}}" for kind, value in parts["system"])
    return Prompt("memalpha", system, tuple(part for part in parts["user"] if part[1]))


class TextNotebook(ChatMemory):
    """The memory of `memalpha_chat`."""

    def __init__(self, session: Session, settings: NotebookSettings, template: PromptTemplate, prompt: Prompt):
        super().__init__(session)
        self._settings, self._template = settings, template
        self._prompt = prompt.stating(core_limit=settings.memory.core_tokens)
        self._core, self._store = "", session.new_store()

    def read_chunk(self, chunk: str) -> list[Operation]:
        reply = self.session.ask_whole(self._prompt, *self.choices(chunk))
        return [self._apply(call) for call in parse_calls(reply, self._settings.wire)]

    def choices(self, chunk: str) -> list[Slots]:
        """What the prompt may show, the fullest first; see `render.shown_choices`."""
        memory = self._settings.memory
        names = [_NAMES[kind] for kind in LISTS]
        near = self._store.search(names, chunk, memory.similar_items) if memory.similar_items else []
        return [self._slots(chunk, recent, near[:similar]) for recent, similar in shown_choices(memory)]

    def _slots(self, chunk: str, recent: int, near: Sequence[Passage]) -> Slots:
        core_tokens, empty = self._settings.count(self._core), self._template.empty
        numbers = {"core_tokens": str(core_tokens), "core_limit": str(self._settings.memory.core_tokens)}
        texts = {"chunk": chunk, "core": self._core or empty}
        for kind in LISTS:
            items = [entry for entry in self._store.entries() if entry.kind == _NAMES[kind]]
            ids = {entry.id for entry in items[max(0, len(items) - recent) :]} | {passage.id for passage in near}
            shown = [entry for entry in items if entry.id in ids]
            lines = [self._template.item.line(int(entry.id), entry.text) for entry in shown]
            texts[_NAMES[kind]] = "".join(line + "\n" for line in (lines if items else [empty]))
            numbers[f"{_NAMES[kind]}_shown"], numbers[f"{_NAMES[kind]}_total"] = str(len(shown)), str(len(items))
        return numbers | texts

    def _apply(self, call: ToolCall) -> Operation:
        """One call, judged as `memory.ops` judges it."""
        kind = "" if call.memory_type is None else _NAMES[MemoryType(call.memory_type)]
        item = "" if call.memory_id is None or kind == CORE else str(call.memory_id)
        status, text = self._verdict(call, kind, item), call.content or ""
        if kind == CORE and status.success:
            text, status = self._set_core(text)
        elif status.success:
            item = self._change(call.kind, kind, item, text)
        name = "ok" if status == Status.OK else status.name.lower()
        return Operation(call.kind.name.lower(), kind, item, text if status.success else call.content or "", name)

    def _verdict(self, call: ToolCall, kind: str, item: str) -> Status:
        if call.status != Status.OK:
            return call.status
        if kind not in self._settings.memory.enabled:
            return Status.TYPE_DISABLED
        if kind == CORE:
            if call.kind == CallKind.INSERT:
                return Status.NOT_ALLOWED
            return Status.UNKNOWN_ID if call.kind == CallKind.DELETE and not self._core else Status.OK
        of_kind: Mapping[str, str] = {e.id: e.text for e in self._store.entries() if e.kind == kind}
        if call.kind == CallKind.INSERT:
            return Status.SKIPPED if call.content in of_kind.values() else Status.OK
        return Status.OK if item in of_kind else Status.UNKNOWN_ID

    def _set_core(self, text: str) -> tuple[str, Status]:
        s = self._settings
        status = Status.OK
        if s.count(text) > s.memory.core_tokens:
            text = s.tokenizer.decode(truncate_with_note(text, s.tokenizer, s.memory.core_tokens))
            status = Status.TRUNCATED
        self._core = text
        return text, status

    def _change(self, call: CallKind, kind: str, item: str, text: str) -> str:
        """Carries out a call on a list that was found good; the id it concerns."""
        if call == CallKind.INSERT:
            return self._store.insert(kind, text, self.chunk).id
        if call == CallKind.UPDATE:
            return self._store.update(kind, item, text, self.chunk).id
        return self._store.delete(kind, item).id

    def find(self, question: str) -> list[Passage]:
        names = [_NAMES[kind] for kind in LISTS]
        core = [Passage(self._core, CORE, "core", -1)] if self._core else []
        return [*core, *self._store.search(names, question, self._settings.top_k)]

    def entries(self) -> Sequence[Entry]:
        core = [Entry("core", CORE, self._core, -1)] if self._core else []
        return [*core, *self._store.entries()]

    @property
    def memory_tokens(self) -> int:
        return self.session.parts.count_tokens(self._core) + self._store.tokens
