"""How a sentence-embedding model wants its texts, as the files of sentence-transformers in its folder say.

FOLDER/modules.json                       the parts of the model
FOLDER/1_Pooling/config.json              how hidden states become one vector
FOLDER/sentence_bert_config.json          the longest text, and whether it is lower-cased first (optional)
FOLDER/config_sentence_transformers.json  what is put before questions and texts (optional)
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from memalpha_jax.errors import UserError
from memalpha_jax.policy.hugging_face_config import read_json, read_size

Pooling = Literal["cls", "mean"]
POOLINGS: Mapping[str, Pooling] = {"cls_token": "cls", "cls": "cls", "mean_tokens": "mean", "mean": "mean"}
MODULES = ("Transformer", "Pooling", "Normalize")
DOCUMENT_PROMPTS = ("document", "passage", "corpus")


@dataclasses.dataclass(frozen=True)
class EmbeddingFormat:
    """How texts are laid out and pooled.

    Attributes:
      pooling: "cls" takes the first token's hidden state, "mean" the mean over all tokens.
      max_tokens: of a text with its frame; what is longer is cut off. lower_case: texts are lower-cased first.
      query_prompt, text_prompt: put before questions, and before texts.
    """

    pooling: Pooling
    max_tokens: int
    lower_case: bool = False
    query_prompt: str = ""
    text_prompt: str = ""


def read_format(folder: Path, positions: int) -> EmbeddingFormat:
    """The format of the model in `folder`, which has so many positions.

    Raises:
      UserError: modules.json or the pooling's config is missing or broken, or asks for what is not computed here.
    """
    file = folder / "sentence_bert_config.json"
    limits = read_json(file) if file.exists() else {}
    file = folder / "config_sentence_transformers.json"
    prompts = (read_json(file).get("prompts") if file.exists() else None) or {}
    if not isinstance(prompts, dict) or not all(isinstance(prompt, str) for prompt in prompts.values()):
        raise UserError(f"{file}: prompts is {prompts!r}; expected texts by name")
    return EmbeddingFormat(
        pooling=_pooling(folder),
        max_tokens=min(read_size(limits, "max_seq_length", folder / "sentence_bert_config.json", positions), positions),
        lower_case=limits.get("do_lower_case") is True,
        query_prompt=prompts.get("query", ""),
        text_prompt=next((prompts[name] for name in DOCUMENT_PROMPTS if prompts.get(name)), ""),
    )


def _pooling(folder: Path) -> Pooling:
    modules = _modules(folder / "modules.json")
    unknown = [kind for kind in modules if kind not in MODULES]
    if unknown or "Pooling" not in modules:
        raise UserError(
            f"{folder / 'modules.json'}: the model is made of {', '.join(modules) or 'nothing'}; embeddings are "
            "computed only of a Transformer with a Pooling"
        )
    file = folder / modules["Pooling"] / "config.json"
    values = read_json(file)
    prefix = "pooling_mode"
    chosen = [name.removeprefix(f"{prefix}_") for name, on in values.items() if name.startswith(prefix) and on is True]
    if isinstance(values.get(prefix), str):
        chosen.append(values[prefix])
    if len(chosen) != 1 or chosen[0] not in POOLINGS or values.get("include_prompt") is False:
        raise UserError(
            f"{file}: the pooling is {values}; known: the first token (cls_token) or the mean (mean_tokens)"
        )
    return POOLINGS[chosen[0]]


def _modules(file: Path) -> dict[str, str]:
    """The folder of each part, by its kind."""
    try:
        parts: Any = json.loads(file.read_text(encoding="utf-8"))
        modules = {str(part["type"]).rsplit(".", 1)[-1]: str(part["path"]) for part in parts}
    except FileNotFoundError:
        raise UserError(
            f"{file.parent} is not a sentence-embedding model: it has no {file.name}, which says how it pools; "
            "download it with all of its files"
        ) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"cannot read {file}: {error}; download the model again") from error
    for path in modules.values():
        if Path(path).name != path:
            raise UserError(f"{file} names the folder {path!r}, which is not one beside it")
    return modules
