"""A memory that is one text, overwritten as a whole at every chunk: memagent and mem1 differ in how it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from memalpha_jax.chat.model import ChatModel
from memalpha_jax.episodes.chunkers import CountTokens
from memalpha_jax.methods.context import shorten
from memalpha_jax.methods.method import CORE, Entry, Operation, Passage
from memalpha_jax.methods.prompting import Prompt, load_prompts, prompts_hash
from memalpha_jax.methods.session import NOTHING, ChatMemory, ChatMethod, Session

ReadText = Callable[[str], tuple[str, str]]
"""From a reply to the new text and a status: "ok", or why there is none."""


@dataclass(frozen=True)
class Sizes:
    """Longest text and longest reply, and what counts the text."""

    tokens: int
    reply_tokens: int
    count_tokens: CountTokens


def overwriting(
    name: str, about: str, prompt: str, slot: str, read_text: ReadText, model: ChatModel, sizes: Sizes
) -> ChatMethod:
    """A method that keeps one text; the prompt of this heading in its file shows it in `slot`."""
    made = load_prompts(name)[prompt].stating(limit=sizes.tokens)
    return ChatMethod(
        name=name,
        about=about,
        settings=f"tokens={sizes.tokens} prompts={prompts_hash(name)}",
        model=model,
        reply_tokens=sizes.reply_tokens,
        make=lambda session: OverwrittenText(session, made, slot, read_text, sizes),
    )


class OverwrittenText(ChatMemory):
    """At most so many tokens, whatever the model writes; a reply without a text leaves the old one."""

    def __init__(self, session: Session, prompt: Prompt, slot: str, read_text: ReadText, sizes: Sizes):
        super().__init__(session)
        self._prompt, self._slot, self._read_text = prompt, slot, read_text
        self._limit, self._count = sizes.tokens, sizes.count_tokens
        self._text, self._written = "", -1

    def read_chunk(self, chunk: str) -> list[Operation]:
        reply = self.session.ask(self._prompt, {"chunk": chunk, self._slot: self._text or NOTHING})
        text, status = self._read_text(reply)
        if not text:
            return [Operation("overwrite", CORE, self._slot, status=status)]
        kept = shorten(text, self._limit, self._count)
        self._text, self._written = kept, self.chunk
        return [Operation("overwrite", CORE, self._slot, kept, "truncated" if kept != text else status)]

    def find(self, question: str) -> list[Passage]:
        return [Passage(e.text, CORE, e.id, chunk=e.chunk) for e in self.entries()]

    def entries(self) -> list[Entry]:
        return [Entry(self._slot, CORE, self._text, self._written)] if self._text else []

    @property
    def memory_tokens(self) -> int:
        return self._count(self._text)
