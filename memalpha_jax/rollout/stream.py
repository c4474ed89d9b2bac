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
      memory: MemoryState [N], in which `read` makes room by itself.
      growth_seconds: spent so far on making room, and on compiling what depends on how much there is.
    """

    def __init__(self, steps: Steps, memory: MemoryState):
        self.steps, self.memory, self.growth_seconds = steps, memory, 0.0
        self._replies_left, self._indices = 0, list[SimilarIndex]()

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
        if self._replies_left == 0:
            self._make_room(chunk_NC)
        self._replies_left -= 1
        likest_Nk = self._likest(chunk_NC, chunk_len_N)
        arrays = step, chunk_NC, chunk_len_N, active_N, likest_Nk
        self.memory, record = self.steps.step(params, self.memory, key_N, *arrays)
        for n, index in enumerate(self._indices):
            index.apply(jax.tree.map(lambda leaf, n=n: leaf[n], record.calls), record.statuses_NK[n])
        return record

    @property
    def memory_bytes(self) -> int:
        """Bytes of the memories, with the room that they do not use yet."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.memory))

    @property
    def index_bytes(self) -> int:
        """Bytes of the indices of their items."""
        return sum(index.nbytes for index in self._indices)

    def _make_room(self, chunk_NC: np.ndarray) -> None:
        """Room for one more reply at least, and all that depends on the room compiled for it now."""
        begin = time.monotonic()
        calls, tokens = reply_room(self.steps.engine)
        self.memory = grow_for(self.memory, calls, tokens)
        rows, used = int(np.max(self.memory.rows)), int(np.max(self.memory.used))
        free_rows, free_tokens = self.memory.length_I.shape[-1] - rows, self.memory.arena_A.shape[-1] - used
        self._replies_left = min(free_rows // calls, free_tokens // (calls * tokens))
        indexed = self.steps.engine.memory.similar_items and self.memory.arena_A.shape[-1] >= INDEXED_FROM
        if indexed and not self._indices:
            self._indices = [SimilarIndex.of(state) for state in unstack(self.memory)]
        nothing, rollout = np.zeros(len(chunk_NC), np.int32), self.steps.engine.rollout
        no_calls = empty_call_batch(rollout.max_calls, rollout.reply_tokens, nothing.shape)
        prompts = self.steps.render(self.memory, chunk_NC, nothing, self._likest(chunk_NC, nothing))
        jax.block_until_ready((prompts, self.steps.apply(self.memory, no_calls, np.int32(0))))
        self.growth_seconds += time.monotonic() - begin

    def _likest(self, chunk_NC: np.ndarray, chunk_len_N: np.ndarray) -> np.ndarray | None:
        """int32 [N, k] from the indices; None while there are none."""
        if not self._indices:
            return None
        k, rows = self.steps.engine.memory.similar_items, zip(self._indices, chunk_NC, chunk_len_N, strict=True)
        return np.stack([index.best(chunk[:length], k) for index, chunk, length in rows])
