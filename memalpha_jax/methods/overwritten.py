"""A memory that is one text, overwritten as a whole at every chunk: memagent and mem1 differ in how it is asked for."""

from __future__ import annotations

from collections.abc import Callable

from memalpha_jax.methods.context import shorten
from memalpha_jax.methods.method import CORE, Entry, Operation, Passage
from memalpha_jax.methods.prompting import Prompt, load_prompts
from memalpha_jax.methods.session import NOTHING, ChatMemory, ChatMethod, ChatParts, Session

ReadText = Callable[[str], tuple[str, str]]
"""From a reply to the new text and a status: "ok", or why there is none."""


def overwriting(
    name: str, about: str, prompt: str, slot: str, read_text: ReadText, parts: ChatParts, tokens: int
) -> ChatMethod:
    """A method that keeps one text of at most `tokens` tokens; the prompt of this heading shows it in `slot`."""
    made = load_prompts(name)[prompt].stating(limit=tokens)
    return ChatMethod(
        name=name,
        about=about,
        settings=f"tokens={tokens}",
        prompts=(name,),
        parts=parts,
        make=lambda session: OverwrittenText(session, made, slot, read_text, tokens),
    )


class OverwrittenText(ChatMemory):
    """At most `limit` tokens, whatever the model writes; a reply without a text leaves the old one."""

    def __init__(self, session: Session, prompt: Prompt, slot: str, read_text: ReadText, limit: int):
        super().__init__(session)
        self._prompt, self._slot, self._read_text = prompt, slot, read_text
        self._limit, self._count, self._text = limit, session.parts.count_tokens, ""

    def read_chunk(self, chunk: str) -> list[Operation]:
        reply = self.session.ask(self._prompt, {"chunk": chunk, self._slot: self._text or NOTHING})
        text, status = self._read_text(reply)
        if not text:
            return [Operation("overwrite", CORE, self._slot, status=status)]
        kept = shorten(text, self._limit, self._count)
        self._text = kept
        return [Operation("overwrite", CORE, self._slot, kept, "truncated" if kept != text else status)]

    def find(self, question: str) -> list[Passage]:
        return [Passage(e.text, CORE, e.id) for e in self.entries()]

    def entries(self) -> list[Entry]:
        return [Entry(self._slot, CORE, self._text, -1)] if self._text else []

    @property
    def memory_tokens(self) -> int:
        return self._count(self._text)
