"""Qwen3 in Flax Linen, with stacked layer parameters and an explicit key/value cache.

`Qwen3.apply` is a pure function of (params, tokens, positions, mask, cache). Parameters of the L layers are stacked
on a leading axis, so one abstract tree serves initialisation, sharding and restore; the cache is one (keys, values)
pair per layer, because stacking it would copy it at every decoded token.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from memalpha_jax.errors import UserError
from memalpha_jax.policy.attention import attend
from memalpha_jax.policy.config import PolicyConfig

INITS = ("qwen3", "copying")
QWEN_EMBED, COPYING_EMBED, COPYING_OUT = 0.02, 0.1, 0.2


class LayerCache(NamedTuple):
    """Keys [N, K, D, S] (time last) and values [N, K, S, D] of one layer, both after qk-norm and RoPE."""

    k_NKDS: jax.Array
    v_NKSD: jax.Array


KVCache = tuple[LayerCache, ...]


def rms_norm(x: jax.Array, gain: jax.Array, eps: float) -> jax.Array:
    """x / rms(x) * gain over the last axis, in float32, returned in x's dtype."""
    h = x.astype(jnp.float32)
    h = h * jax.lax.rsqrt(jnp.mean(h * h, axis=-1, keepdims=True) + eps)
    return (h * gain).astype(x.dtype)


