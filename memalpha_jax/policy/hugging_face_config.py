"""`config.json` of a Hugging Face model folder as a `PolicyConfig`, and back.

Defaults of absent keys are those of transformers' `Qwen3Config` and `Qwen2Config` (Qwen2.5 goes by that name);
sizes have no defaults here: a folder that does not say how wide its model is, is broken.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memalpha_jax.errors import UserError
from memalpha_jax.policy.config import PolicyConfig, YarnConfig

QWEN3, QWEN2 = "Qwen3ForCausalLM", "Qwen2ForCausalLM"
QWEN3_HEAD_DIM = 128
"""What transformers takes for a Qwen3 without `head_dim`; a Qwen2 takes hidden_size / num_attention_heads."""


def read_config(folder: Path, dtype: str = "float32") -> PolicyConfig:
    """The sizes of the model in `folder`, to be run in `dtype`.

    Raises:
      UserError: no or broken config.json, a missing key, or a model that this program does not compute.
    """
    return policy_config(read_json(folder / "config.json"), folder / "config.json", dtype)


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; UserError when there is none."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file.parent} is not a Hugging Face model: it has no {file.name}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}; download the model again") from error
    if not isinstance(values, dict):
        raise UserError(f"{file} does not hold a JSON object; download the model again")
    return values


def policy_config(values: Mapping[str, Any], file: Path, dtype: str = "float32") -> PolicyConfig:
    """The same from the parsed content of `file`, which error messages name."""
    architecture = _architecture(values, file)
    _refuse(values, architecture, file)
    width, heads = read_size(values, "hidden_size", file), read_size(values, "num_attention_heads", file)
    kv_heads = read_size(values, "num_key_value_heads", file, default=heads)
    default = QWEN3_HEAD_DIM if architecture == QWEN3 else width // heads
    head_dim = read_size(values, "head_dim", file, default=default)
    if heads % kv_heads:
        raise UserError(f"{file}: num_attention_heads, {heads}, is not a multiple of num_key_value_heads, {kv_heads}")
    if head_dim % 2:
        raise UserError(f"{file}: head_dim is {head_dim}; rotary positions need an even number")
    positions = read_size(values, "max_position_embeddings", file)
    theta, yarn = _rotary(values, positions, file)
    return PolicyConfig(
        vocab_size=read_size(values, "vocab_size", file),
        width=width,
        layers=read_size(values, "num_hidden_layers", file),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ff=read_size(values, "intermediate_size", file),
        rope_theta=theta,
        yarn=yarn,
        norm_eps=read_number(values, "rms_norm_eps", file),
        tied_embeddings=_switch(values, "tie_word_embeddings", file),
        qk_norm=architecture == QWEN3,
        attention_bias=architecture == QWEN2,
        # Published configs keep the length of pretraining there when YaRN is switched on to exceed it.
        max_positions=max(positions, round(yarn.factor * yarn.original_positions)) if yarn.factor > 1 else positions,
        dtype=dtype,
    )


def config_json(config: PolicyConfig, dtype: str) -> dict[str, Any]:
    """The inverse of `policy_config`, for weights stored in `dtype`.

    Rotary settings are written as the published checkpoints have them, which every version of transformers reads.

    Raises:
      UserError: a combination of switches that neither Qwen3 nor Qwen2.5 has.
    """
    if config.qk_norm == config.attention_bias:
        raise UserError(
            f"policy.qk_norm and policy.attention_bias are both {config.qk_norm}: transformers has a Qwen3 (only the "
            "first) and a Qwen2.5 (only the second), so this policy cannot be exported"
        )
    yarn = config.yarn
    scaling = {
        "rope_type": "yarn",
        "factor": yarn.factor,
        "original_max_position_embeddings": yarn.original_positions,
        "beta_fast": yarn.beta_fast,
        "beta_slow": yarn.beta_slow,
        "truncate": yarn.truncate,
    }
    scaling |= {"attention_factor": yarn.attention_factor} if yarn.attention_factor else {}
    scaled = yarn.factor != 1 or bool(yarn.attention_factor)
    switches = {"attention_bias": False} if config.qk_norm else {}
    return {
        "architectures": [QWEN3 if config.qk_norm else QWEN2],
        "model_type": "qwen3" if config.qk_norm else "qwen2",
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.ff,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling if scaled else None,
        "max_position_embeddings": config.max_positions or UNBOUNDED_POSITIONS,
        "tie_word_embeddings": config.tied_embeddings,
        "use_sliding_window": False,
        "attention_dropout": 0.0,
        "torch_dtype": dtype,
        **switches,
    }


UNBOUNDED_POSITIONS = 32_768
"""Written for a policy without a longest context: the key cannot be left out, and servers plan memory by it."""


def _architecture(values: Mapping[str, Any], file: Path) -> str:
    names = values.get("architectures")
    if not isinstance(names, list) or not names:
        raise UserError(f"{file} names no architecture, so its folder is not a Hugging Face model that can be read")
    for name in names:
        if name in (QWEN3, QWEN2):
            return name
    raise UserError(
        f"{file}: the architecture is {', '.join(map(str, names))}; this program computes {QWEN3} (Qwen3, dense) and "
        f"{QWEN2} (Qwen2.5): take a folder of one of these"
    )


def _refuse(values: Mapping[str, Any], architecture: str, file: Path) -> None:
    """UserError for settings that would need another computation."""
    act = values.get("hidden_act", "silu")
    if act != "silu":
        raise UserError(f"{file}: hidden_act is {act!r}; only 'silu' is computed")
    kinds = {str(kind) for kind in values.get("layer_types") or ()} - {"full_attention"}
    if values.get("use_sliding_window") or kinds:
        shown = f"layer_types has {', '.join(sorted(kinds))}" if kinds else "use_sliding_window is true"
        raise UserError(f"{file}: {shown}; every layer attends to the whole context here, so it would compute another")
    if architecture == QWEN3 and values.get("attention_bias"):
        raise UserError(f"{file}: attention_bias is true, which no released Qwen3 has and which is not computed here")
    if values.get("quantization_config"):
        raise UserError(
            f"{file}: the weights are quantized (quantization_config); take the folder of the same model in bfloat16"
        )


def _rotary(values: Mapping[str, Any], positions: int, file: Path) -> tuple[float, YarnConfig]:
    """Base and scaling, from `rope_parameters` (transformers 5) or top-level `rope_theta` and `rope_scaling`."""
    section = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
    rope = values.get(section) or {}
    if not isinstance(rope, Mapping):
        raise UserError(f"{file}: {section} is {rope!r}; expected an object")
    if any(isinstance(value, Mapping) for value in rope.values()):
        raise UserError(f"{file}: {section} differs between layers ({', '.join(rope)}), which is not computed here")
    share = rope.get("partial_rotary_factor", values.get("partial_rotary_factor", 1.0))
    if share not in (1, None):
        raise UserError(f"{file}: partial_rotary_factor is {share!r}; only whole heads are rotated here")
    theta = read_number(rope if "rope_theta" in rope else values, "rope_theta", file)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, YarnConfig()
    if kind != "yarn":
        raise UserError(f"{file}: {section} asks for rope_type {kind!r}; known: 'default', 'yarn'")
    return theta, _yarn(rope, values.get("original_max_position_embeddings"), positions, section, file)


def _yarn(rope: Mapping[str, Any], outside: Any, positions: int, section: str, file: Path) -> YarnConfig:
    """As transformers' `_compute_yarn_parameters` reads it; `outside`: the top-level original length, which wins."""
    where = Path(f"{file}: {section}")
    name = "original_max_position_embeddings"
    original = read_size({name: rope.get(name) if outside is None else outside}, name, where, default=positions)
    factor = positions / original if rope.get("factor") is None else read_number(rope, "factor", where)
    if factor < 1:
        raise UserError(f"{where}: factor is {factor}; YaRN makes contexts longer, so it must be at least 1")
    scale = 0.0
    if rope.get("attention_factor") is not None:
        scale = read_number(rope, "attention_factor", where)
    elif rope.get("mscale") and rope.get("mscale_all_dim"):
        mscales = (read_number(rope, key, where) for key in ("mscale", "mscale_all_dim"))
        top, bottom = (0.1 * mscale * math.log(factor) + 1 for mscale in mscales)
        scale = top / bottom
    return YarnConfig(
        factor=factor,
        original_positions=original,
        beta_fast=read_number(rope, "beta_fast", where) if rope.get("beta_fast") else 32.0,
        beta_slow=read_number(rope, "beta_slow", where) if rope.get("beta_slow") else 1.0,
        attention_factor=scale,
        truncate=bool(rope.get("truncate", True)),
    )


def _present(values: Mapping[str, Any], key: str, where: Path) -> Any:
    if values.get(key) is None:
        raise UserError(f"{where} has no {key}; download the model again, or take another")
    return values[key]


def read_size(values: Mapping[str, Any], key: str, where: Path, default: int | None = None) -> int:
    """A whole number above 0 of a config.json; UserError where it is none, or absent without a default."""
    value = default if default is not None and values.get(key) is None else _present(values, key, where)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{where}: {key} is {value!r}; expected a whole number of at least 1")
    return value


def read_number(values: Mapping[str, Any], key: str, where: Path) -> float:
    """A number above 0 of a config.json; UserError where it is none, or absent."""
    value = _present(values, key, where)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise UserError(f"{where}: {key} is {value!r}; expected a number above 0")
    return float(value)


def _switch(values: Mapping[str, Any], key: str, where: Path) -> bool:
    value = values.get(key, False)
    if not isinstance(value, bool):
        raise UserError(f"{where}: {key} is {value!r}; expected true or false")
    return value
