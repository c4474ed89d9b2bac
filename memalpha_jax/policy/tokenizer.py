"""Tokenizers: text pieces for anything that was read, single tokens for what only the program may write.

A tokenizer has two vocabularies. *Pieces* cover any text, byte by byte if need be. *Frames* are literal strings that
are one token each: chat markup such as `<|im_end|>` and the fixed parts of tool calls. `encode` never yields a frame,
whatever the text contains, so a chunk or a memory item cannot smuggle in a control token; only `encode_trusted`, used
for prompt templates and demonstrations, does.
"""

from __future__ import annotations

import io
import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import sentencepiece

from memalpha_jax.errors import UserError

EOS = "<|im_end|>"
THINK = ("<think>", "</think>")
CONTROL = ("<|im_start|>", EOS, *THINK)
_SPACE = "\u2581"  # how SentencePiece spells a space; the character itself is spelled in bytes
SENTENCEPIECE_FILES = ("tokenizer.model", "frames.json")


class Tokenizer(Protocol):
    """What the rest of the program asks of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def eos_id(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Ids of untrusted text: pieces only, exact round trip through `decode`."""
        ...

    def encode_trusted(self, text: str) -> list[int]:
        """Ids of the program's own text: frame strings become their single tokens, longest first."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of pieces and frames; broken UTF-8 becomes U+FFFD."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes one token stands for; none for padding and the ids of an embedding's unused rows."""
        ...


class StoredTokenizer(Tokenizer, Protocol):
    """A tokenizer that can be kept: in a checkpoint, or in a folder beside exported weights."""

    def files(self) -> dict[str, bytes]:
        """Name to content; `tokenizer_from_files` is the inverse."""
        ...

    def save(self, folder: pathlib.Path) -> None:
        """Writes the files into `folder`; `load_tokenizer` is the inverse."""
        ...


class ThinkingIds(NamedTuple):
    """start_id, end_id: the tokens `<think>` and `</think>`.

    forced_ids: what a reply is made to write when its thinking budget is used up, `end_id` among them.
    """

    start_id: int
    end_id: int
    forced_ids: tuple[int, ...]


def thinking_ids(tokenizer: Tokenizer) -> ThinkingIds:
    """The tokens of a reply's thinking; it is ended with the line ends that Qwen3 itself puts around `</think>`.

    Raises:
      UserError: `<think>` or `</think>` is not one token, so this is the tokenizer of no thinking model.
    """
    start_ids, end_ids = (tokenizer.encode_trusted(mark) for mark in THINK)
    if len(start_ids) != 1 or len(end_ids) != 1:
        raise UserError(
            f"the tokenizer has no tokens {' and '.join(THINK)}: thinking needs a model made for it (Qwen3)"
        )
    return ThinkingIds(start_ids[0], end_ids[0], tuple(tokenizer.encode_trusted(f"\n{THINK[1]}\n\n")))


class SentencePieceTokenizer:
    """A SentencePiece model with byte fallback, and frames numbered after its pieces. Id 0 is padding."""

    def __init__(self, model: bytes, frames: Sequence[str]):
        """Raises UserError when `model` is not a SentencePiece model."""
        self.model, self.frames = model, tuple(frames)
        self._sp = sentencepiece.SentencePieceProcessor()
        try:
            self._sp.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise UserError(f"the tokenizer's model file is not a SentencePiece model: {error}") from error
        pieces = self._sp.GetPieceSize()
        self.vocab_size = pieces + len(self.frames)
        self._frame_id = {frame: pieces + i for i, frame in enumerate(self.frames)}
        self.eos_id = self._frame_id[EOS]
        longest_first = sorted(self.frames, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
        self._byte_id = [self._sp.PieceToId(f"<0x{b:02X}>") for b in range(256)]
        self._bytes = [b""] + [self._piece_bytes(i) for i in range(1, pieces)]
        self._bytes += [frame.encode() for frame in self.frames]

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, frames: Sequence[str] = ()) -> SentencePieceTokenizer:
        """BPE with byte fallback over `texts`; `vocab_size` counts pieces, frames come on top."""
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=model,
                vocab_size=vocab_size,
                model_type="bpe",
                byte_fallback=True,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                add_dummy_prefix=False,
                split_digits=True,
                user_defined_symbols=["\n"],
                character_coverage=1.0,
                hard_vocab_limit=False,
                bos_id=-1,
                eos_id=-1,
                num_threads=1,  # the merges must not depend on the machine
                minloglevel=2,
            )
        except RuntimeError as error:
            raise UserError(
                f"training the tokenizer failed: {error}; is config.warmstart.tokenizer_pieces too small?"
            ) from error
        return cls(model.getvalue(), tuple(dict.fromkeys((*CONTROL, *frames))))

    def _piece_bytes(self, piece: int) -> bytes:
        if self._sp.IsByte(piece):
            return bytes([int(self._sp.IdToPiece(piece)[3:5], 16)])
        return self._sp.IdToPiece(piece).replace(_SPACE, " ").encode()

    def encode(self, text: str) -> list[int]:
        text = text.encode("utf-8", "replace").decode()  # lone surrogates are not text
        if _SPACE not in text:
            return self._sp.EncodeAsIds(text)
        ids: list[int] = []
        for i, part in enumerate(text.split(_SPACE)):
            ids += [self._byte_id[b] for b in _SPACE.encode()] if i else []
            ids += self._sp.EncodeAsIds(part)
        return ids

    def encode_trusted(self, text: str) -> list[int]:
        ids: list[int] = []
        for i, part in enumerate(self._split.split(text)):
            ids += [self._frame_id[part]] if i % 2 else self.encode(part)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        return self._bytes[token] if 0 <= token < self.vocab_size else b""

    def files(self) -> dict[str, bytes]:
        """Name to content, what a checkpoint stores."""
        return dict(zip(SENTENCEPIECE_FILES, (self.model, json.dumps(self.frames).encode()), strict=True))

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> SentencePieceTokenizer:
        """The inverse of `files`."""
        missing = [name for name in SENTENCEPIECE_FILES if name not in files]
        if missing:
            raise UserError(
                f"the tokenizer is incomplete: {', '.join(missing)} missing; expected {SENTENCEPIECE_FILES}"
            )
        try:
            frames = json.loads(files[SENTENCEPIECE_FILES[1]])
        except ValueError as error:
            raise UserError(f"the tokenizer's {SENTENCEPIECE_FILES[1]} is not valid JSON: {error}") from error
        if not isinstance(frames, list) or EOS not in frames:
            raise UserError(f"the tokenizer's {SENTENCEPIECE_FILES[1]} must be a list of texts, {EOS!r} among them")
        return cls(files[SENTENCEPIECE_FILES[0]], frames)

    def save(self, folder: pathlib.Path) -> None:
        """Writes the two files of a tokenizer into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files().items():
            (folder / name).write_bytes(content)

    @classmethod
    def load(cls, folder: pathlib.Path) -> SentencePieceTokenizer:
        """Reads what `save` wrote; UserError names a missing file."""
        present = {name: (folder / name).read_bytes() for name in SENTENCEPIECE_FILES if (folder / name).is_file()}
        if not present:
            raise UserError(f"no tokenizer in {folder}: expected the files {' and '.join(SENTENCEPIECE_FILES)}")
        return cls.from_files(present)
