"""The frozen reader as a language model: a memory and a question in, an answer out."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

from absl import logging

from memalpha_jax.chat.model import ChatModel, ChatRequest, Message
from memalpha_jax.methods.context import shorten
from memalpha_jax.rewards.prompt_file import PromptFile, load_prompt
from memalpha_jax.rewards.reader import ReaderQuery, asks_label, retrieve

SLOTS = ("core", "episodic", "semantic", "question")
CASES = ("label", "text")
NOTHING = "(nothing)"
MARKUP_TOKENS = 64
"""Room for what a chat template puts around messages."""


def load_reader_prompt(path: str) -> PromptFile:
    """The reader's prompt, or the one at `path`; UserError as `load_prompt`."""
    return load_prompt("reader", path, SLOTS, CASES)


class ChatReader:
    """A `Reader` over a language model.

    Core, events and facts are shown in blocks. What was not retrieved yet is: by BM25 the best `top_k` of each list,
    and of both as many fewer as it takes for the prompt to fit the budget.
    """

    def __init__(
        self,
        chat: ChatModel,
        prompt: PromptFile,
        budget: int,
        reply_tokens: int,
        temperature: float = 0.0,
        top_k: int = 20,
    ):
        """`budget`: tokens of a prompt; `reply_tokens`: of an answer at most."""
        self._chat, self._prompt, self._budget, self._top_k = chat, prompt, budget, top_k
        self._reply_tokens, self._temperature = reply_tokens, temperature
        self._count = functools.lru_cache(maxsize=65536)(chat.count_tokens)

    @property
    def identity(self) -> str:
        """Tells its answers from those of another model, prompt or setting."""
        settings = f"budget={self._budget} reply={self._reply_tokens} temperature={self._temperature}"
        return f"chat reader {self._chat.identity} {settings} top_k={self._top_k} {self._prompt}"

    def answer(self, queries: list[ReaderQuery]) -> list[str | None]:
        """One answer per query, thinking included; None, after a warning, where there is none for good."""
        requests = [
            ChatRequest(self._messages(self._fitting(query)), self._reply_tokens, self._temperature)
            for query in queries
        ]
        completions = self._chat.complete(requests)
        failures = [completion.failure for completion in completions if completion.failure]
        if failures:
            logging.warning("%d of %d ANSWERS FAILED FOR GOOD, first: %s", len(failures), len(queries), failures[0])
        return [None if completion.failure else completion.text for completion in completions]

    def _messages(self, query: ReaderQuery) -> tuple[Message, ...]:
        return self._prompt.messages(
            "label" if asks_label(query.question, query.data_source) else "text",
            core=query.core or NOTHING,
            episodic=_lines(query.episodic),
            semantic=_lines(query.semantic),
            question=query.question,
        )

    def _fitting(self, query: ReaderQuery) -> ReaderQuery:
        """The query with as much of its memory as the prompt has room for."""
        limit = self._chat.context_tokens - self._reply_tokens
        if not query.retrieved:
            limit = min(limit, self._budget)
        bare = self._messages(replace(query, core="", episodic=(), semantic=()))
        room = max(0, limit - MARKUP_TOKENS - sum(self._count(message.content) for message in bare))
        core = self._cut(query.core, room)
        room -= self._count(core)
        longest = max(len(query.episodic), len(query.semantic))
        k = longest if query.retrieved else min(longest, self._top_k)
        found = retrieve(query, k)
        while k > 1 and self._tokens(found) > room:
            k -= 1
            found = retrieve(query, k)
        return replace(self._cut_items(found, room), core=core)

    def _tokens(self, query: ReaderQuery) -> int:
        return sum(self._count(_line(text)) for text in (*query.episodic, *query.semantic))

    def _cut_items(self, query: ReaderQuery, room: int) -> ReaderQuery:
        """Where even the best of each list is too much: each gets half, and what the other leaves of its half."""
        if self._tokens(query) <= room:
            return query
        lists = query.episodic, query.semantic
        needed = [sum(self._count(_line(text)) for text in texts) for texts in lists]
        rooms = [max(room // 2, room - other) for other in reversed(needed)]
        mark = self._count(_line(""))
        cut = [tuple(self._cut(text, own - mark) for text in texts) for texts, own in zip(lists, rooms, strict=True)]
        return replace(query, episodic=cut[0], semantic=cut[1])

    def _cut(self, text: str, tokens: int) -> str:
        return shorten(text, max(0, tokens), self._count)


def _line(text: str) -> str:
    return f"- {text}\n"


def _lines(texts: Sequence[str]) -> str:
    return "".join(map(_line, texts)).rstrip("\n") or NOTHING
