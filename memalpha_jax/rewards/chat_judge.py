"""Judges that are language models: of what was stored (r4), and of answers that no rule can score."""

from __future__ import annotations

import re
from collections.abc import Sequence

from absl import logging

from memalpha_jax.chat.model import ChatError, ChatModel, ChatRequest
from memalpha_jax.memory.state import MemoryType
from memalpha_jax.rewards.judge import GradeQuery, JudgeError, JudgeQuery
from memalpha_jax.rewards.metrics import strip_thinking
from memalpha_jax.rewards.prompt_file import PromptFile, load_prompt

_VERDICT = re.compile(r"[\"']fits[\"']\s*:\s*[\"']?(true|false)", re.IGNORECASE)


def load_judge_prompt(path: str) -> PromptFile:
    """The judge's prompt, or the one at `path`; UserError as `load_prompt`."""
    return load_prompt("judge", path, ("text",), [kind.name.lower() for kind in MemoryType])


def load_grader_prompt(path: str) -> PromptFile:
    """The grader's prompt, or the one at `path`; UserError as `load_prompt`."""
    return load_prompt("grader", path, ("question", "gold", "answer"))


class ChatJudge:
    """A `Judge` over a language model, which replies with {"fits": true} or {"fits": false}."""

    def __init__(self, chat: ChatModel, prompt: PromptFile, reply_tokens: int, temperature: float = 0.0):
        self._chat, self._prompt = chat, prompt
        self._reply_tokens, self._temperature = reply_tokens, temperature

    def verdicts(self, queries: Sequence[JudgeQuery]) -> list[bool]:
        """One verdict per query; JudgeError, with those there are, where one is missing."""
        requests = [
            ChatRequest(
                self._prompt.messages(MemoryType(query.memory_type).name.lower(), text=query.text),
                self._reply_tokens,
                self._temperature,
            )
            for query in queries
        ]
        try:
            completions = self._chat.complete(requests)
        except ChatError as error:  # what becomes of r4 then is for the config of the rewards to say
            raise JudgeError(str(error)) from error
        given = [None if one.failure else read_fits(one.text) for one in completions]
        verdicts = [verdict for verdict in given if verdict is not None]
        if len(verdicts) == len(queries):
            return verdicts
        first = next(one for one, verdict in zip(completions, given, strict=True) if verdict is None)
        reason = first.failure or f"the reply is {first.text[:100]!r}, without a verdict"
        raise JudgeError(f"{len(queries) - len(verdicts)} of {len(queries)} verdicts are missing: {reason}", given)


def read_fits(reply: str) -> bool | None:
    """The last verdict of a reply, thinking aside; None where there is none."""
    found = _VERDICT.findall(strip_thinking(reply))
    return found[-1].lower() == "true" if found else None


class ChatGrader:
    """A `Grader` over a language model."""

    def __init__(self, chat: ChatModel, prompt: PromptFile, reply_tokens: int, temperature: float = 0.0):
        self._chat, self._prompt = chat, prompt
        self._reply_tokens, self._temperature = reply_tokens, temperature

    @property
    def identity(self) -> str:
        """Tells its grades from those of another model, prompt or setting."""
        settings = f"reply={self._reply_tokens} temperature={self._temperature}"
        return f"chat grader {self._chat.identity} {settings} {self._prompt}"

    def replies(self, queries: Sequence[GradeQuery]) -> list[str | None]:
        """One reply per query, which begins with yes or no; None, after a warning, where there is none for good."""
        requests = [
            ChatRequest(
                self._prompt.messages(question=query.question, gold="; ".join(query.golds), answer=query.answer),
                self._reply_tokens,
                self._temperature,
            )
            for query in queries
        ]
        completions = self._chat.complete(requests)
        failures = [completion.failure for completion in completions if completion.failure]
        if failures:
            logging.warning("%d of %d GRADES FAILED FOR GOOD, first: %s", len(failures), len(queries), failures[0])
        return [None if completion.failure else completion.text for completion in completions]
