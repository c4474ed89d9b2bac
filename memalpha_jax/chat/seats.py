"""Seats: a model as one of several threads sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from memalpha_jax.chat.lockstep import Lockstep
from memalpha_jax.chat.model import ChatError, ChatRequest, Completion, Seat

Complete = Callable[[Sequence[ChatRequest]], list[Completion]]


def seats_in_step(complete: Complete, n: int) -> list[Seat]:
    """Seats whose requests are answered together, for a model that is quick with batches."""

    def run(requests: Mapping[int, ChatRequest]) -> dict[int, Completion]:
        return dict(zip(requests, complete(list(requests.values())), strict=True))

    lockstep = Lockstep(run, n)
    return [_SeatInStep(lockstep, row) for row in range(n)]


class _SeatInStep:
    def __init__(self, lockstep: Lockstep[ChatRequest, Completion], row: int):
        self._lockstep, self._row = lockstep, row

    def reply(self, request: ChatRequest) -> Completion:
        return or_raise(self._lockstep.ask(self._row, request))

    def leave(self) -> None:
        self._lockstep.leave(self._row)


def or_raise(completion: Completion) -> Completion:
    """The completion, or ChatError where it is none."""
    if completion.failure:
        raise ChatError(completion.failure)
    return completion
