"""Seconds of runs that take turns, and what the device can do at best in the same minutes."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

COPY_BYTES = {"cpu": 1 << 28}
MATMUL_SIZE = {"cpu": 2048}
INNER = 3
"""Probes per sample: the best of them counts."""


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one run, over its repeats."""

    min: float
    median: float

    def __sub__(self, other: Timing) -> Timing:
        return Timing(self.min - other.min, self.median - other.median)


def seconds_of(run: Callable[[], Any]) -> float:
    """Wall-clock seconds until the results of one call are there."""
    begin = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - begin


def alternate(
    runs: Mapping[str, Callable[[], Any]], repeats: int, between: Callable[[], None] = lambda: None
) -> dict[str, Timing]:
    """Times every run `repeats` times, in turns, so that a busy moment of the machine does not meet one of them alone.

    Args:
      runs: by name; they must be warm (compiled). Every other round goes through them backwards.
      between: called after every round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(repeats):
        names = list(runs)
        for name in names[:: -1 if i % 2 else 1]:
            seconds[name].append(seconds_of(runs[name]))
        between()
    return {name: Timing(min(own), statistics.median(own)) for name, own in seconds.items()}


class Device:
    """The first device: its name, and the best rates seen so far.

    Attributes:
      copy_bandwidth: bytes per second, read and written; what is small enough to stay in a cache can be faster.
      matmul_rate: operations per second of a large square product in `dtype`.
    """

    def __init__(self, dtype: str):
        device = jax.local_devices()[0]
        self.name, self.platform = device.device_kind, device.platform
        self._source = jnp.zeros(COPY_BYTES.get(self.platform, 1 << 30) // 4, jnp.float32)
        size = MATMUL_SIZE.get(self.platform, 8192)
        self._matrix = jnp.ones((size, size), dtype)
        self._copy = jax.jit(lambda x: x + 1, donate_argnums=0)  # in place, for fresh pages cost more than the copy
        self._matmul = jax.jit(lambda x: x @ x)
        self.copy_bandwidth = self.matmul_rate = 0.0
        self._copied()
        jax.block_until_ready(self._matmul(self._matrix))

    def _copied(self) -> jax.Array:
        self._source = self._copy(self._source)
        return self._source

    @property
    def peak_bytes(self) -> int | None:
        """The most bytes of its memory that JAX had in use so far; None where it does not tell, as on a CPU."""
        return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")

    def sample(self) -> None:
        """Measures both rates again and keeps the better ones."""
        for _ in range(INNER):
            copied = 2 * self._source.nbytes / seconds_of(self._copied)
            multiplied = 2 * self._matrix.shape[0] ** 3 / seconds_of(lambda: self._matmul(self._matrix))
            self.copy_bandwidth = max(self.copy_bandwidth, copied)
            self.matmul_rate = max(self.matmul_rate, multiplied)
