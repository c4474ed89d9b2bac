"""Batches out of threads: what every thread asks for is answered together, by one call.

Each of N threads does its own work step by step and asks for something costly in between. A batch runs when every
thread that has not left is waiting, so which requests share a batch depends on the work alone and not on timing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

Request = TypeVar("Request")
Reply = TypeVar("Reply")


class Lockstep(Generic[Request, Reply]):
    """Runs `run({row: request})`, which answers every row, whenever all rows that are still taking part have asked."""

    def __init__(self, run: Callable[[Mapping[int, Request]], Mapping[int, Reply]], rows: int):
        self._run, self._present = run, set(range(rows))
        self._requests: dict[int, Request] = {}
        self._replies: dict[int, Reply | BaseException] = {}
        self._changed = threading.Condition()

    def ask(self, row: int, request: Request) -> Reply:
        """Blocks until the batch has run; what `run` raises is raised in every row."""
        with self._changed:
            self._requests[row] = request
            self._run_if_all_wait()
            self._changed.wait_for(lambda: row in self._replies)
            reply = self._replies.pop(row)
        if isinstance(reply, BaseException):
            raise reply
        return reply

    def leave(self, row: int) -> None:
        """`row` asks no more; to leave twice does nothing."""
        with self._changed:
            self._present.discard(row)
            self._run_if_all_wait()

    def _run_if_all_wait(self) -> None:
        if not self._requests or self._requests.keys() != self._present:
            return
        requests = {row: self._requests[row] for row in sorted(self._requests)}
        self._requests = {}
        try:
            self._replies.update(self._run(requests))
        except BaseException as error:  # every waiting thread must hear of it, whatever it is
            self._replies.update(dict.fromkeys(requests, error))
        self._changed.notify_all()
