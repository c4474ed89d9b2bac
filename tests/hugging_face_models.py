"""Small random models made by transformers, saved as the folders that it makes: the oracle of import and export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

torch.set_num_threads(1)  # more only get in each other's way at this size
SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
}
QWEN3 = {**SIZES, "head_dim": 16}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


def random_model(kind: str = "qwen3", **changes: Any) -> transformers.PreTrainedModel:
    """A Qwen3 or "qwen2" model in float32, with gains and biases that are not those of a fresh one."""
    config = transformers.Qwen3Config if kind == "qwen3" else transformers.Qwen2Config
    model = transformers.Qwen3ForCausalLM if kind == "qwen3" else transformers.Qwen2ForCausalLM
    torch.manual_seed(0)
    sizes = {**(QWEN3 if kind == "qwen3" else SIZES), "tie_word_embeddings": True, **changes}
    made = model(config(**sizes, attn_implementation="eager")).eval()
    with torch.no_grad():
        for name, value in made.named_parameters():
            if "norm" in name:
                value.uniform_(0.5, 1.5)
            else:
                value.normal_(0, 0.1 if value.ndim == 1 else 0.15)
    return made


def save(model: transformers.PreTrainedModel, folder: Path, **options: Any) -> Path:
    """The folder that transformers makes of a model."""
    model.save_pretrained(folder, **options)
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    """Sets keys of config.json; those set to None are removed."""
    file = folder / "config.json"
    values = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def torch_logits(model: transformers.PreTrainedModel, tokens_NT: Any, first_position: int = 0) -> Any:
    """Float32 logits [N, T, V] as numpy; positions count from `first_position`."""
    tokens = torch.as_tensor(tokens_NT)
    positions = torch.arange(tokens.shape[1])[None] + first_position
    with torch.no_grad():
        return model(tokens, position_ids=positions).logits.float().numpy()
