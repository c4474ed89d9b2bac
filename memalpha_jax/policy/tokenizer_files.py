"""Which tokenizer a folder or a checkpoint holds: SentencePiece with frames, or that of a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from memalpha_jax.errors import UserError
from memalpha_jax.policy import hf_tokenizer
from memalpha_jax.policy.hf_tokenizer import HuggingFaceTokenizer
from memalpha_jax.policy.tokenizer import SENTENCEPIECE_FILES, SentencePieceTokenizer, StoredTokenizer

EXPECTED = f"{' and '.join(SENTENCEPIECE_FILES)}, or {hf_tokenizer.EXPECTED}"


def load_tokenizer(folder: str | Path) -> StoredTokenizer:
    """The tokenizer whose files lie in `folder`.

    Raises:
      UserError: no tokenizer there (it names the files that are looked for), or an incomplete or damaged one.
    """
    folder = Path(folder)
    names = (*SENTENCEPIECE_FILES, *hf_tokenizer.FILES)
    files = {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
    try:
        return tokenizer_from_files(files)
    except UserError as error:
        raise UserError(f"no usable tokenizer in {folder}: {error}") from error


def tokenizer_from_files(files: Mapping[str, bytes]) -> StoredTokenizer:
    """The inverse of `StoredTokenizer.files`, for either kind; raises as `load_tokenizer` does."""
    ours = [name for name in SENTENCEPIECE_FILES if name in files]
    theirs = [name for name in hf_tokenizer.FILES if name in files]
    if not ours and not theirs:
        raise UserError(f"there are no tokenizer files; expected are {EXPECTED}")
    # Some Hugging Face folders hold a tokenizer.model too, but only ours have frames.
    if SENTENCEPIECE_FILES[1] in ours or not theirs:
        return SentencePieceTokenizer.from_files(files)
    return HuggingFaceTokenizer.from_files(files)
