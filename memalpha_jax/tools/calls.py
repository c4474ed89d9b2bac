"""Memory operations as data: the calls of one reply, as objects on the host and as arrays on the device.

Axes: K calls per reply, L content tokens per call.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import struct

if TYPE_CHECKING:
    from memalpha_jax.policy.tokenizer import Tokenizer

MEMORY_NAMES = ("core_memory", "episodic_memory", "semantic_memory")
"""Names on the wire; the position of a name is its `MemoryType`."""

INT32_MAX = 2**31 - 1
TRUNCATION_NOTE = " [truncated]"


class CallKind(enum.IntEnum):
    """What a call does. An unknown tool is a call of kind NO_CALL whose status is UNKNOWN_TOOL."""

    NO_CALL = 0
    INSERT = 1
    UPDATE = 2
    DELETE = 3


class Status(enum.IntEnum):
    """What became of a call. Only OK and TRUNCATED changed the memory; NO_CALL marks unused slots."""

    NO_CALL = -1
    OK = 0
    SKIPPED = 1
    TRUNCATED = 2
    UNKNOWN_ID = 3
    UNKNOWN_TYPE = 4
    TYPE_DISABLED = 5
    NOT_ALLOWED = 6
    MISSING_ARGUMENT = 7
    BAD_JSON = 8
    EMPTY_CONTENT = 9
    CAPACITY = 10
    UNKNOWN_TOOL = 11

    @property
    def success(self) -> bool:
        """Whether the call did what it asked for."""
        return self in SUCCESSES


SUCCESSES = (Status.OK, Status.TRUNCATED)


TOOL_KINDS: Mapping[str, CallKind] = {
    "new_memory_insert": CallKind.INSERT,
    "memory_update": CallKind.UPDATE,
    "memory_delete": CallKind.DELETE,
}


@dataclass(frozen=True)
class ToolCall:
    """One call as the reply states it.

    name: tool name as written. arguments: decoded JSON object, empty if there is none.
    status: verdict of the parser (OK when the call is well formed; the memory may still refuse it).
    span: characters [start, end) of the reply text that the call occupies.
    """

    name: str
    arguments: dict[str, Any]
    status: Status
    span: tuple[int, int]

    @property
    def kind(self) -> CallKind:
        return TOOL_KINDS.get(self.name, CallKind.NO_CALL)

    @property
    def memory_type(self) -> int | None:
        """Value of the `MemoryType` named by the call, None if it names none."""
        name = self.arguments.get("memory_type")
        return MEMORY_NAMES.index(name) if isinstance(name, str) and name in MEMORY_NAMES else None

    @property
    def memory_id(self) -> int | None:
        """Item id, from an integer or a string of digits; None if absent, of another form or over int32."""
        value = self.arguments.get("memory_id")
        if isinstance(value, str):
            value = value.strip()
            value = int(value) if value.isascii() and value.isdigit() and len(value) <= 10 else None
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= INT32_MAX:
            return None
        return value

    @property
    def content(self) -> str | None:
        """Text to store, None if the call carries none or something that is not text."""
        key = {CallKind.INSERT: "content", CallKind.UPDATE: "new_content"}.get(self.kind)
        value = self.arguments.get(key) if key else None
        return value if isinstance(value, str) else None


@struct.dataclass
class CallBatch:
    """The first K calls of a reply as int32 arrays; leading batch axes are allowed on every field.

    A slot is unused exactly when its status is Status.NO_CALL. item_id and memory_type are -1 where the call
    names none. content is zero beyond `length`. dropped counts the calls of the reply beyond K.
    """

    kind_K: Any
    memory_type_K: Any
    item_id_K: Any
    content_KL: Any
    length_K: Any
    status_K: Any
    dropped: Any


def call_batch_spec(max_calls: int, max_tokens: int, leading: tuple[int, ...] = ()) -> CallBatch:
    """Shapes of a `CallBatch` [*leading, K, ...] as ShapeDtypeStructs, e.g. for a host callback."""

    def spec(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leading + shape, np.int32)

    k = max_calls
    return CallBatch(spec(k), spec(k), spec(k), spec(k, max_tokens), spec(k), spec(k), spec())


def empty_call_batch(max_calls: int, max_tokens: int, leading: tuple[int, ...] = ()) -> CallBatch:
    """A numpy `CallBatch` [*leading, K, ...] without calls."""

    def full(value: int, *shape: int) -> np.ndarray:
        return np.full(leading + shape, value, np.int32)

    k = max_calls
    return CallBatch(full(0, k), full(-1, k), full(-1, k), full(0, k, max_tokens), full(0, k), full(-1, k), full(0))


def to_call_batch(
    calls: Sequence[ToolCall], tokenizer: Tokenizer, max_calls: int, max_tokens: int, core_tokens: int = 512
) -> CallBatch:
    """Encodes calls as numpy arrays (K = max_calls, L = max_tokens).

    Core text over `core_tokens` is cut at a word boundary, ends in a visible note and has status TRUNCATED.
    Content over L tokens has status CAPACITY and no tokens: text is never cut silently.
    """
    batch = empty_call_batch(max_calls, max_tokens)
    write_calls(batch, (), calls, tokenizer, core_tokens)
    return batch


def write_calls(
    batch: CallBatch, row: tuple[int, ...], calls: Sequence[ToolCall], tokenizer: Tokenizer, core_tokens: int
) -> None:
    """Writes the calls of one reply into row `row` of a fresh numpy `CallBatch`; see `to_call_batch`."""
    max_calls, max_tokens = batch.content_KL.shape[-2:]
    batch.dropped[row] = max(0, len(calls) - max_calls)
    for k, call in enumerate(calls[:max_calls]):
        slot = (*row, k)
        memory_type, memory_id, status = call.memory_type, call.memory_id, call.status
        content = call.content if status == Status.OK else None
        batch.kind_K[slot] = call.kind
        if memory_type is not None:
            batch.memory_type_K[slot] = memory_type
        if memory_id is not None and memory_type != 0:
            batch.item_id_K[slot] = memory_id
        if content is not None:
            tokens = tokenizer.encode(content)
            if memory_type == 0 and len(tokens) > core_tokens:
                tokens, status = truncate_with_note(content, tokenizer, core_tokens), Status.TRUNCATED
            if len(tokens) > max_tokens:
                tokens, status = [], Status.CAPACITY
            batch.content_KL[slot][: len(tokens)] = tokens
            batch.length_K[slot] = len(tokens)
        batch.status_K[slot] = status


def truncate_with_note(text: str, tokenizer: Tokenizer, limit: int) -> list[int]:
    """At most `limit` tokens: as many whole words of `text` as fit, and TRUNCATION_NOTE after them.

    A first word that is too long is cut inside; a limit too small for the note drops the note.
    """
    tokens = tokenizer.encode(text)
    note = TRUNCATION_NOTE if len(tokenizer.encode(TRUNCATION_NOTE)) < limit else ""
    keep = limit - len(tokenizer.encode(note))
    while keep > 0:
        data = b"".join(tokenizer.token_bytes(token) for token in tokens[:keep])
        cut = tokenizer.encode(_whole_words(data.decode("utf-8", "ignore"), text) + note)
        if len(cut) <= limit:
            return cut
        keep -= len(cut) - limit  # words and note together may need more tokens than apart
    return tokenizer.encode(note)[:limit]


def _whole_words(head: str, text: str) -> str:
    """`head`, a prefix of `text`, without a last word that `text` continues, unless that is its only word."""
    if head[-1:].strip() and text[len(head) : len(head) + 1].strip():
        head = head.rsplit(None, 1)[0] if len(head.split(None, 1)) == 2 else head
    return head.rstrip()
