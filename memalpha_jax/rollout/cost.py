"""Where the time of a rollout goes.

Inside one compiled scan the parts cannot be told apart, so each is compiled and timed alone, on a finished step's own
arrays; only the parser, which runs on the host, is clocked in place.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memalpha_jax.policy.generate import generate
from memalpha_jax.policy.sampling import SamplingConfig
from memalpha_jax.rollout.rollout import Engine, Parser, apply_batch, prompt_layout, render_batch
from memalpha_jax.rollout.trajectory import Trajectory


class ClockedParser:
    """A parser that adds up the seconds during which it is at work; those of two shards at a time count once."""

    def __init__(self, parser: Parser):
        self._parser, self.seconds = parser, 0.0
        self._lock, self._at_work, self._since = threading.Lock(), 0, 0.0

    def reset(self) -> None:
        self.seconds = 0.0

    def __call__(self, reply_NR: Any, length_N: Any) -> Any:
        with self._lock:
            self._at_work += 1
            if self._at_work == 1:
                self._since = time.monotonic()
        try:
            return self._parser(reply_NR, length_N)
        finally:
            with self._lock:
                self._at_work -= 1
                if self._at_work == 0:
                    self.seconds += time.monotonic() - self._since


def seconds_of(function: Callable[..., Any], *args: Any) -> float:
    """Wall-clock seconds of a jitted call after its compilation; the better of two runs."""
    jax.block_until_ready(function(*args))
    times = []
    for _ in range(2):
        begin = time.monotonic()
        jax.block_until_ready(function(*args))
        times.append(time.monotonic() - begin)
    return min(times)


def time_parts(engine: Engine, params: Any, trajectory: Trajectory, group: int = 1) -> dict[str, float]:
    """Seconds per step (all T chunks) of render, prefill, decode and apply, as `part/...`; `group` as in `rollout`."""
    T = trajectory.active_NT.shape[1]
    last = jax.tree.map(lambda x: x[:, T - 1], trajectory.calls)
    prompt, length = trajectory.prompt_NTP[:, T - 1], trajectory.prompt_len_NT[:, T - 1]
    length = jnp.minimum(length, prompt.shape[1])
    N, active = len(prompt), trajectory.active_NT[:, T - 1]
    layout = prompt_layout(engine, group)

    def reply(sampling: SamplingConfig) -> float:
        # Arrays are arguments throughout: a function over several processes cannot close over them.
        def run(params, prompt, length, active):
            keys = jax.random.split(jax.random.key(0), N)
            return generate(engine.policy, params, prompt, length, keys, active, sampling, layout)

        return seconds_of(jax.jit(run), params, prompt, length, active)

    whole = reply(engine.sampling)
    read = reply(dataclasses.replace(engine.sampling, reply_tokens=1, thinking_budget=0))  # no decoding in it
    render = jax.jit(lambda *state: render_batch(engine, *state))
    apply = jax.jit(lambda *state: apply_batch(engine, *state))
    parts = {
        "part/render": seconds_of(render, trajectory.memory, prompt, length),
        "part/prefill": read,
        "part/decode": max(0.0, whole - read),
        "part/apply": seconds_of(apply, trajectory.memory, last, np.int32(T)),
    }
    return {name: T * seconds for name, seconds in parts.items()}
