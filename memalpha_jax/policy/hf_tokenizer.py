"""Tokenizers of Hugging Face folders: byte-level BPE and added tokens, under the rules of `tokenizer.py`.

The *added tokens* of such a folder (`<|im_end|>`, `<think>`, `<tool_call>` and so on, whether it calls them special or
not) are the frames: untrusted text is encoded by a copy of the BPE model that does not know them, so no text yields
one. The copy has no normalizer either (Qwen's would compose accents), so every text survives the round trip.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from memalpha_jax.errors import UserError
from memalpha_jax.policy.tokenizer import EOS

MODEL_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
SIDE_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
FILES = ("tokenizer.json", "vocab.json", "merges.txt", *SIDE_FILES)
EXPECTED = "tokenizer.json (or vocab.json and merges.txt) and tokenizer_config.json"
_PROBE = " a  b\n\n\tIt's 1990, e\u0301 \u00e9 \U0001f600\r\n \0<s>"


class HuggingFaceTokenizer:
    """A byte-level BPE tokenizer of `transformers`.

    Attributes:
      wrapped: the tokenizer as `AutoTokenizer` reads it: for its chat template, not for encoding.
      vocab_size: the largest id + 1. A model's embedding may have more rows; those ids stand for no text.
      eos_id: of `<|im_end|>` where there is one (chat models), otherwise of the folder's end-of-text token.
      pad_id: the folder's padding token, or `eos_id`; padding is known from lengths, so nothing here needs it.
      added: text to id of the added tokens.
    """

    def __init__(self, files: Mapping[str, bytes]):
        """files: name to content, as `files()` gives them. UserError when they make no byte-level BPE tokenizer."""
        self._files = _needed(files)
        self.wrapped = _auto_tokenizer(self._files)
        self.added = {token.content: id for id, token in self.wrapped.added_tokens_decoder.items()}
        spec = json.loads(self.wrapped.backend_tokenizer.to_str())
        self._plain = _without_added_tokens(spec, self.added)
        self._bytes = _byte_table(self._plain.get_vocab(), self.added)
        self.vocab_size = len(self._bytes)
        eos_id = self.added.get(EOS, self.wrapped.eos_token_id)
        if eos_id is None:
            raise UserError(f"the tokenizer has neither {EOS} nor an eos_token: name one in tokenizer_config.json")
        self.eos_id = int(eos_id)
        self.pad_id = self.eos_id if self.wrapped.pad_token_id is None else int(self.wrapped.pad_token_id)
        longest_first = sorted(self.added, key=len, reverse=True)
        self._split = re.compile("(" + ("|".join(map(re.escape, longest_first)) or "(?!)") + ")")
        if b"".join(map(self.token_bytes, self.encode(_PROBE))) != _PROBE.encode():
            raise UserError("the tokenizer does not keep text exactly as it is; byte-level BPE without prefixes does")

    def encode(self, text: str) -> list[int]:
        text = text.encode("utf-8", "replace").decode()  # lone surrogates are not text
        return self._plain.encode(text, add_special_tokens=False).ids

    def encode_trusted(self, text: str) -> list[int]:
        ids: list[int] = []
        for i, part in enumerate(self._split.split(text)):
            ids += [self.added[part]] if i % 2 else self.encode(part)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes one token stands for; none for the ids of an embedding's unused rows."""
        return self._bytes[token] if 0 <= token < self.vocab_size else b""

    def files(self) -> dict[str, bytes]:
        """Name to content, what a checkpoint stores."""
        return dict(self._files)

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> HuggingFaceTokenizer:
        """The inverse of `files`; files of other kinds are passed over."""
        return cls(files)

    def save(self, folder: Path) -> None:
        """Writes the files into `folder`, byte for byte as they were read."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self._files.items():
            (folder / name).write_bytes(content)

    @classmethod
    def load(cls, folder: Path) -> HuggingFaceTokenizer:
        """Reads the tokenizer of a model's folder; UserError names what is missing."""
        try:
            return cls({name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()})
        except UserError as error:
            raise UserError(f"{error} (in {folder})") from error


def _needed(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files a tokenizer is made of, the others left out; UserError when there are not enough."""
    model = next((names for names in MODEL_FILES if all(name in files for name in names)), None)
    if model is None or "tokenizer_config.json" not in files:
        raise UserError(f"the tokenizer is incomplete: expected {EXPECTED}, found {', '.join(sorted(files)) or 'none'}")
    return {name: files[name] for name in (*model, *SIDE_FILES) if name in files}


def _auto_tokenizer(files: Mapping[str, bytes]) -> Any:
    """`AutoTokenizer` over these files, from a folder that is gone afterwards."""
    import transformers  # takes a second, and runs with SentencePiece need it nowhere

    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            Path(folder, name).write_bytes(content)
        try:
            wrapped = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # transformers raises whatever its parsers meet in a broken file
            first_line = str(error).strip().split("\n")[0]
            raise UserError(f"transformers cannot read the tokenizer's files: {first_line}") from error
    if not getattr(wrapped, "is_fast", False):
        raise UserError(f"the tokenizer is a {type(wrapped).__name__} without a `tokenizers` backend: give {EXPECTED}")
    return wrapped


def _without_added_tokens(spec: dict[str, Any], added: Mapping[str, int]) -> tokenizers.Tokenizer:
    """The bare BPE model of a tokenizer.json: bytes in, pieces out, whatever the text says."""
    kinds = {part.get("type") for part in _parts(spec.get("pre_tokenizer")) + _parts(spec.get("decoder"))}
    model = spec["model"]
    if model.get("type") != "BPE" or "ByteLevel" not in kinds:
        raise UserError(f"the tokenizer is no byte-level BPE (it is {model.get('type')}): only those keep every text")
    # Some folders list added tokens among the pieces as well.
    model["vocab"] = {piece: id for piece, id in model["vocab"].items() if piece not in added}
    model["merges"] = [pair for pair in model["merges"] if _merged(pair) not in added]
    model["dropout"] = None
    bare: dict[str, Any] = {
        "added_tokens": [],
        "normalizer": None,
        "post_processor": None,
        "truncation": None,
        "padding": None,
    }
    return tokenizers.Tokenizer.from_str(json.dumps({**spec, **bare}))


def _parts(component: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A pre-tokenizer or decoder as a list: sequences taken apart."""
    if component is None:
        return []
    return [component, *component.get("pretokenizers", []), *component.get("decoders", [])]


def _merged(pair: str | list[str]) -> str:
    return "".join(pair.split(" ") if isinstance(pair, str) else pair)


def _byte_table(vocab: Mapping[str, int], added: Mapping[str, int]) -> list[bytes]:
    """What every id stands for; nothing where the numbering has holes."""
    table = [b""] * (1 + max([*vocab.values(), *added.values()]))
    byte_of = _byte_alphabet()
    if missing := [char for char in byte_of if char not in vocab]:
        raise UserError(f"the tokenizer has no piece for {len(missing)} of the 256 bytes; it cannot keep every text")
    for piece, id in vocab.items():
        try:
            table[id] = bytes(map(byte_of.__getitem__, piece))
        except KeyError:
            raise UserError(f"the tokenizer's piece {piece!r} is not spelled in the byte-level alphabet") from None
    for text, id in added.items():
        table[id] = text.encode()
    return table


def _byte_alphabet() -> dict[str, int]:
    """The characters in which byte-level BPE spells bytes: printable Latin-1 as it is, the others from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}
