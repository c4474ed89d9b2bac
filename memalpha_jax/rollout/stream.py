"""Streams of any length: the memories of N trajectories, with what reading on costs kept from growing with them."""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np

from memalpha_jax.memory.similar_index import SimilarIndex
from memalpha_jax.memory.state import MemoryState, grow_for, unstack
from memalpha_jax.rollout.rollout import Engine
from memalpha_jax.rollout.steps import StepRecord, Steps
from memalpha_jax.tools.calls import empty_call_batch

INDEXED_FROM = 16_384
"""Arena tokens from which on similar items are looked up in an index: searching the arena anew takes longer."""


def reply_room(engine: Engine) -> tuple[int, int]:
    """Calls of one reply at most, and tokens of each so that together they hold any reply."""
    return engine.rollout.max_calls, engine.rollout.reply_tokens // engine.rollout.max_calls + 1


class Stream:
    """N memories that one policy writes side by side.

    Attributes:
      memory: MemoryState [N]; only `read` changes it, and what it was before may then be gone.
      growth_seconds: spent so far on growing it and on compiling what looks at it for the new size.
    """

    def __init__(self, steps: Steps, memory: MemoryState):
        self.steps, self.memory, self.growth_seconds = steps, memory, 0.0
        self._indices: list[SimilarIndex] | None = None

    def read(
        self,
        params: Any,
        key_N: jax.Array,
        step: int,
        chunk_NC: np.ndarray,
        chunk_len_N: np.ndarray,
        active_N: np.ndarray,
    ) -> StepRecord:
        """Chunk number `step` of every active trajectory; arguments as in `Steps.step`."""
        self._make_room(chunk_NC)
        likest_Nk = self._likest(chunk_NC, chunk_len_N)
        arrays = step, chunk_NC, chunk_len_N, active_N
        self.memory, record = self.steps.step(params, self.memory, key_N, *arrays, likest_Nk)
        for n, index in enumerate(self._indices or ()):
            index.apply(jax.tree.map(lambda leaf, n=n: leaf[n], record.calls), record.statuses_NK[n])
        return record

    @property
    def memory_bytes(self) -> int:
        """Bytes of the memories and of their indices, room that is not yet used included."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.memory)) + self.index_bytes

    @property
    def index_bytes(self) -> int:
        return sum(index.nbytes for index in self._indices or ())

    def _make_room(self, chunk_NC: np.ndarray) -> None:
        """Grows the memories where the next reply may not fit, and compiles for the new size right away."""
        begin, size = time.monotonic(), self.memory.arena_A.shape, self.memory.length_I.shape
        ...

    def _likest(self, chunk_NC: np.ndarray, chunk_len_N: np.ndarray) -> np.ndarray | None:
        """int32 [N, k] from the indices; None while the memories are small."""
        k, tokens = self.steps.engine.memory.similar_items, self.memory.arena_A.shape[-1]
        if k == 0 or tokens < INDEXED_FROM:
            return None
        if self._indices is None:
            self._indices = [SimilarIndex.of(state) for state in unstack(self.memory)]
        rows = zip(self._indices, chunk_NC, chunk_len_N, strict=True)
        return np.stack([index.best(chunk[:length], k) for index, chunk, length in rows])
