"""Grouped-query attention: plain XLA anywhere, and the fused kernels of GPUs and TPUs for rows without gaps.

XLA on CPU runs a five-dimensional einsum some twenty times slower than the same work as three-dimensional batched
products, so the query heads that share a key/value head are folded into the time axis.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as Spec

from memalpha_jax.errors import UserError

MASKED = -1e30
SPLASH_BLOCK = 128
"""Splash attention takes whole blocks of so many tokens; rows are padded to them."""

QUERY_BLOCK, MOST_BLOCKS = 64, 8
"""Queries of one block of plain causal attention, and in how many blocks a row is cut at most: each is compiled."""


class Shared(NamedTuple):
    """Keys and values in front of a row's own that several rows have in common, held once.

    Of N rows, neighbours share: row n sees copy n // (N / M).

    Attributes:
      k_MKDS, v_MKSD: as in a cache.
      visible_N: int32, how many of the S slots each row is to see; None is all.
    """

    k_MKDS: jax.Array
    v_MKSD: jax.Array
    visible_N: jax.Array | None = None


class Causal(NamedTuple):
    """The mask of right-padded rows without gaps: query t sees slots 0 to t, and all that is shared.

    What padding sees is nobody's business, and it lies behind everything real, so lengths are not needed.
    """


def attend(
    q_NHTD: jax.Array,
    k_NKDS: jax.Array,
    v_NKSD: jax.Array,
    mask: jax.Array | Causal,
    implementation: str = "auto",
    shared: tuple[Shared, ...] = (),
) -> jax.Array:
    """Softmax attention of H query heads over K key/value heads (here K is key/value heads, D the head size).

    Args:
      q_NHTD: queries, already normed and rotated.
      k_NKDS: keys, time last, as the decode cache holds them.
      v_NKSD: values.
      mask: bool [N, T, S], True where query t may look at slot s; or `Causal()`, where T = S.
      implementation: "xla", "cudnn", "splash" or "auto" (see `fused`); the kernels serve `Causal` only.
      shared: keys and values in front of those.

    Returns:
      [N, H, T, D], in the dtype of `v_NKSD`.

    Raises:
      UserError: a kernel that this platform does not have.
    """
    if not isinstance(mask, Causal):
        return _attend_xla(q_NHTD, k_NKDS, v_NKSD, mask, shared)
    kernel = fused(implementation, q_NHTD.shape[-1], q_NHTD.dtype)
    if kernel == "xla":
        return _attend_causal(q_NHTD, k_NKDS, v_NKSD, shared)
    attend_fused = _attend_cudnn if kernel == "cudnn" else _attend_splash
    if not shared:
        return attend_fused(q_NHTD, k_NKDS, v_NKSD)
    q, k, v, start_N = whole_rows(q_NHTD, k_NKDS, v_NKSD, shared)
    return _from(attend_fused(q, k, v), start_N, q_NHTD.shape[2], 1)


def fused(implementation: str, head_dim: int, dtype: Any, platform: str | None = None) -> str:
    """The kernel for a causal call: what was asked for, or by platform (that of this process by default) with "auto".

    "auto" takes cudnn on a GPU and splash on a TPU where head size and the queries' dtype allow it, else xla.

    Raises:
      UserError: a kernel that the platform does not have.
    """
    platform = platform or jax.default_backend()
    if implementation == "auto":
        half = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
        if platform == "gpu" and half and head_dim % 8 == 0 and head_dim <= 128:
            return "cudnn"
        return "splash" if platform == "tpu" and head_dim % 128 == 0 else "xla"
    if implementation == "cudnn" and platform != "gpu":
        raise UserError(f'policy.attention is "cudnn", which needs a GPU; this is a {platform}: take "auto" or "xla"')
    return implementation


def _attend_causal(q_NHTD: jax.Array, k_NKDS: jax.Array, v_NKSD: jax.Array, shared: tuple[Shared, ...]) -> jax.Array:
    """Blocks of queries, each with the slots up to its end: half the work, and scores that stay in the cache."""
    T = q_NHTD.shape[2]
    size = max(QUERY_BLOCK, -(-T // MOST_BLOCKS))
    blocks = []
    for start in range(0, T, size):
        end = min(start + size, T)
        seen = jnp.tri(end - start, end, start, dtype=bool)[None]
        blocks.append(_attend_xla(q_NHTD[:, :, start:end], k_NKDS[..., :end], v_NKSD[:, :, :end], seen, shared))
    return jnp.concatenate(blocks, axis=2)


def _attend_xla(
    q_NHTD: jax.Array, k_NKDS: jax.Array, v_NKSD: jax.Array, mask_NTS: jax.Array, shared: tuple[Shared, ...]
) -> jax.Array:
    """One softmax over the shared slots and a row's own."""
    scores = [_shared_scores(q_NHTD, part) for part in shared]
    scores.append(jnp.where(mask_NTS[:, None], _scores(q_NHTD, k_NKDS), MASKED))
    probs = [p.astype(v_NKSD.dtype) for p in _softmax(scores)]
    values = [*(part.v_MKSD for part in shared), v_NKSD]
    return functools.reduce(jnp.add, map(_weighted, probs, values))


