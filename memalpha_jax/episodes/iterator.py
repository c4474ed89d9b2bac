"""An endless stream of what the steps of a run draw, made ahead in the background, that resumes exactly."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import grain
import numpy as np

from memalpha_jax.episodes.schedule import Schedule
from memalpha_jax.errors import UserError

T = TypeVar("T")
THREADS = AHEAD = 2
"""Grain's threads, and the steps that are made before they are asked for."""


class EpisodeIterator(Iterator[T], Generic[T]):
    """Yields make(schedule[0]), make(schedule[1]) and so on, in this order.

    `make` gets int64 arrays [B] and is called in threads, for steps ahead of the one that is asked for; what it raises
    is raised when its step is.
    """

    def __init__(
        self, schedule: Schedule, make: Callable[[np.ndarray], T], threads: int = THREADS, ahead: int = AHEAD
    ) -> None:
        self._schedule = schedule
        steps = grain.MapDataset.range(sys.maxsize).map(lambda step: make(self._schedule[int(step)]))
        self._iterator = iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)))

    def __next__(self) -> T:
        return next(self._iterator)

    def get_state(self) -> dict[str, Any]:
        """JSON data from which `set_state` continues with what would have come next."""
        return {
            **self._schedule.identity,
            "curriculum_steps": self._schedule.curriculum_steps,
            "position": self._iterator.get_state(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Moves to a saved state; `UserError` if it was saved over other episodes, batches, weights or another seed.

        The length of the curriculum is that of the saved state: a run that is made longer keeps the one that it began.
        """
        for field, value in self._schedule.identity.items():
            # States from before there were weights do not have all fields.
            if state.get(field, value) != value:
                raise UserError(
                    f"cannot resume the data: {field} was {state.get(field)} when saved and is {value} now; "
                    "restore the setting or start a new run"
                )
        if state.get("curriculum_steps", 0) != self._schedule.curriculum_steps:
            self._schedule = self._schedule.with_curriculum(state.get("curriculum_steps", 0))
        self._iterator.set_state(dict(state["position"]))

    def close(self) -> None:
        """Ends the threads."""
        self._iterator.close()
