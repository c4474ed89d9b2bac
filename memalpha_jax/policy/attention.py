"""Grouped-query attention: plain XLA anywhere, and the fused kernels of GPUs and TPUs for rows without gaps.

XLA on CPU runs a five-dimensional einsum some twenty times slower than the same work as three-dimensional batched
products, so the query heads that share a key/value head are folded into the time axis.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as Spec

from memalpha_jax.errors import UserError

MASKED = -1e30
SPLASH_BLOCK = 128
"""Splash attention takes whole blocks of so many tokens."""


class Causal(NamedTuple):
    """The mask of right-padded rows without gaps: query t sees slots 0 to t.

    What padding sees is nobody's business, and it lies behind everything real, so lengths are not needed.
    """


def attend(
    q_NHTD: jax.Array,
    k_NKDS: jax.Array,
    v_NKSD: jax.Array,
    mask: jax.Array | Causal,
    implementation: str = "auto",
) -> jax.Array:
    """Softmax attention of H query heads over K key/value heads (here K is key/value heads, D the head size).

    Args:
      q_NHTD: queries, already normed and rotated.
      k_NKDS: keys, time last, as the decode cache holds them.
      v_NKSD: values.
      mask: bool [N, T, S], True where query t may look at slot s; or `Causal()`, where T = S.
      implementation: "xla", "cudnn", "splash" or "auto" (see `fused`); the kernels serve `Causal` only.

    Returns:
      [N, H, T, D], in the dtype of `v_NKSD`.

    Raises:
      UserError: a kernel that this platform does not have.
    """
    if not isinstance(mask, Causal):
        return _attend_xla(q_NHTD, k_NKDS, v_NKSD, mask)
    kernel = fused(implementation, q_NHTD)
    if kernel == "cudnn":
        return _attend_cudnn(q_NHTD, k_NKDS, v_NKSD)
    if kernel == "splash":
        return _attend_splash(q_NHTD, k_NKDS, v_NKSD)
    T = q_NHTD.shape[2]
    return _attend_xla(q_NHTD, k_NKDS, v_NKSD, jnp.tri(T, dtype=bool)[None])


def fused(implementation: str, q_NHTD: jax.Array, platform: str | None = None) -> str:
    """The kernel for a causal call: what was asked for, or by platform with "auto".

    "auto" takes cudnn on a GPU and splash on a TPU where shape and dtype allow it, else xla.
    """
    platform = platform or jax.default_backend()
    D, T = q_NHTD.shape[-1], q_NHTD.shape[2]
    if implementation == "auto":
        half = q_NHTD.dtype in (jnp.bfloat16, jnp.float16)
        if platform == "gpu" and half and D % 8 == 0 and D <= 128:
            return "cudnn"
        return "splash" if platform == "tpu" and D % 128 == 0 and T % SPLASH_BLOCK == 0 else "xla"
    if implementation == "cudnn" and platform != "gpu":
        raise UserError(f'policy.attention is "cudnn", which needs a GPU; this is a {platform}: take "auto" or "xla"')
    if implementation == "splash" and T % SPLASH_BLOCK:
        raise UserError(
            f'policy.attention is "splash", which takes rows of whole blocks of {SPLASH_BLOCK} tokens, not {T}: '
            'take "auto", or round the prompt and reply budgets'
        )
    return implementation


def _attend_xla(q_NHTD: jax.Array, k_NKDS: jax.Array, v_NKSD: jax.Array, mask_NTS: jax.Array) -> jax.Array:
    N, H, T, D = q_NHTD.shape
    K, S = k_NKDS.shape[1], k_NKDS.shape[3]
    q = q_NHTD.reshape(N, K, (H // K) * T, D)
    scores = jax.lax.batch_matmul(q, k_NKDS).reshape(N, H, T, S)
    scores = scores.astype(jnp.float32) * (D**-0.5)
    scores = jnp.where(mask_NTS[:, None], scores, MASKED)
    probs = jax.nn.softmax(scores, axis=-1).astype(v_NKSD.dtype)
    out = jax.lax.batch_matmul(probs.reshape(N, K, (H // K) * T, S), v_NKSD)
    return out.reshape(N, H, T, D)


def _attend_cudnn(q_NHTD: jax.Array, k_NKDS: jax.Array, v_NKSD: jax.Array) -> jax.Array:
    q, k, v = q_NHTD.transpose(0, 2, 1, 3), k_NKDS.transpose(0, 3, 1, 2), v_NKSD.transpose(0, 2, 1, 3)
    out = jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")
    return out.transpose(0, 2, 1, 3)


def _attend_splash(q_NHTD: jax.Array, k_NKDS: jax.Array, v_NKSD: jax.Array) -> jax.Array:
    """Each shard of rows and heads runs the kernel on its own; on a CPU the kernel is interpreted."""
    scaled = q_NHTD * (q_NHTD.shape[-1] ** -0.5)
    arguments = scaled, k_NKDS.swapaxes(2, 3), v_NKSD
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return _splash(*arguments)
    spec = Spec(("data", "fsdp"), "tensor")
    return jax.shard_map(_splash, in_specs=(spec,) * 3, out_specs=spec, check_vma=False)(*arguments)


def _splash(q_NHTD: jax.Array, k_NKTD: jax.Array, v_NKTD: jax.Array) -> jax.Array:
    N, H, T, D = q_NHTD.shape
    K = k_NKTD.shape[1]
    q = q_NHTD.reshape(N, K, H // K, T, D)
    out = jax.vmap(jax.vmap(_splash_kernel(H // K, T)))(q, k_NKTD, v_NKTD)
    return out.reshape(N, H, T, D).astype(v_NKTD.dtype)


@functools.lru_cache(maxsize=16)
def _splash_kernel(heads: int, tokens: int):
    """The kernel of the query heads that share one key/value head."""
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    with jax.ensure_compile_time_eval():  # it is kept, so nothing of the trace that makes it may stay in it
        mask = splash.MultiHeadMask([splash.CausalMask((tokens, tokens)) for _ in range(heads)])
        return splash.make_splash_mqa_single_device(mask=mask, interpret=jax.default_backend() != "tpu")
