"""A rollout chunk by chunk, for use rather than training: the parts of `chunk_step`, compiled one by one.

It gives the tokens of the scan rollout for the same keys. What differs is the cost: the memory may grow
between any two chunks, and then only the small parts that look at it are compiled again, not the decoder.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memalpha_jax.memory.state import MemoryState
from memalpha_jax.policy.generate import generate
from memalpha_jax.policy.sharding import whole
from memalpha_jax.rollout.rollout import Engine, apply_batch, prompt_layout, render_batch
from memalpha_jax.tools.calls import CallBatch


@dataclasses.dataclass(frozen=True)
class StepRecord:
    """One chunk step of N trajectories, as numpy arrays.

    Attributes:
      core_len_N: int32, tokens of the core that the prompt showed.
      prompt_len_N: int32; a row over the prompt's limit got no reply.
      reply_NR, reply_len_N: int32 tokens, end token included.
      calls: CallBatch [N, K] as parsed. statuses_NK: int32, what became of each call.
    """

    core_len_N: np.ndarray
    prompt_len_N: np.ndarray
    reply_NR: np.ndarray
    reply_len_N: np.ndarray
    calls: CallBatch
    statuses_NK: np.ndarray


class Steps:
    """Render, reply, parse and apply for N trajectories; each N and each memory capacity is compiled once."""

    def __init__(self, engine: Engine):
        def reply(params, prompt_NP, length_N, key_N, step, active_N):
            key_N = jax.vmap(jax.random.fold_in, (0, None))(key_N, step)
            length_N = jnp.minimum(length_N, engine.rollout.prompt_tokens)
            arguments = engine.policy, params, prompt_NP, length_N, key_N, active_N, engine.sampling
            replies = generate(*arguments, prompt_layout(engine))
            return replies.tokens_NR, replies.length_N

        self.engine = engine
        self.render = jax.jit(lambda *arguments: render_batch(engine, *arguments))
        self.apply = jax.jit(lambda memory, calls, step: apply_batch(engine, memory, calls, step))
        self._reply = jax.jit(reply)

    def step(
        self,
        params: Any,
        memory: MemoryState,
        key_N: jax.Array,
        step: int,
        chunk_NC: np.ndarray,
        chunk_len_N: np.ndarray,
        active_N: np.ndarray,
        likest_Nk: np.ndarray | None = None,
    ) -> tuple[MemoryState, StepRecord]:
        """Chunk number `step` of every active trajectory; arguments as in `rollout.chunk_step` and `render_batch`."""
        prompt_NP, prompt_len_N = self.render(memory, chunk_NC, chunk_len_N, likest_Nk)
        fits_N = prompt_len_N <= self.engine.rollout.prompt_tokens
        active_N = jnp.asarray(active_N) & fits_N
        replies = self._reply(params, prompt_NP, prompt_len_N, key_N, np.int32(step), active_N)
        core_len_N, prompt_len_N, reply_NR, reply_len_N = whole((memory.core_len, prompt_len_N, *replies))
        calls, _ = self.engine.parser(reply_NR, reply_len_N)
        memory, statuses_NK = self.apply(memory, calls, np.int32(step))
        statuses_NK = np.asarray(statuses_NK)
        return memory, StepRecord(core_len_N, prompt_len_N, reply_NR, reply_len_N, calls, statuses_NK)
