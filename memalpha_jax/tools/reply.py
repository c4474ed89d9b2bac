"""Reply tokens to calls, on the host: what was called, and which call each generated token belongs to.

Axes: N trajectories, R reply tokens, K calls per reply, L content tokens per call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from memalpha_jax.tools.calls import CallBatch, ToolCall, empty_call_batch, write_calls
from memalpha_jax.tools.wire import check_wire, parse_calls

if TYPE_CHECKING:
    from memalpha_jax.policy.tokenizer import Tokenizer


def parse_reply_tokens(
    reply_R: np.ndarray,
    length: int,
    tokenizer: Tokenizer,
    wire: str,
    max_calls: int,
    max_tokens: int,
    core_tokens: int = 512,
) -> tuple[CallBatch, np.ndarray]:
    """Calls (K = max_calls, L = max_tokens) and sub-actions of one reply; `parse_replies` for N = 1."""
    batch, subaction_NR = parse_replies(
        np.asarray(reply_R)[None], np.asarray([length]), tokenizer, wire, max_calls, max_tokens, core_tokens
    )
    fields = {name: value[0] for name, value in vars(batch).items()}
    return CallBatch(**fields), subaction_NR[0]


def parse_replies(
    reply_NR: np.ndarray,
    length_N: np.ndarray,
    tokenizer: Tokenizer,
    wire: str,
    max_calls: int,
    max_tokens: int,
    core_tokens: int = 512,
) -> tuple[CallBatch, np.ndarray]:
    """Parses the first length_N tokens of every row, end-of-text included, as numpy arrays.

    Returns a CallBatch [N, K, ...] (see `to_call_batch` for what is cut and what is refused) and subaction_NR
    int32: i for the tokens of the i-th call, the number of calls kept for all other generated tokens (prose,
    end of text, calls beyond K), so never more than K; -1 for padding. A token that reaches into two calls
    belongs to the first. No sequence of tokens makes it raise.
    """
    check_wire(wire)
    reply_NR, length_N = np.asarray(reply_NR), np.asarray(length_N)
    batch = empty_call_batch(max_calls, max_tokens, leading=reply_NR.shape[:1])
    subaction_NR = np.full(reply_NR.shape, -1, np.int32)
    for n, (row, length) in enumerate(zip(reply_NR, length_N.tolist(), strict=True)):
        pieces = [_token_text(token, tokenizer) for token in row[:length].tolist()]
        # Every broken byte becomes one character, so that spans of characters can be led back to bytes.
        text = b"".join(pieces).decode("utf-8", "surrogateescape")
        calls = parse_calls(text, wire)
        write_calls(batch, (n,), calls, tokenizer, core_tokens)
        subaction_NR[n, : len(pieces)] = _subactions(pieces, _byte_spans(text, calls), max_calls)
    return batch, subaction_NR


def _token_text(token: int, tokenizer: Tokenizer) -> bytes:
    """UTF-8 of a token; none for the end of text and for ids without meaning (a padded vocabulary)."""
    if token == tokenizer.eos_id or not 0 <= token < tokenizer.vocab_size:
        return b""
    return tokenizer.token_bytes(token)


def _byte_spans(text: str, calls: Sequence[ToolCall]) -> list[tuple[int, int]]:
    """Spans of the calls in bytes of the UTF-8 text."""
    if text.isascii():
        return [call.span for call in calls]
    spans, chars, offset = [], 0, 0
    for call in calls:
        start, end = call.span
        first = offset + len(text[chars:start].encode("utf-8", "surrogateescape"))
        offset = first + len(text[start:end].encode("utf-8", "surrogateescape"))
        chars = end
        spans.append((first, offset))
    return spans


def _subactions(pieces: Sequence[bytes], spans: Sequence[tuple[int, int]], max_calls: int) -> list[int]:
    """Index of the call each piece overlaps, min(calls, max_calls) where there is none or it was dropped."""
    other = min(len(spans), max_calls)
    indices, offset, call = [], 0, 0
    for piece in pieces:
        begin, offset = offset, offset + len(piece)
        while call < len(spans) and spans[call][1] <= begin:
            call += 1
        inside = call < other and spans[call][0] < offset
        indices.append(call if inside else other)
    return indices
