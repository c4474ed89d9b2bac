"""A tiny sentence-embedding folder with random weights, made by transformers itself."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import BertConfig, BertModel

WORDS = "the a fox owl cat dog red blue sleeps runs in wood house tea rain lives is where who q p : . ? [ ] sep cls"
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split(), *"bcdefghijklmnorstuvwxyz"]
PIECES += ["##" + letter for letter in "abcdefghijklmnopqrstuvwxyz"]
POSITIONS = 24


def make_folder(
    folder: Path, pooling: str = "mean_tokens", prompts: dict[str, str] | None = None, seed: int = 0
) -> BertModel:
    """Writes the folder, and returns the model in it."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
    config = BertConfig(
        vocab_size=len(PIECES), max_position_embeddings=POSITIONS, initializer_range=0.5, layer_norm_eps=1e-6, **sizes
    )
    model = BertModel(config).eval()
    for parameter in model.parameters():  # biases and gains that a mistake would not hide behind
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.3)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(PIECES))
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    kinds = [
        {"idx": i, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(kinds))
    (folder / "1_Pooling").mkdir()
    modes = {f"pooling_mode_{name}": name == pooling for name in ("cls_token", "mean_tokens", "max_tokens")}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 16, **modes}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 20, "do_lower_case": False}))
    if prompts:
        (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    return model