def _softmax(scores: list[jax.Array]) -> list[jax.Array]:
    """As of the concatenated scores, which would be a copy of them all."""
    if len(scores) == 1:
        return [jax.nn.softmax(scores[0])]
    highest = functools.reduce(jnp.maximum, [jnp.max(s, axis=-1, keepdims=True) for s in scores])
    weights = [jnp.exp(s - highest) for s in scores]
    total = functools.reduce(jnp.add, [jnp.sum(w, axis=-1, keepdims=True) for w in weights])
    return [w / total for w in weights]


def _shared_scores(q_NHTD: jax.Array, part: Shared) -> jax.Array:
    scores = _scores(q_NHTD, part.k_MKDS)
    if part.visible_N is None:
        return scores
    visible_NS = jnp.arange(part.k_MKDS.shape[3]) < part.visible_N[:, None]
    return jnp.where(visible_NS[:, None, None], scores, MASKED)


def _scores(q_NHTD: jax.Array, k_MKDS: jax.Array) -> jax.Array:
    """[N, H, T, S] float32: one product for all rows and heads that share a key."""
    N, H, T, D = q_NHTD.shape
    M, K, _, S = k_MKDS.shape
    q = q_NHTD.reshape(M, N // M, K, (H // K) * T, D).swapaxes(1, 2).reshape(M, K, -1, D)
    scores = jax.lax.batch_matmul(q, k_MKDS).reshape(M, K, N // M, (H // K) * T, S)
    return scores.swapaxes(1, 2).reshape(N, H, T, S).astype(jnp.float32) * (D**-0.5)


def _weighted(probs_NHTS: jax.Array, v_MKSD: jax.Array) -> jax.Array:
    """[N, H, T, D]: the values, weighted."""
    N, H, T, S = probs_NHTS.shape
    M, K, _, D = v_MKSD.shape
    probs = probs_NHTS.reshape(M, N // M, K, (H // K) * T, S).swapaxes(1, 2).reshape(M, K, -1, S)
    out = jax.lax.batch_matmul(probs, v_MKSD).reshape(M, K, N // M, (H // K) * T, D)
    return out.swapaxes(1, 2).reshape(N, H, T, D)


def whole_rows(
    q_NHTD: jax.Array, k_NKDT: jax.Array, v_NKTD: jax.Array, shared: tuple[Shared, ...]
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Rows of S slots as if nothing were shared, for kernels that know causal squares only.

    Own queries, keys and values stand behind the visible shared ones; queries in front of them are made up, since
    nobody reads what they give.

    Returns:
      q [N, H, S, D], k [N, K, D, S], v [N, K, S, D], where S is the sum of all slots, and int32 [N], where each row's
      own begin.
    """
    N, _, T, _ = q_NHTD.shape
    slots = T + sum(part.k_MKDS.shape[3] for part in shared)
    start_N = jnp.zeros(N, jnp.int32)
    k = jnp.zeros((*k_NKDT.shape[:3], slots), k_NKDT.dtype)
    v = jnp.zeros((*v_NKTD.shape[:2], slots, v_NKTD.shape[3]), v_NKTD.dtype)
    for part in shared:  # each overwrites what of the one before was not visible
        copies = N // part.k_MKDS.shape[0]
        k = _placed(k, jnp.repeat(part.k_MKDS, copies, axis=0), start_N, 2)
        v = _placed(v, jnp.repeat(part.v_MKSD, copies, axis=0), start_N, 1)
        start_N = start_N + (part.k_MKDS.shape[3] if part.visible_N is None else part.visible_N)
    q = jnp.zeros((*q_NHTD.shape[:2], slots, q_NHTD.shape[3]), q_NHTD.dtype)
    return _placed(q, q_NHTD, start_N, 1), _placed(k, k_NKDT, start_N, 2), _placed(v, v_NKTD, start_N, 1), start_N


def _placed(x_N: jax.Array, part_N: jax.Array, start_N: jax.Array, axis: int) -> jax.Array:
    return jax.vmap(lambda x, part, start: jax.lax.dynamic_update_slice_in_dim(x, part, start, axis))(
        x_N, part_N, start_N
    )


def _from(x_N: jax.Array, start_N: jax.Array, size: int, axis: int) -> jax.Array:
    return jax.vmap(lambda x, start: jax.lax.dynamic_slice_in_dim(x, start, size, axis))(x_N, start_N)


def _attend_cudnn(q_NHTD: jax.Array, k_NKDS: jax.Array, v_NKSD: jax.Array) -> jax.Array:
    q, k, v = q_NHTD.transpose(0, 2, 1, 3), k_NKDS.transpose(0, 3, 1, 2), v_NKSD.transpose(0, 2, 1, 3)
    out = jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")
    return out.transpose(0, 2, 1, 3)


def _attend_splash(q_NHTD: jax.Array, k_NKDS: jax.Array, v_NKSD: jax.Array) -> jax.Array:
    """Each shard of rows and heads runs the kernel on its own; on a CPU the kernel is interpreted."""
    T = q_NHTD.shape[2]
    scaled = q_NHTD * (q_NHTD.shape[-1] ** -0.5)
    # Nothing real sees what is padded behind it.
    blocks = ((0, 0), (0, 0), (0, -T % SPLASH_BLOCK), (0, 0))
    arguments = tuple(jnp.pad(x, blocks) for x in (scaled, k_NKDS.swapaxes(2, 3), v_NKSD))
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return _splash(*arguments)[:, :, :T]
    spec = Spec(("data", "fsdp"), "tensor")
    return jax.shard_map(_splash, in_specs=(spec,) * 3, out_specs=spec, check_vma=False)(*arguments)[:, :, :T]


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
