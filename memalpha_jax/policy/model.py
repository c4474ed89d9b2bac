"""Qwen3 in Flax Linen, with stacked layer parameters and an explicit key/value cache.

`Qwen3.apply` is a pure function of (params, tokens, positions, mask, cache). Parameters of the L layers are stacked
on a leading axis, so one abstract tree serves initialisation, sharding and restore; the cache is one (keys, values)
pair per layer, because stacking it would copy it at every decoded token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from memalpha_jax.errors import UserError
from memalpha_jax.policy.attention import Causal, Shared, attend, fused
from memalpha_jax.policy.config import PolicyConfig, YarnConfig
from memalpha_jax.policy.sharding import split_rows

INITS = ("qwen3", "copying")
QWEN_EMBED, COPYING_EMBED, COPYING_OUT = 0.02, 0.1, 0.2


class LayerCache(NamedTuple):
    """Keys [N, K, D, S] (time last) and values [N, K, S, D] of one layer, both after qk-norm and RoPE."""

    k_NKDS: jax.Array
    v_NKSD: jax.Array


KVCache = tuple[LayerCache, ...]
SharedCache = tuple[tuple[Shared, ...], ...]
"""For each layer what rows have in common, from front to back; () where nothing is."""
Params = dict[str, jax.Array]
"""Parameters by name, those of the layers stacked; see `parameter_shapes`."""


def rms_norm(x: jax.Array, gain: jax.Array, eps: float) -> jax.Array:
    """x / rms(x) * gain over the last axis, in float32, returned in x's dtype."""
    h = x.astype(jnp.float32)
    h = h * jax.lax.rsqrt(jnp.mean(h * h, axis=-1, keepdims=True) + eps)
    return (h * gain).astype(x.dtype)


