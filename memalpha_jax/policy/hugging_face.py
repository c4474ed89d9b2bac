"""Weights of a Hugging Face folder (`*.safetensors`), read piece by piece straight into their shards.

A parameter here stacks the layers and has its projections as [in, out]; the files hold one tensor per layer, as
[out, in]. So every device's shard is made as zeros, and pieces of at most `PIECE_BYTES` are read from the files and
written into it on the device, where they are also transposed and cast. The host never holds more than a few pieces,
whatever the size of the model; names and shapes are checked before any data is read.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding
from safetensors import SafetensorError, safe_open

from memalpha_jax.errors import UserError
from memalpha_jax.policy.config import DTYPES, LoraConfig, PolicyConfig
from memalpha_jax.policy.hugging_face_config import read_json
from memalpha_jax.policy.model import parameter_shapes

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PIECE_BYTES = 8 << 20
NUMBERS = ("F32", "F16", "BF16")
REMEDY = "download both again, they belong to different models"

WHOLE_NAMES = {"embed": "model.embed_tokens.weight", "norm": "model.norm.weight", "head": "lm_head.weight"}
LAYER_NAMES = {
    "attn_norm": "input_layernorm.weight",
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "o": "self_attn.o_proj.weight",
    "q_bias": "self_attn.q_proj.bias",
    "k_bias": "self_attn.k_proj.bias",
    "v_bias": "self_attn.v_proj.bias",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    "mlp_norm": "post_attention_layernorm.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}


class Tensor(NamedTuple):
    """A tensor of the files: its parameter here, the layer (None for unstacked ones), and its shape in the file."""

    parameter: str
    layer: int | None
    shape: tuple[int, ...]


def tensors(config: PolicyConfig) -> dict[str, Tensor]:
    """The tensors that a folder with this model holds, by name, in the order of the network. Adapters are not part."""
    found: dict[str, Tensor] = {}
    for name, shape in base_shapes(config).items():
        if name in WHOLE_NAMES:
            found[WHOLE_NAMES[name]] = Tensor(name, None, shape)
            continue
        for layer in range(config.layers):
            found[f"model.layers.{layer}.{LAYER_NAMES[name]}"] = Tensor(name, layer, shape[:0:-1])
    return found


def base_shapes(config: PolicyConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters without adapters."""
    without = dataclasses.replace(config, lora=LoraConfig())
    return {name: shape for name, (shape, _) in parameter_shapes(without).items()}


