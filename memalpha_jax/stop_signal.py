"""Ending a run on request: SIGTERM or Ctrl-C asks, the loop saves and leaves at its next step."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class StopSignal:
    """Context manager that notes SIGTERM and SIGINT instead of dying of them.

        with StopSignal() as stop:
            for step in steps:
                ...
                if stop.requested:
                    checkpoints.save(step, ...)
                    print(f"{stop.name}: saved step {step}; the same command goes on from there")
                    break

    A second signal of the same kind acts as usual, for the case that the loop does not come round. Outside
    the main thread, where Python delivers no signals, nothing is ever requested.
    """

    def __init__(self) -> None:
        self.name = ""
        self._former: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        return bool(self.name)

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for kind in (signal.SIGTERM, signal.SIGINT):
                self._former[kind] = signal.signal(kind, self._note)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for kind, former in self._former.items():
            signal.signal(kind, former)
        self._former.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        kind = signal.Signals(number)
        self.name = kind.name
        signal.signal(kind, self._former.pop(kind))
