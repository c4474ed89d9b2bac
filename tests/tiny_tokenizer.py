"""A byte-level tokenizer for tests: every text is encodable, and what each id means is obvious.

Ids: 0 padding; 1..256 the bytes 0..255; 257 `<|im_start|>`; 258 `<|im_end|>`; from 259 on the frame strings, in the
order given.
"""

import re
from collections.abc import Iterable, Sequence

CONTROLS = ("<|im_start|>", "<|im_end|>")


class TinyTokenizer:
    """Implements the Tokenizer protocol of memalpha_jax/policy/tokenizer.py."""

    pad_id = 0

    def __init__(self, frames: Sequence[str] = ()):
        self.frames = (*CONTROLS, *(frame for frame in dict.fromkeys(frames) if frame not in CONTROLS))
        self.vocab_size = 257 + len(self.frames)
        self.eos_id = 257 + self.frames.index("<|im_end|>")
        longest_first = sorted(self.frames, key=len, reverse=True)
        self._frame_pattern = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    def encode(self, text: str) -> list[int]:
        """Untrusted text: bytes only, whatever it contains."""
        return [byte + 1 for byte in text.encode()]

    def encode_trusted(self, text: str) -> list[int]:
        """Templates and demonstrations: frame strings and control strings become single ids."""
        ids: list[int] = []
        for index, part in enumerate(self._frame_pattern.split(text)):
            is_frame = index % 2 == 1
            ids.extend([257 + self.frames.index(part)] if is_frame else self.encode(part))
        return ids

    def token_bytes(self, token: int) -> bytes:
        """The bytes an id stands for; padding stands for none."""
        if token == self.pad_id:
            return b""
        return bytes([token - 1]) if token <= 256 else self.frames[token - 257].encode()

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; invalid UTF-8 becomes replacement characters."""
        return b"".join(self.token_bytes(int(token)) for token in ids).decode(errors="replace")