def load_params(
    folder: Path,
    config: PolicyConfig,
    *,
    dtype: str = "float32",
    shardings: Mapping[str, Sharding] | None = None,
) -> dict[str, jax.Array]:
    """The parameters of `Qwen3(config)` without adapters, from the files of `folder`.

    Args:
      config: from `read_config(folder)`.
      dtype: of the parameters, "float32" or "bfloat16"; those stored so come bit for bit.
      shardings: by parameter name; None puts everything on the first device.

    Raises:
      UserError: names the tensor and file where one is missing, unknown, of another shape, or cut off.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype is {dtype!r}; known: {', '.join(DTYPES)}")
    files = _checked_files(folder, config)
    _check_tied_head(config, files)
    one = SingleDeviceSharding(jax.local_devices()[0])
    params = {}
    for name, shape in base_shapes(config).items():
        sharding = one if shardings is None else shardings[name]
        params[name] = _load_parameter(name, shape, dtype, sharding, files)
    return params


Index = tuple[tuple[int, int], ...]
"""First and last + 1 along every axis."""


def _load_parameter(
    name: str, shape: tuple[int, ...], dtype: str, sharding: Sharding, files: Mapping[str, Path]
) -> jax.Array:
    """One parameter; devices that hold the same part share what is read."""
    holders: dict[Index, list[jax.Device]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        part = tuple(axis.indices(size)[:2] for axis, size in zip(index, shape, strict=True))
        holders.setdefault(part, []).append(device)
    arrays: list[jax.Array] = []
    for part, devices in holders.items():
        local = tuple(stop - start for start, stop in part)
        shards = [jnp.zeros(local, dtype, device=device) for device in devices]
        for piece, start in _pieces(name, part, files):
            shards = [_write(s, jax.device_put(piece, d), start) for s, d in zip(shards, devices, strict=True)]
            jax.block_until_ready(shards)  # or all pieces would wait in line, in memory
        arrays += shards
    return jax.make_array_from_single_device_arrays(shape, sharding, arrays)


@functools.partial(jax.jit, donate_argnums=0)
def _write(whole: jax.Array, piece: jax.Array, start: tuple[int, ...]) -> jax.Array:
    """`whole` with a piece, as it is in the file, at `start`. Stacked parameters have their matrices transposed."""
    if whole.ndim > piece.ndim:
        piece = piece.T[None]
    return jax.lax.dynamic_update_slice(whole, piece.astype(whole.dtype), start)


def _pieces(name: str, part: Index, files: Mapping[str, Path]) -> Iterator[tuple[np.ndarray, tuple[int, ...]]]:
    """The pieces that make up `part` of a parameter, each with where it goes within that part."""
    if name in WHOLE_NAMES:
        tensor = WHOLE_NAMES[name]
        for piece, row in _read(files[tensor], tensor, part):
            yield piece, (row, *(0 for _ in part[1:]))
        return
    first, last = part[0]
    for layer in range(first, last):
        tensor = f"model.layers.{layer}.{LAYER_NAMES[name]}"
        for piece, row in _read(files[tensor], tensor, part[:0:-1]):
            yield piece, (layer - first, *(0 for _ in part[2:]), row)


def _read(file: Path, tensor: str, part: Index) -> Iterator[tuple[np.ndarray, int]]:
    """`part` of a tensor in pieces of whole rows, each with its first row, counted from the part's.

    The file is opened for each piece, so that the pages that were read do not stay mapped.
    """
    (first, last), columns = part[0], tuple(slice(*axis) for axis in part[1:])
    row_bytes = 4 * math.prod(stop - start for start, stop in part[1:])
    rows = max(1, PIECE_BYTES // row_bytes)
    for row in range(first, last, rows):
        try:
            with safe_open(file, framework="np") as opened:
                piece = opened.get_slice(tensor)[(slice(row, min(row + rows, last)), *columns)]
        except (SafetensorError, OSError) as error:
            raise UserError(f"cannot read {tensor} from {file}: {error}; download the model again") from error
        yield piece, row - first


def _checked_files(folder: Path, config: PolicyConfig) -> dict[str, Path]:
    """The file of every tensor, after all headers were compared with what `config` calls for."""
    wanted = tensors(config)
    found: dict[str, Path] = {}
    for file, named in weight_files(folder).items():
        headers = _read_headers(file)
        for name in sorted(named - headers.keys()):
            raise UserError(f"{file} lacks the tensor {name}, which {INDEX} places there; download the model again")
        for name, (shape, stored) in headers.items():
            if _is_ignored(name):
                continue
            if name in found:
                raise UserError(f"the tensor {name} is in {found[name]} and in {file}; remove one of these files")
            if name not in wanted and not (name == WHOLE_NAMES["head"] and config.tied_embeddings):
                raise UserError(
                    f"{file} holds the tensor {name}, which a model with this config.json does not have; {REMEDY}"
                )
            expected = wanted[name].shape if name in wanted else (config.vocab_size, config.width)
            if shape != expected:
                raise UserError(
                    f"{file}: the tensor {name} has shape {shape}, but config.json makes it {expected}; {REMEDY}"
                )
            if stored not in NUMBERS:
                raise UserError(f"{file}: the tensor {name} is of type {stored}; known: {', '.join(NUMBERS)}")
            found[name] = file
    for name in wanted:
        if name not in found:
            raise UserError(f"the tensor {name} is in none of the safetensors files of {folder}; download it again")
    return found


def _is_ignored(name: str) -> bool:
    return name.endswith(".rotary_emb.inv_freq")  # a table that old exports carry; it follows from config.json


def weight_files(folder: Path) -> dict[Path, set[str]]:
    """The weight files, each with the tensors that the index, where there is one, places in it.

    Raises:
      UserError: there are none, or the index names one that is absent.
    """
    if not (folder / INDEX).is_file():
        if (folder / SINGLE).is_file():
            return {folder / SINGLE: set()}
        others = sorted(path.name for path in folder.glob("*") if path.suffix in (".bin", ".safetensors", ".gguf"))
        raise UserError(
            f"{folder} holds neither {SINGLE} nor {INDEX}"
            + (f" (there is {', '.join(others[:4])})" if others else "")
            + "; only these are read"
        )
    places = read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise UserError(f"{folder / INDEX} holds no weight_map from tensors to files; download the model again")
    files: dict[Path, set[str]] = {}
    for tensor, name in places.items():
        if Path(name).name != name:
            raise UserError(f"{folder / INDEX} names the file {name!r}, which is not one beside it")
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing; {INDEX} places {tensor} there: download it again")
        files.setdefault(folder / name, set()).add(tensor)
    return files


def _read_headers(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of every tensor of a file."""
    try:
        with safe_open(file, framework="np") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118  not a dict
            return {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
    except (SafetensorError, OSError) as error:
        cut = _first_cut_off(file)
        what = f"the tensor {cut} is cut off" if cut else str(error)
        raise UserError(f"cannot read {file}: {what}; download it again") from error


def _first_cut_off(file: Path) -> str | None:
    """The first tensor whose bytes lie beyond the end of a truncated file; None where that is not the fault.

    A safetensors file is the length of its header (8 bytes, little-endian), the header as JSON, and the data.
    """
    try:
        with open(file, "rb") as handle:
            size = int.from_bytes(handle.read(8), "little")
            if size > file.stat().st_size:
                return None
            header = json.loads(handle.read(size))
        held = file.stat().st_size - 8 - size
        ends = {name: entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"}
        return min((name for name, end in ends.items() if end > held), key=lambda name: ends[name], default=None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None


def stored_dtype(folder: Path) -> str:
    """The smallest of our dtypes that holds every tensor of a folder exactly."""
    stored = {kind for file in weight_files(folder) for _, kind in _read_headers(file).values()}
    return "bfloat16" if stored == {"BF16"} else "float32"


def _check_tied_head(config: PolicyConfig, files: Mapping[str, Path]) -> None:
    """UserError where a file carries an output matrix that tied embeddings would silently replace."""
    head, embed = WHOLE_NAMES["head"], WHOLE_NAMES["embed"]
    if not config.tied_embeddings or head not in files:
        return
    whole: Index = ((0, config.vocab_size), (0, config.width))
    pairs = zip(_read(files[head], head, whole), _read(files[embed], embed, whole), strict=True)
    if not all(np.array_equal(own.view(np.uint8), shared.view(np.uint8)) for (own, _), (shared, _) in pairs):
        raise UserError(
            f"{files[head]} holds a {head} that differs from {embed}, but config.json ties them "
            "(tie_word_embeddings): set that to false to use it, or remove the tensor"
        )


def holds_model(folder: Path) -> bool:
    """Whether `folder` looks like a Hugging Face model, whole or broken, rather than like a workdir."""
    if any(folder.glob("*.safetensors")) or (folder / INDEX).is_file() or any(folder.glob("pytorch_model*")):
        return True
    try:
        values: Any = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and ("architectures" in values or "model_type" in values)
