"""Eight fake devices for every test, code that is compiled fast, and kept between runs."""

from __future__ import annotations

import os
import platform

import pytest

# Before the first backend exists: also in the processes that tests start, tests run on the CPU.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from fast_compile import XLA_FLAGS

# Two thirds of the time of the tests would go into making fast code.
os.environ["XLA_FLAGS"] = f"{XLA_FLAGS} {os.environ.get('XLA_FLAGS', '')}".strip()
jax.config.update("jax_num_cpu_devices", 8)


def pytest_configure(config: pytest.Config) -> None:
    """Compiled code is only good for the same jax on the same kind of machine, so these name its folder."""
    if cache := getattr(config, "cache", None):
        folder = cache.mkdir(f"jax-{jax.__version__}-{platform.machine()}-{platform.node()}")
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
