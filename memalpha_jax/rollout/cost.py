"""Where the time of a rollout goes.

Inside one compiled scan the parts cannot be told apart, so each is compiled and timed alone, on a finished step's own
arrays; only the parser, which runs on the host, is clocked in place.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from memalpha_jax.policy.generate import generate
from memalpha_jax.policy.sampling import SamplingConfig
from memalpha_jax.rollout.rollout import Engine, Parser, apply_batch, prompt_layout, render_batch
from memalpha_jax.rollout.trajectory import Trajectory


class ClockedParser:
    """A parser that adds up the seconds it takes."""

    def __init__(self, parser: Parser):
        self._parser, self.seconds = parser, 0.0

    def reset(self) -> None:
        self.seconds = 0.0

    def __call__(self, reply_NR: Any, length_N: Any) -> Any:
        begin = time.monotonic()
        result = self._parser(reply_NR, length_N)
        self.seconds += time.monotonic() - begin
        return result


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
    keys, active = jax.random.split(jax.random.key(0), len(prompt)), trajectory.active_NT[:, T - 1]
    layout = prompt_layout(engine, group)

    def seconds(sampling: SamplingConfig) -> float:
        arguments = prompt, length, keys, active, sampling, layout
        return seconds_of(jax.jit(lambda p: generate(engine.policy, p, *arguments)), params)

    whole = seconds(engine.sampling)
    first = seconds(dataclasses.replace(engine.sampling, reply_tokens=1, thinking_budget=0))  # no decoding in it
    parts = {
        "part/render": seconds_of(jax.jit(lambda m: render_batch(engine, m, prompt, length)), trajectory.memory),
        "part/prefill": first,
        "part/decode": max(0.0, whole - first),
        "part/apply": seconds_of(
            jax.jit(lambda m, c: apply_batch(engine, m, c, jnp.int32(T))), trajectory.memory, last
        ),
    }
    return {name: T * seconds for name, seconds in parts.items()}
