"""A BERT encoder (arXiv 1810.04805) in JAX, with the weights of a Hugging Face folder: for embeddings of sentences.

Axes: N texts, T tokens, D width, H heads, K head size, F hidden size of the MLP, L layers, V vocabulary, P positions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from memalpha_jax.errors import UserError
from memalpha_jax.policy.hugging_face import weight_files
from memalpha_jax.policy.hugging_face_config import read_json, read_number, read_size

Params = dict[str, jax.Array]

WHOLE = {
    "words": "embeddings.word_embeddings.weight",  # [V, D]
    "positions": "embeddings.position_embeddings.weight",  # [P, D]
    "segments": "embeddings.token_type_embeddings.weight",  # [segments, D]
    "embed_gain": "embeddings.LayerNorm.weight",
    "embed_bias": "embeddings.LayerNorm.bias",
}
LAYER = {
    "q": "attention.self.query.weight",
    "q_bias": "attention.self.query.bias",
    "k": "attention.self.key.weight",
    "k_bias": "attention.self.key.bias",
    "v": "attention.self.value.weight",
    "v_bias": "attention.self.value.bias",
    "o": "attention.output.dense.weight",
    "o_bias": "attention.output.dense.bias",
    "attn_gain": "attention.output.LayerNorm.weight",
    "attn_bias": "attention.output.LayerNorm.bias",
    "up": "intermediate.dense.weight",
    "up_bias": "intermediate.dense.bias",
    "down": "output.dense.weight",
    "down_bias": "output.dense.bias",
    "mlp_gain": "output.LayerNorm.weight",
    "mlp_bias": "output.LayerNorm.bias",
}
"""Our names of the tensors of a folder; matrices are [out, in], as they are there, and stacked over layers here."""


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes; positions: tokens of the longest text."""

    vocab_size: int
    width: int
    layers: int
    heads: int
    ff: int
    positions: int
    segments: int
    norm_eps: float


def read_bert_config(folder: Path) -> BertConfig:
    """The sizes of the model in `folder`.

    Raises:
      UserError: no or broken config.json, or a model that is not a plain BERT encoder.
    """
    file = folder / "config.json"
    values = read_json(file)
    plain = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
    for key, wanted in plain.items():
        found = values.get(key, None if key == "model_type" else wanted)
        if found != wanted:
            raise UserError(f"{file}: {key} is {found!r}, and embeddings are computed only where it is {wanted!r}")
    config = BertConfig(
        vocab_size=read_size(values, "vocab_size", file),
        width=read_size(values, "hidden_size", file),
        layers=read_size(values, "num_hidden_layers", file),
        heads=read_size(values, "num_attention_heads", file),
        ff=read_size(values, "intermediate_size", file),
        positions=read_size(values, "max_position_embeddings", file),
        segments=read_size(values, "type_vocab_size", file, 2),
        norm_eps=read_number({"layer_norm_eps": 1e-12, **values}, "layer_norm_eps", file),
    )
    if config.width % config.heads:
        raise UserError(f"{file}: hidden_size {config.width} is no multiple of num_attention_heads {config.heads}")
    return config


def shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters; those of a layer without the layer axis."""
    D, F = config.width, config.ff
    whole = {"words": (config.vocab_size, D), "positions": (config.positions, D), "segments": (config.segments, D)}
    matrices = dict.fromkeys("qkvo", (D, D)) | {"up": (F, D), "down": (D, F)}
    return {
        name: whole.get(name) or matrices.get(name) or ((F,) if name == "up_bias" else (D,))
        for name in (*WHOLE, *LAYER)
    }


def load_bert(folder: Path, config: BertConfig) -> Params:
    """The parameters, float32, from the safetensors files of `folder`.

    Raises:
      UserError: a file cannot be read, or a tensor is missing or of another shape than config.json makes it.
    """
    stored = _read_tensors(folder)
    wanted = shapes(config)

    def tensor(name: str, ours: str) -> np.ndarray:
        if name not in stored:
            raise UserError(f"the tensor {name} is in none of the safetensors files of {folder}; download it again")
        if stored[name].shape != wanted[ours]:
            raise UserError(
                f"{folder}: the tensor {name} has shape {stored[name].shape}, but config.json makes it {wanted[ours]}; "
                "download both again, they belong to different models"
            )
        return stored[name].astype(np.float32)

    params = {ours: tensor(name, ours) for ours, name in WHOLE.items()}
    for ours, name in LAYER.items():
        params[ours] = np.stack([tensor(f"encoder.layer.{i}.{name}", ours) for i in range(config.layers)])
    return jax.tree.map(jnp.asarray, params)


def _read_tensors(folder: Path) -> Mapping[str, np.ndarray]:
    """All tensors by name, without the prefix that files of a model with a head carry."""
    stored: dict[str, np.ndarray] = {}
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="np") as opened:
                for name in opened.keys():  # noqa: SIM118  not a dict
                    stored[name.removeprefix("bert.")] = opened.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise UserError(f"cannot read {file}: {error}; download it again") from error
    return stored


def encode(params: Params, config: BertConfig, token_NT: jax.Array, length_N: jax.Array) -> jax.Array:
    """float32 [N, T, D]: the last hidden states; those beyond a text's length mean nothing."""
    N, T = token_NT.shape
    real_NT = jnp.arange(T) < length_N[:, None]
    x_NTD = params["words"][token_NT] + params["positions"][:T] + params["segments"][0]
    x_NTD = _norm(x_NTD, params["embed_gain"], params["embed_bias"], config.norm_eps)

    def layer(x_NTD: jax.Array, p: Params) -> tuple[jax.Array, None]:
        def heads(name: str) -> jax.Array:
            return (x_NTD @ p[name].T + p[f"{name}_bias"]).reshape(N, T, config.heads, -1)

        mixed_NTHK = jax.nn.dot_product_attention(heads("q"), heads("k"), heads("v"), mask=real_NT[:, None, None])
        out_NTD = mixed_NTHK.reshape(N, T, -1) @ p["o"].T + p["o_bias"]
        x_NTD = _norm(x_NTD + out_NTD, p["attn_gain"], p["attn_bias"], config.norm_eps)
        hidden_NTF = jax.nn.gelu(x_NTD @ p["up"].T + p["up_bias"], approximate=False)
        return _norm(
            x_NTD + hidden_NTF @ p["down"].T + p["down_bias"], p["mlp_gain"], p["mlp_bias"], config.norm_eps
        ), None

    return jax.lax.scan(layer, x_NTD, {name: params[name] for name in LAYER})[0]


def _norm(x_NTD: jax.Array, gain_D: jax.Array, bias_D: jax.Array, eps: float) -> jax.Array:
    """LayerNorm (arXiv 1607.06450)."""
    centred = x_NTD - x_NTD.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + eps) * gain_D + bias_D
