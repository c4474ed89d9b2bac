"""Adapters taken into the weights they adapt, and which weights those are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from memalpha_jax.errors import UserError
from memalpha_jax.policy.config import LoraConfig


def merge_lora(params: Mapping[str, jax.Array], lora: LoraConfig) -> dict[str, jax.Array]:
    """W + (alpha / rank) A B for every adapted projection, in float32, in the dtype of W; adapters are left out.

    Args:
      params: base and adapters together, layers stacked. lora: the settings they were trained with.

    Raises:
      UserError: `lora` names an adapter that `params` lacks.
    """
    merged = {name: value for name, value in params.items() if not is_adapter(name)}
    for name in lora.targets if lora.rank else ():
        if not {name, f"{name}_lora_a", f"{name}_lora_b"} <= params.keys():
            raise UserError(f"the parameters lack {name} or its adapter, which policy.lora.targets names")
        factors = (params[name], params[f"{name}_lora_a"], params[f"{name}_lora_b"])
        merged[name] = _merged(*factors, lora.alpha / lora.rank)
    return merged


def is_adapter(name: str) -> bool:
    """Whether a parameter is one half of an adapter."""
    return name.endswith(("_lora_a", "_lora_b"))


def fingerprint(params: Mapping[str, jax.Array]) -> str:
    """Tells the weights of one model from those of another, in whatever dtype and shards they are held.

    A checkpoint of adapters keeps that of their base, which is read from elsewhere.
    """
    sums = {name: (value.shape, *map(int, _sums(value))) for name, value in sorted(params.items())}
    return hashlib.sha256(str(sums).encode()).hexdigest()[:16]


@jax.jit
def _sums(value: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of the bits in bfloat16, and of their squares, modulo 2**32: integers, so the order does not matter."""
    bits = jax.lax.bitcast_convert_type(value.astype(jnp.bfloat16), jnp.uint16).astype(jnp.uint32)
    return bits.sum(dtype=jnp.uint32), (bits * bits).sum(dtype=jnp.uint32)


@jax.jit
def _merged(weight_LIO: jax.Array, a_LIR: jax.Array, b_LRO: jax.Array, scale: float) -> jax.Array:
    def layer(factors: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        weight, a, b = (factor.astype(jnp.float32) for factor in factors)
        return (weight + scale * jnp.matmul(a, b, precision="highest")).astype(weight_LIO.dtype)

    return jax.lax.map(layer, (weight_LIO, a_LIR, b_LRO))  # one layer in float32 at a time
