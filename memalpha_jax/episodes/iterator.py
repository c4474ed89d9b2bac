"""An endless, shuffled stream of batches of episode indices that resumes exactly where it was saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import grain
import numpy as np

from memalpha_jax.errors import UserError


class EpisodeIterator(Iterator[np.ndarray]):
    """Yields int64 arrays [B] of distinct indices below `num_episodes`.

    Every epoch is a new permutation under `seed`; its last incomplete batch is left out, so that no episode
    meets itself in a batch (their random keys would be the same).
    """

    def __init__(self, num_episodes: int, batch: int, seed: int) -> None:
        if not 1 <= batch <= num_episodes:
            raise UserError(f"a batch of {batch} episodes cannot be drawn from {num_episodes}; lower it or load more")
        self._identity = {"num_episodes": num_episodes, "batch": batch, "seed": seed}
        indices = grain.MapDataset.range(num_episodes).seed(seed).shuffle()
        batches = indices.batch(batch, drop_remainder=True).repeat()
        # Indices cost nothing to make: no prefetching threads.
        self._iterator = iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))

    def __next__(self) -> np.ndarray:
        return next(self._iterator)

    def get_state(self) -> dict[str, Any]:
        """JSON data from which `set_state` continues with the batch that would have come next."""
        return {**self._identity, "position": self._iterator.get_state()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Moves to a saved state; `UserError` if it was saved over other episodes, batches or another
        seed.
        """
        for field, value in self._identity.items():
            if state.get(field) != value:
                raise UserError(
                    f"cannot resume the data: {field} was {state.get(field)} when saved and is {value} now; "
                    "restore the setting or start a new run"
                )
        self._iterator.set_state(dict(state["position"]))
