"""Sizes of the policy network."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    """A Qwen3 decoder: GQA, qk-norm, RoPE, SwiGLU, RMSNorm, tied embeddings.

    Attributes:
      vocab_size: V. 0 means "as large as the tokenizer", filled in when the tokenizer is known.
      width: D, the residual stream.
      layers: L.
      heads: H query heads.
      kv_heads: key/value heads; `heads` must be a multiple of it.
      head_dim: size of one head.
      ff: F, hidden size of the gated MLP.
      rope_theta: base of the rotary frequencies.
      norm_eps: epsilon of every RMSNorm.
      init: "qwen3" (normal, 0.02 for the embedding), or "copying", which starts a small model close to where it
        has to go to copy text (see `model.copying_init`).
      qk_norm_init: initial gain of the qk-norms. Above 1 sharpens attention at the start; 1.0 is Qwen3's.
      scan_layers: one `lax.scan` over the layers instead of a Python loop: compiles faster for deep models,
        runs 25-35 % slower on CPU for shallow ones.
      remat: recompute each layer's activations in the backward pass.
      path: folder of an existing policy to start from; "" starts from random weights.
    """

    vocab_size: int = 0
    width: int = 128
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    ff: int = 384
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    init: str = "qwen3"
    qk_norm_init: float = 1.0
    scan_layers: bool = False
    remat: bool = False
    path: str = ""
