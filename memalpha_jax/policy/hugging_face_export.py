"""Parameters as Hugging Face weight files: safetensors, split where large, or a PEFT adapter.

Tensors are taken from the device one layer at a time; the host holds those of one file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from memalpha_jax.errors import UserError
from memalpha_jax.policy.config import LoraConfig, PolicyConfig
from memalpha_jax.policy.hugging_face import INDEX, LAYER_NAMES, SINGLE, Tensor, tensors

METADATA = {"format": "pt"}
"""transformers refuses files without it."""


class _File(NamedTuple):
    name: str
    tensors: tuple[str, ...]


def write_weights(
    folder: Path, config: PolicyConfig, params: Mapping[str, jax.Array], *, dtype: str, file_bytes: int
) -> None:
    """Writes the parameters, adapters aside, as `model.safetensors`, or as several files and their index.

    Args:
      dtype: of the files, "float32" or "bfloat16".
      file_bytes: most bytes of one file, except where a single tensor has more.
    """
    item = jnp.dtype(dtype).itemsize
    table = tensors(config)
    sizes = {name: item * math.prod(tensor.shape) for name, tensor in table.items()}
    files = _split(sizes, file_bytes)
    for file in files:
        held = {name: _stored(params, table[name], dtype) for name in file.tensors}
        save_file(held, folder / file.name, METADATA)
    if len(files) > 1:
        places = {name: file.name for file in files for name in file.tensors}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _split(sizes: Mapping[str, int], file_bytes: int) -> list[_File]:
    """The files, filled in the order of the network, and the tensors of each."""
    groups: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if groups[-1] and used + size > file_bytes:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
    if len(groups) == 1:
        return [_File(SINGLE, tuple(groups[0]))]
    count = len(groups)
    return [_File(f"model-{i:05d}-of-{count:05d}.safetensors", tuple(group)) for i, group in enumerate(groups, 1)]


def _stored(params: Mapping[str, jax.Array], tensor: Tensor, dtype: str) -> np.ndarray:
    """One tensor as the files have it: [out, in], contiguous."""
    value = params[tensor.parameter]
    return _host(value if tensor.layer is None else value[tensor.layer].T, dtype)


def _host(value: jax.Array, dtype: str) -> np.ndarray:
    return np.ascontiguousarray(jax.device_get(value.astype(dtype)))


def write_adapter(folder: Path, lora: LoraConfig, params: Mapping[str, jax.Array], *, dtype: str, base: str) -> None:
    """Writes the adapters as a PEFT folder: `adapter_model.safetensors` and `adapter_config.json`.

    Args:
      params: must hold the adapters of `lora`. base: the name or path of the model they belong to.
    """
    if not lora.rank:
        raise UserError("the policy has no adapters (policy.lora.rank is 0); export it with --merge_lora")
    held = {name: _host(value, dtype) for name, value in _adapter_tensors(lora, params)}
    save_file(held, folder / "adapter_model.safetensors", METADATA)
    text = json.dumps(adapter_config(lora, base), indent=2)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def _adapter_tensors(lora: LoraConfig, params: Mapping[str, jax.Array]) -> Iterator[tuple[str, jax.Array]]:
    """PEFT's names, and A as [rank, in], B as [out, rank]."""
    for name in lora.targets:
        module = LAYER_NAMES[name].removesuffix(".weight")
        for ours, theirs in (("a", "A"), ("b", "B")):
            stacked = params[f"{name}_lora_{ours}"]
            for layer in range(stacked.shape[0]):
                yield f"base_model.model.model.layers.{layer}.{module}.lora_{theirs}.weight", stacked[layer].T


def adapter_config(lora: LoraConfig, base: str) -> dict[str, Any]:
    """What PEFT calls the settings of `lora`."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base or None,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "target_modules": [LAYER_NAMES[name].split(".")[-2] for name in lora.targets],
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "inference_mode": True,
    }