def rotary(positions_NT: jax.Array, head_dim: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines [N, 1, T, head_dim/2] of the rotary embedding (RoFormer, eq. 34)."""
    frequency = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angle = positions_NT[:, None, :, None].astype(jnp.float32) * frequency
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x_NHTD: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates the two halves of each head, the layout of the released Qwen3 weights."""
    a, b = jnp.split(x_NHTD.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_NHTD.dtype)


class Qwen3(nn.Module):
    """The decoder. Parameters: `embed` [V, D], `norm` [D], and `layers`, a dict of arrays stacked over L."""

    config: PolicyConfig

    def setup(self) -> None:
        c = self.config
        dense = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=-2, out_axis=-1, batch_axis=(0,))
        out = nn.initializers.variance_scaling(
            0.5 / c.layers, "fan_in", "normal", in_axis=-2, out_axis=-1, batch_axis=(0,)
        )
        ones, gain = nn.initializers.ones_init(), nn.initializers.constant(c.qk_norm_init)
        q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
        shapes = {
            "attn_norm": (ones, (c.width,)),
            "q": (dense, (c.width, q)),
            "k": (dense, (c.width, kv)),
            "v": (dense, (c.width, kv)),
            "o": (out, (q, c.width)),
            "q_norm": (gain, (c.head_dim,)),
            "k_norm": (gain, (c.head_dim,)),
            "mlp_norm": (ones, (c.width,)),
            "gate": (dense, (c.width, c.ff)),
            "up": (dense, (c.width, c.ff)),
            "down": (out, (c.ff, c.width)),
        }
        self.embed = self.param("embed", nn.initializers.normal(QWEN_EMBED), (c.vocab_size, c.width))
        self.layers = {n: self.param(n, init, (c.layers, *shape)) for n, (init, shape) in shapes.items()}
        self.norm = self.param("norm", ones, (c.width,))

    def hidden(
        self,
        tokens_NT: jax.Array,
        positions_NT: jax.Array,
        mask_NTS: jax.Array,
        cache: KVCache | None = None,
        slot: jax.Array | int = 0,
    ) -> tuple[jax.Array, KVCache]:
        """Final normed states [N, T, D] and the new cache.

        Args:
          tokens_NT: int32 ids.
          positions_NT: int32 rotary positions.
          mask_NTS: bool, which cache slots each query sees (S = T without a cache).
          cache: earlier keys and values; the T new ones are written at `slot`. None: S = T, and the returned
            cache holds this call's keys and values.
          slot: first slot to write, the same for all rows.
        """
        c = self.config
        cos, sin = rotary(positions_NT, c.head_dim, c.rope_theta)
        x_NTD = self.embed[tokens_NT]

        def layer(params, x, kv):
            return decoder_layer(c, params, x, (cos, sin), mask_NTS, kv, slot)

        if c.remat:
            layer = jax.checkpoint(layer)
        if c.scan_layers and cache is None:
            x_NTD, stacked = jax.lax.scan(lambda x, p: layer(p, x, None), x_NTD, self.layers)
            new = tuple(jax.tree.map(lambda a, i=i: a[i], stacked) for i in range(c.layers))
        else:
            new = ()
            for i in range(c.layers):
                params = jax.tree.map(lambda a, i=i: a[i], self.layers)
                x_NTD, kv = layer(params, x_NTD, None if cache is None else cache[i])
                new = (*new, kv)
        return rms_norm(x_NTD, self.norm, c.norm_eps), new

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[..., D] states to [..., V] float32 logits through the tied embedding."""
        return (hidden @ self.embed.T.astype(hidden.dtype)).astype(jnp.float32)

    def __call__(self, tokens_NT: jax.Array, lengths_N: jax.Array | None = None) -> jax.Array:
        """Logits [N, T, V] of right-padded rows under the causal mask. For tests and small uses."""
        N, T = tokens_NT.shape
        lengths_N = jnp.full((N,), T) if lengths_N is None else lengths_N
        positions = jnp.broadcast_to(jnp.arange(T), (N, T))
        causal = positions[:, :, None] >= positions[:, None, :]
        mask = causal & (positions < lengths_N[:, None])[:, None, :]
        return self.logits(self.hidden(tokens_NT, positions, mask)[0])


def decoder_layer(
    c: PolicyConfig,
    p: dict[str, jax.Array],
    x_NTD: jax.Array,
    cos_sin: tuple[jax.Array, jax.Array],
    mask_NTS: jax.Array,
    cache: LayerCache | None,
    slot: jax.Array | int,
) -> tuple[jax.Array, LayerCache]:
    """One pre-norm block: attention, then the gated MLP. Returns the new residual stream and cache."""
    N, T, _ = x_NTD.shape

    def heads(y: jax.Array, count: int) -> jax.Array:
        return y.reshape(N, T, count, c.head_dim).swapaxes(1, 2)

    h = rms_norm(x_NTD, p["attn_norm"], c.norm_eps)
    q = rotate(rms_norm(heads(h @ p["q"], c.heads), p["q_norm"], c.norm_eps), *cos_sin)
    k = rotate(rms_norm(heads(h @ p["k"], c.kv_heads), p["k_norm"], c.norm_eps), *cos_sin)
    k_NKDT, v_NKTD = k.swapaxes(2, 3), heads(h @ p["v"], c.kv_heads)
    if cache is not None:
        k_NKDT = jax.lax.dynamic_update_slice_in_dim(cache.k_NKDS, k_NKDT, slot, 3)
        v_NKTD = jax.lax.dynamic_update_slice_in_dim(cache.v_NKSD, v_NKTD, slot, 2)
    attended = attend(q, k_NKDT, v_NKTD, mask_NTS)
    x_NTD = x_NTD + attended.swapaxes(1, 2).reshape(N, T, c.heads * c.head_dim) @ p["o"]
    h = rms_norm(x_NTD, p["mlp_norm"], c.norm_eps)
    x_NTD = x_NTD + (jax.nn.silu(h @ p["gate"]) * (h @ p["up"])) @ p["down"]
    return x_NTD, LayerCache(k_NKDT, v_NKTD)


def init_params(config: PolicyConfig, key: jax.Array) -> dict:
    """Random parameters, float32; UserError for an unknown `config.init`."""
    if config.init not in INITS:
        raise UserError(f"policy.init is {config.init!r}; known: {', '.join(INITS)}")
    init_key, bias_key = jax.random.split(key)
    params = Qwen3(config).init(init_key, jnp.zeros((1, 2), jnp.int32))["params"]
    return copying_init(config, params, bias_key) if config.init == "copying" else params


def copying_init(config: PolicyConfig, params: dict, key: jax.Array) -> dict:
    """Moves random parameters towards a copying circuit, the one skill this task cannot do without.

    A copying ("induction") circuit needs a head that looks at the previous token and a head that looks for the
    token just written. Plain random weights make both hard to find, for reasons that can be removed:
    the projections have no biases, so a head can attend by position alone only if all embeddings share a
    direction (one is added); queries and keys start unrelated, so equal contents do not attract (keys start as
    the mean of the queries that read them); what a head reads and what it writes lie in unrelated spaces (output
    projections start as the transpose of the value projections, so that a head moves tokens as they are); and
    fresh layers drown the small embeddings in the residual stream (embeddings start larger, outputs smaller).
    """
    L, D, heads = config.layers, config.width, config.heads // config.kv_heads
    embed = params["embed"] * (COPYING_EMBED / QWEN_EMBED)
    shared_D = COPYING_EMBED * jax.random.normal(key, (D,))
    q = params["q"].reshape(L, D, config.kv_heads, heads, config.head_dim)
    k = (q.mean(axis=3) * heads**0.5).reshape(L, D, -1)
    v = params["v"].reshape(L, D, config.kv_heads, config.head_dim)
    o = jnp.repeat(v, heads, axis=2).transpose(0, 2, 3, 1).reshape(L, -1, D)
    small = {"o": COPYING_OUT * o, "down": COPYING_OUT * params["down"]}
    return {**params, **small, "embed": embed + shared_D, "k": k}
