"""What methods, readers and judges ask of a language model, whether it runs here or behind a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from memalpha_jax.errors import UserError


class Message(NamedTuple):
    """One turn of a conversation; its content is text, whatever it looks like."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class ChatRequest:
    """A conversation to go on with, in at most `max_tokens` tokens; temperature 0 is greedy."""

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float = 0.0


def ask(text: str, max_tokens: int, system: str = "") -> ChatRequest:
    """A conversation of one question."""
    before = (Message("system", system),) if system else ()
    return ChatRequest((*before, Message("user", text)), max_tokens)


@dataclass(frozen=True)
class Completion:
    """A reply.

    Attributes:
      text: as the model wrote it, thinking included.
      failure: why there is none, for good; "" where there is one.
      prompt_tokens, completion_tokens: as the model counts them.
    """

    text: str
    failure: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0


class ChatError(UserError):
    """No reply from the model, for good, where going on without one would falsify a result."""


class ChatModel(Protocol):
    """A language model.

    Attributes:
      identity: tells the replies of one model from those of another, e.g. a path and a fingerprint, or address and
        name; a part of the keys under which results are kept.
      context_tokens: prompt and reply together.
    """

    @property
    def identity(self) -> str: ...

    @property
    def context_tokens(self) -> int: ...

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, at least about."""
        ...

    def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        """One completion per request, in order; those that failed for good say so in `failure`.

        Raises:
          ChatError: nothing can be had of the model at all.
        """
        ...

    def seats(self, n: int) -> list[Seat]:
        """The model as `n` threads share it, each asking from a seat of its own."""
        ...


class Seat(Protocol):
    """A model as one of several threads sees it. A thread that asks no more must leave, or the others wait for it."""

    def reply(self, request: ChatRequest) -> Completion:
        """As `ChatModel.complete` for one request, but ChatError where it failed for good."""
        ...

    def leave(self) -> None: ...