def rotary_frequencies(head_dim: int, theta: float, yarn: YarnConfig) -> tuple[np.ndarray, float]:
    """Frequencies [head_dim/2] float32 and the factor of cosines and sines (RoFormer, eq. 15; YaRN, eqs. 17 to 21)."""
    # Rounded where transformers rounds: at position 40,000 the last bit of a frequency is a turn of 0.005 radians.
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    period = (theta ** exponent.astype(np.float64)).astype(np.float32)
    frequency = np.float32(1) / period
    if yarn.factor == 1:
        return frequency, yarn.attention_factor or 1.0

    def dimension(rotations: float) -> float:
        return head_dim * math.log(yarn.original_positions / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(yarn.beta_fast), dimension(yarn.beta_slow)
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    ramp = (np.arange(head_dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(max(high - low, 1e-3))
    kept = 1 - np.clip(ramp, 0, 1)
    mixed = np.float32(1) / (np.float32(yarn.factor) * period) * (1 - kept) + frequency * kept
    return mixed, yarn.attention_factor or 0.1 * math.log(yarn.factor) + 1


def rotary(positions_NT: jax.Array | range, config: PolicyConfig) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines [N, 1, T, head_dim/2] float32 of the rotary embedding; of a range [1, 1, T, head_dim/2].

    Those of a range are constants: what is computed, XLA on a CPU computes again for every head in every layer.
    """
    frequency, factor = rotary_frequencies(config.head_dim, config.rope_theta, config.yarn)
    if isinstance(positions_NT, range):
        angle = (np.asarray(positions_NT, np.float32)[:, None] * frequency).astype(np.float64)
        cos, sin = ((f(angle) * factor).astype(np.float32)[None, None] for f in (np.cos, np.sin))
        return jnp.asarray(cos), jnp.asarray(sin)
    angle_N1TD = positions_NT[:, None, :, None].astype(jnp.float32) * frequency
    return jnp.cos(angle_N1TD) * factor, jnp.sin(angle_N1TD) * factor


def rotate(x_NHTD: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates the two halves of each head, the layout of the released Qwen3 weights."""
    a, b = jnp.split(x_NHTD.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_NHTD.dtype)


def parameter_shapes(c: PolicyConfig) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape and initialiser of every parameter of `Qwen3`; those of the layers are stacked over L."""
    stacked = {"in_axis": -2, "out_axis": -1, "batch_axis": (0,)}
    dense = nn.initializers.variance_scaling(1.0, "fan_in", "normal", **stacked)
    out = nn.initializers.variance_scaling(0.5 / c.layers, "fan_in", "normal", **stacked)
    ones, zeros = nn.initializers.ones_init(), nn.initializers.zeros_init()
    q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
    gain = nn.initializers.constant(c.qk_norm_init)
    layer: dict[str, tuple[tuple[int, ...], Any]] = {
        "attn_norm": ((c.width,), ones),
        "q": ((c.width, q), dense),
        "k": ((c.width, kv), dense),
        "v": ((c.width, kv), dense),
        "o": ((q, c.width), out),
        "q_norm": ((c.head_dim,), gain),
        "k_norm": ((c.head_dim,), gain),
        "mlp_norm": ((c.width,), ones),
        "gate": ((c.width, c.ff), dense),
        "up": ((c.width, c.ff), dense),
        "down": ((c.ff, c.width), out),
    }
    if not c.qk_norm:
        del layer["q_norm"], layer["k_norm"]
    if c.attention_bias:
        layer |= {"q_bias": ((q,), zeros), "k_bias": ((kv,), zeros), "v_bias": ((kv,), zeros)}
    for name in c.lora.targets if c.lora.rank else ():
        (rows, columns), _ = layer[name]
        layer |= {
            f"{name}_lora_a": ((rows, c.lora.rank), dense),
            f"{name}_lora_b": ((c.lora.rank, columns), zeros),
        }
    # Random values depend on the order.
    table = (c.vocab_size, c.width), nn.initializers.normal(QWEN_EMBED)
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {"embed": table}
    shapes |= {name: ((c.layers, *shape), init) for name, (shape, init) in layer.items()}
    shapes |= {"norm": ((c.width,), ones)}
    return shapes if c.tied_embeddings else {**shapes, "head": table}


WHOLE = ("embed", "head", "norm")
"""The parameters that are not stacked over the layers."""


def cache_bytes(config: PolicyConfig, slots: int, item: int) -> int:
    """Bytes of the keys and values of so many slots, all rows together, in all layers; `item`: bytes of one number."""
    return 2 * config.layers * config.kv_heads * config.head_dim * slots * item


class Qwen3(nn.Module):
    """The decoder. Parameters: `embed` [V, D], `norm` [D], `head` [V, D] if untied, and the layers', stacked over L."""

    config: PolicyConfig

    def setup(self) -> None:
        made = {name: self.param(name, init, shape) for name, (shape, init) in parameter_shapes(self.config).items()}
        self.whole = {name: made.pop(name) for name in WHOLE if name in made}
        self.layers = made

    def hidden(
        self,
        tokens_NT: jax.Array,
        positions_NT: jax.Array | range,
        mask: jax.Array | Causal,
        cache: KVCache | None = None,
        slot: jax.Array | int = 0,
        shared: SharedCache = (),
        read_NR: jax.Array | None = None,
    ) -> tuple[jax.Array, KVCache]:
        """Final normed states [N, T, D], or [N, R, D] of those that are read, and the new cache.

        Args:
          tokens_NT: int32 ids.
          positions_NT: int32 rotary positions; a range of T where those of all rows are the same.
          mask: bool [N, T, S], which cache slots each query sees (S = T without a cache); or, without a cache,
            `Causal()` for right-padded rows, which faster attention can make use of.
          cache: earlier keys and values; the T new ones are written at `slot`. None: S = T, and the returned
            cache holds this call's keys and values.
          slot: first slot to write, the same for all rows.
          shared: keys and values in front of the cache that rows have in common.
          read_NR: int32, the places in T whose states are wanted; None is all. Behind the last attention no token
            looks at another, so the rest of the last layer is spared the others (not with `scan_layers`).
        """
        c = self.config
        cos_sin = rotary(positions_NT, c)
        x_NTD = split_rows(self.whole["embed"][tokens_NT].astype(c.dtype))

        def layer(params, x, kv, before=(), read=None):
            x, kv = decoder_layer(c, params, x, cos_sin, mask, kv, slot, before, read)
            return split_rows(x), kv

        if c.remat == "layer":
            layer = jax.checkpoint(layer)
        elif c.remat == "dots":
            layer = jax.checkpoint(layer, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable)
        if c.scan_layers and cache is None and not shared:
            x_NTD, stacked = jax.lax.scan(lambda x, p: layer(p, x, None), x_NTD, self.layers)
            new = tuple(jax.tree.map(lambda a, i=i: a[i], stacked) for i in range(c.layers))
            x_NTD = x_NTD if read_NR is None else states_at(x_NTD, read_NR)
        else:
            new = ()
            for i in range(c.layers):
                params = jax.tree.map(lambda a, i=i: a[i], self.layers)
                read = read_NR if i == c.layers - 1 else None
                x_NTD, kv = layer(params, x_NTD, cache[i] if cache else None, shared[i] if shared else (), read)
                new = (*new, kv)
        return rms_norm(x_NTD, self.whole["norm"], c.norm_eps), new

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[..., D] states to [..., V] float32 logits."""
        head_VD = self.whole["embed" if self.config.tied_embeddings else "head"].astype(hidden.dtype)
        return jnp.matmul(hidden, head_VD.T, preferred_element_type=jnp.float32)

    def __call__(self, tokens_NT: jax.Array) -> jax.Array:
        """Logits [N, T, V] of right-padded rows under the causal mask. For tests and small uses."""
        return self.logits(self.hidden(tokens_NT, range(tokens_NT.shape[1]), Causal())[0])


def linear(c: PolicyConfig, p: Mapping[str, jax.Array], name: str, x: jax.Array) -> jax.Array:
    """x W, plus the bias and the adapter where the layer has them."""
    w = p[name].astype(x.dtype)
    y = x @ w if c.lora.rank else product(x, w)  # what adapters are put on has no gradient, so nothing is kept for one
    if f"{name}_bias" in p:
        y = y + p[f"{name}_bias"].astype(x.dtype)
    if f"{name}_lora_a" in p:
        low = x @ p[f"{name}_lora_a"].astype(x.dtype)
        y = y + (low @ p[f"{name}_lora_b"].astype(x.dtype)) * (c.lora.alpha / c.lora.rank)
    return y


@jax.custom_vjp
def product(x: jax.Array, w: jax.Array) -> jax.Array:
    """x [..., D] times w [D, F], with JAX's gradients, for weights that learn.

    The gradient of w sums over tokens, for which XLA on a CPU has to turn x or the gradient of the result around. By
    JAX's own rule it is always the latter; here the narrower one is: an update of the tiny run takes 0.84 of the time.
    """
    return x @ w


def _product_forward(x: jax.Array, w: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x @ w, (x, w)


def _product_backward(kept: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w = kept
    tokens = tuple(range(x.ndim - 1))
    if x.shape[-1] <= g.shape[-1]:
        w_bar = jax.lax.dot_general(x, g, ((tokens, tokens), ((), ())))
    else:
        w_bar = jax.lax.dot_general(g, x, ((tokens, tokens), ((), ()))).T
    return g @ w.T, w_bar


product.defvjp(_product_forward, _product_backward)


def decoder_layer(
    c: PolicyConfig,
    p: Mapping[str, jax.Array],
    x_NTD: jax.Array,
    cos_sin: tuple[jax.Array, jax.Array],
    mask: jax.Array | Causal,
    cache: LayerCache | None,
    slot: jax.Array | int,
    shared: tuple[Shared, ...] = (),
    read_NR: jax.Array | None = None,
) -> tuple[jax.Array, LayerCache]:
    """One pre-norm block: attention, then the gated MLP. Returns the new residual stream, where read, and the cache."""
    T = x_NTD.shape[1]

    def heads(y: jax.Array, count: int) -> jax.Array:
        return y.reshape(*y.shape[:2], count, c.head_dim).swapaxes(1, 2)

    def placed(name: str, count: int, h: jax.Array, cos_sin: tuple[jax.Array, jax.Array]) -> jax.Array:
        y = heads(linear(c, p, name, h), count)
        return rotate(rms_norm(y, p[f"{name}_norm"], c.norm_eps) if c.qk_norm else y, *cos_sin)

    h = rms_norm(x_NTD, p["attn_norm"], c.norm_eps)
    k_NKDT, v_NKTD = placed("k", c.kv_heads, h, cos_sin).swapaxes(2, 3), heads(linear(c, p, "v", h), c.kv_heads)
    if cache is not None:
        k_NKDT = jax.lax.dynamic_update_slice_in_dim(cache.k_NKDS, k_NKDT, slot, 3)
        v_NKTD = jax.lax.dynamic_update_slice_in_dim(cache.v_NKSD, v_NKTD, slot, 2)
    if read_NR is not None and isinstance(mask, Causal) and fused(c.attention, c.head_dim, h.dtype) == "xla":
        # Nobody but these need look; the fused kernels know whole squares only.
        x_NTD, h = states_at(x_NTD, read_NR), states_at(h, read_NR)
        cos_sin = tuple(states_at(part[:, 0], read_NR)[:, None] for part in cos_sin)
        mask, read_NR = jnp.arange(T) <= read_NR[..., None], None
    q = placed("q", c.heads, h, cos_sin)
    attention = jax.checkpoint(attend, static_argnums=4) if c.remat == "attention" else attend
    attended = attention(q, k_NKDT, v_NKTD, mask, c.attention, shared)
    attended = attended.swapaxes(1, 2).reshape(*h.shape[:2], c.heads * c.head_dim)
    if read_NR is not None:
        x_NTD, attended = states_at(x_NTD, read_NR), states_at(attended, read_NR)
    x_NTD = x_NTD + linear(c, p, "o", attended)
    h = rms_norm(x_NTD, p["mlp_norm"], c.norm_eps)
    x_NTD = x_NTD + linear(c, p, "down", jax.nn.silu(linear(c, p, "gate", h)) * linear(c, p, "up", h))
    return x_NTD, LayerCache(k_NKDT, v_NKTD)


def states_at(x_NTD: jax.Array, place_NR: jax.Array) -> jax.Array:
    """[N, R, D]: the states at int32 places in T."""
    return jnp.take_along_axis(x_NTD, place_NR[..., None], axis=1)


def init_params(config: PolicyConfig, key: jax.Array) -> Params:
    """Random parameters, float32; UserError for an unknown `config.init`."""
    if config.init not in INITS:
        raise UserError(f"policy.init is {config.init!r}; known: {', '.join(INITS)}")
    init_key, bias_key = jax.random.split(key)
    params = Qwen3(config).init(init_key, jnp.zeros((1, 2), jnp.int32))["params"]
    return copying_init(config, params, bias_key) if config.init == "copying" else params


def cast(params: Params, dtype: str) -> Params:
    """The parameters in the dtype they are computed with; no copies where they have it already."""
    return {name: value.astype(dtype) for name, value in params.items()}


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
