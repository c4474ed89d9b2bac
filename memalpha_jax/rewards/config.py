"""Which reader, judge and grader are used, in training and in comparisons alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from memalpha_jax.chat.config import ModelConfig, chat_config
from memalpha_jax.errors import UserError

PROMPT_ROOM = 512
"""Tokens beside the memory: instructions and the question."""


@dataclass(frozen=True)
class ReaderConfig:
    """How answers are read off a memory. All but `kind` and `budget` are for readers that are language models.

    Attributes:
      kind: "extractive" (deterministic, embedded), or a language model: "local" (a policy in this process), "openai" (a
        server).
      budget: tokens that a reader is shown at most.
      prompt: path of a text file in place of the embedded prompt (`prompt_file.py`).
      reply_tokens, temperature: of answers.
      chat: the model.
    """

    kind: Literal["extractive", "local", "openai"] = "extractive"
    budget: int = 30_000
    prompt: str = ""
    reply_tokens: int = 2048
    temperature: float = 0.0
    chat: ModelConfig = ModelConfig()

    def __post_init__(self) -> None:
        _check(self, ("budget", "reply_tokens"))
        if self.kind == "extractive":
            return
        chat_config(self.kind, self.chat)
        needed = self.budget + self.reply_tokens + PROMPT_ROOM
        if needed > self.chat.context_tokens:
            raise UserError(
                f"budget {self.budget}, reply_tokens {self.reply_tokens} and {PROMPT_ROOM} for the question need "
                f"{needed} tokens, and chat.context_tokens is {self.chat.context_tokens}; lower one of the former, or "
                "raise the latter as far as the model goes"
            )


@dataclass(frozen=True)
class JudgeConfig:
    """Who says whether a stored text is fit for its memory (r4).

    Attributes:
      kind: "rules" (deterministic, embedded), or a language model: "local" or "openai". The rest is for these, as in
        `ReaderConfig`.
    """

    kind: Literal["rules", "local", "openai"] = "rules"
    prompt: str = ""
    reply_tokens: int = 512
    temperature: float = 0.0
    chat: ModelConfig = ModelConfig()

    def __post_init__(self) -> None:
        _check(self, ("reply_tokens",))
        if self.kind != "rules":
            chat_config(self.kind, self.chat)


@dataclass(frozen=True)
class GraderConfig:
    """Who grades the answers that no rule of their source scores.

    Attributes:
      kind: "none" refuses such sources; "rules" looks for the gold in the answer; "local" and "openai" are language
        models. The rest is for these, as in `ReaderConfig`.
    """

    kind: Literal["none", "rules", "local", "openai"] = "none"
    prompt: str = ""
    reply_tokens: int = 512
    temperature: float = 0.0
    chat: ModelConfig = ModelConfig()

    def __post_init__(self) -> None:
        _check(self, ("reply_tokens",))
        if self.kind in ("local", "openai"):
            chat_config(self.kind, self.chat)


def _check(config: ReaderConfig | JudgeConfig | GraderConfig, positive: tuple[str, ...]) -> None:
    for name in positive:
        if getattr(config, name) <= 0:
            raise UserError(f"{name} is {getattr(config, name)}; it must be more than 0")
    if config.temperature < 0:
        raise UserError(f"temperature is {config.temperature}; it must not be negative")
