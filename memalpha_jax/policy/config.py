"""Sizes of the policy network, and how it is run."""

from __future__ import annotations

import dataclasses

PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")
"""The weight matrices of a layer, by parameter name."""
DTYPES = ("float32", "bfloat16")
REMATS = ("none", "attention", "dots", "layer")
ATTENTIONS = ("auto", "xla", "cudnn", "splash")


@dataclasses.dataclass(frozen=True)
class YarnConfig:
    """YaRN scaling of the rotary frequencies (arXiv 2309.00071), for contexts longer than those of pretraining.

    Attributes:
      factor: how many times longer; 1 turns the scaling off.
      original_positions: context length of pretraining.
      beta_fast, beta_slow: rotations over that length above which a frequency stays as it is, and below which it is
        divided by `factor`; between them it is a mixture.
      attention_factor: multiplies cosines and sines; 0 takes 0.1 ln(factor) + 1.
      truncate: round the bounds of the mixture to whole dimensions.
    """

    factor: float = 1.0
    original_positions: int = 32_768
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 0.0
    truncate: bool = True


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (arXiv 2106.09685): W + (alpha / rank) A B, of which only A and B are trained.

    Attributes:
      rank: r; 0 trains all parameters instead.
      alpha: see above.
      targets: the projections that get adapters, of q, k, v, o, gate, up, down.
    """

    rank: int = 0
    alpha: float = 16.0
    targets: tuple[str, ...] = PROJECTIONS


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    """A Qwen3 decoder (GQA, qk-norm, RoPE, SwiGLU, RMSNorm); with two switches a Qwen2.5 one.

    Attributes:
      vocab_size: V. 0 means "as large as the tokenizer", filled in when the tokenizer is known.
      width: D, the residual stream.
      layers: L.
      heads: H query heads.
      kv_heads: key/value heads; `heads` must be a multiple of it.
      head_dim: size of one head.
      ff: F, hidden size of the gated MLP.
      rope_theta: base of the rotary frequencies. yarn: their scaling.
      norm_eps: epsilon of every RMSNorm.
      tied_embeddings: logits use the embedding; otherwise a matrix of their own.
      qk_norm: RMSNorm of every query and key (Qwen3). attention_bias: q, k and v have biases (Qwen2.5).
      max_positions: longest context, prompt and reply together; 0 means any.
      init: "qwen3" (normal, 0.02 for the embedding), or "copying", which starts a small model close to where it
        has to go to copy text (see `model.copying_init`).
      qk_norm_init: initial gain of the qk-norms. Above 1 sharpens attention at the start; 1.0 is Qwen3's.
      lora: adapters, where training changes only these.
      dtype: of activations and of the weights they meet, "float32" or "bfloat16"; weights in training are float32.
      attention: "xla", "cudnn" (GPU), "splash" (TPU), or "auto", which takes what the platform has.
      scan_layers: one `lax.scan` over the layers instead of a Python loop: compiles faster for deep models,
        runs 25-35 % slower on CPU for shallow ones.
      remat: what the backward pass computes again: "none", "attention" (its scores), "dots" (all but matrix products)
        or "layer" (everything inside a layer).
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
    yarn: YarnConfig = YarnConfig()
    norm_eps: float = 1e-6
    tied_embeddings: bool = True
    qk_norm: bool = True
    attention_bias: bool = False
    max_positions: int = 0
    init: str = "qwen3"
    qk_norm_init: float = 1.0
    lora: LoraConfig = LoraConfig()
    dtype: str = "float32"
    attention: str = "auto"
    scan_layers: bool = False
    remat: str = "none"
    path: str = ""


ARCHITECTURE = (
    *("width", "layers", "heads", "kv_heads", "head_dim", "ff", "rope_theta", "yarn", "norm_eps"),
    *("tied_embeddings", "qk_norm", "attention_bias", "max_positions"),
)
"""What a policy cannot change after it was made; the other fields say how it is run."""
