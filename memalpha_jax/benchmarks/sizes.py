"""The networks that are measured, and random weights for them."""

from __future__ import annotations

import dataclasses
import functools

import jax

from memalpha_jax.errors import UserError
from memalpha_jax.policy.config import PolicyConfig
from memalpha_jax.policy.model import Params, cast, init_params

_QWEN3 = PolicyConfig(
    vocab_size=151_936, kv_heads=8, head_dim=128, rope_theta=1e6, max_positions=40_960, scan_layers=True
)
SIZES = {
    "1m": PolicyConfig(vocab_size=1024, width=128, layers=4, heads=4, kv_heads=2, head_dim=32, ff=384),
    "10m": PolicyConfig(vocab_size=4096, width=256, layers=12, heads=8, kv_heads=4, head_dim=32, ff=768),
    "qwen3-0.6b": dataclasses.replace(_QWEN3, width=1024, layers=28, heads=16, ff=3072),
    "qwen3-4b": dataclasses.replace(_QWEN3, width=2560, layers=36, heads=32, ff=9728),
}
"""By name: 0.9 and 10.5 million parameters for a CPU, and the published architectures."""


def sized(name: str, dtype: str) -> PolicyConfig:
    """The network of that name, computed in `dtype`; UserError for an unknown one."""
    if name not in SIZES:
        raise UserError(f"--size={name}: known are {', '.join(SIZES)}; for another network give its folder by --path")
    return dataclasses.replace(SIZES[name], dtype=dtype)


@functools.partial(jax.jit, static_argnums=(0, 2))
def random_params(config: PolicyConfig, key: jax.Array, dtype: str) -> Params:
    """Random parameters, made on the device in `dtype`, so that a float32 copy of a large model is never held."""
    return cast(init_params(config, key), dtype)
