"""Applying the calls of one reply to a memory: a pure function, jitted and vmapped by its caller.

Inside the scan over calls no token moves. The arena and the contents of all calls form one pool, a row says
which stretch of the pool is its text, and calls only edit rows. One gather at the end lays the surviving
stretches back to back, so garbage never accumulates and "full" means that the items themselves do not fit.

Axes: K calls, L tokens per call, I item rows, J = I + K rows during a reply, A arena tokens, S core tokens.
"""

from __future__ import annotations

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp

from memalpha_jax.memory.segments import concatenate_segments
from memalpha_jax.memory.state import MemoryConfig, MemoryState, MemoryType
from memalpha_jax.tools.calls import CallBatch, CallKind, Status

NO_CORE_CALL = -1  # the core is what it was before the reply, and not empty
CORE_CLEARED = -2
EDITS = (CallKind.INSERT, CallKind.UPDATE, CallKind.DELETE)


@flax.struct.dataclass
class Rows:
    """The item table while calls are applied; `start_J` points into the pool, length 0 marks a free row."""

    start_J: jax.Array
    length_J: jax.Array
    id_J: jax.Array
    type_J: jax.Array
    first_chunk_J: jax.Array
    last_chunk_J: jax.Array
    hash_J: jax.Array


@flax.struct.dataclass
class Progress:
    """What the scan carries: rows, the call that last wrote the core (or one of the markers), the next id."""

    rows: Rows
    core_call: jax.Array
    next_id: jax.Array


@flax.struct.dataclass
class Call:
    """One call of a CallBatch; `parsed` is its parse status, `hash` that of its content."""

    index: jax.Array
    kind: jax.Array
    memory_type: jax.Array
    item_id: jax.Array
    content_L: jax.Array
    length: jax.Array
    hash: jax.Array
    parsed: jax.Array


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a memory has room for; `enabled` is indexed by MemoryType."""

    items: int
    arena_tokens: int
    core_tokens: int
    enabled: tuple[bool, ...]


def hash_tokens(tokens_L: jax.Array, length: jax.Array) -> jax.Array:
    """uint32 hash of the first `length` tokens; only a filter, equality is checked token by token."""
    mixed = (tokens_L.astype(jnp.uint32) + 1) * jnp.uint32(0x9E3779B1)
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0x85EBCA77)
    position = jnp.arange(tokens_L.shape[-1], dtype=jnp.uint32)
    weight = (2 * position + 1) * jnp.uint32(0xC2B2AE3D)
    weight = (weight ^ (weight >> 13)) | 1
    return jnp.where(position < length, mixed * weight, 0).sum(dtype=jnp.uint32)


def apply_calls(
    state: MemoryState, calls: CallBatch, chunk_index: jax.Array | int, config: MemoryConfig
) -> tuple[MemoryState, jax.Array]:
    """Applies one reply's calls in order; a call that fails changes nothing and does not stop the others.

    Capacity is that of the arrays in `state` (see `grow`); of `config` only the enabled types matter here.

    Args:
      calls: one trajectory's CallBatch [K].
      chunk_index: int32, recorded as provenance.
    Returns:
      The new state, and int32 Status [K]. A call whose parse status is neither OK nor TRUNCATED keeps it.
    """
    num_calls = calls.kind_K.shape[0]
    enabled = tuple(config.is_enabled(kind) for kind in MemoryType)
    limits = Limits(state.length_I.shape[0], state.arena_A.shape[0], state.core_S.shape[0], enabled)
    pool = jnp.concatenate([state.arena_A, calls.content_KL.reshape(-1)])
    chunk = jnp.asarray(chunk_index, jnp.int32)
    core_now = jnp.where(state.core_len > 0, NO_CORE_CALL, CORE_CLEARED)
    start = Progress(_extended_rows(state, num_calls), core_now.astype(jnp.int32), state.next_id)
    step = functools.partial(_apply_call, chunk=chunk, limits=limits, pool=pool)
    end, status_K = jax.lax.scan(step, start, _split_calls(calls))
    core_S, core_len = _final_core(state, calls, end.core_call)
    rows = compact(end.rows, limits.items)
    # Texts move only where a call has inserted or deleted one, or put one in the place of another, and at the end.
    most_changes = 2 * num_calls + 2
    new_state = MemoryState(
        core_S=core_S,
        core_len=core_len,
        arena_A=concatenate_segments(pool, rows.start_J, rows.length_J, limits.arena_tokens, most_changes),
        length_I=rows.length_J,
        id_I=rows.id_J,
        type_I=rows.type_J,
        first_chunk_I=rows.first_chunk_J,
        last_chunk_I=rows.last_chunk_J,
        hash_I=rows.hash_J,
        next_id=end.next_id,
    )
    return new_state, status_K


def compact(rows: Rows, num_rows: int) -> Rows:
    """Moves the rows that hold items to the front, in order; the rest of the `num_rows` rows are zero.

    There must be at most `num_rows` such rows: `apply_calls` refuses inserts beyond that.
    """
    alive_J = rows.length_J > 0
    total = rows.length_J.shape[0]
    place_J = jnp.where(alive_J, jnp.cumsum(alive_J) - 1, num_rows)
    source = jnp.full(num_rows, total).at[place_J].set(jnp.arange(total), mode="drop")
    return jax.tree.map(lambda column: column.at[source].get(mode="fill", fill_value=0), rows)


def _extended_rows(state: MemoryState, num_calls: int) -> Rows:
    """The table with one free row per call appended: call k can only insert into row I + k."""
    names = [field.name.replace("_J", "_I") for field in dataclasses.fields(Rows)]
    return Rows(*(jnp.pad(getattr(state, name), (0, num_calls)) for name in names))


def _final_core(state: MemoryState, calls: CallBatch, core_call: jax.Array) -> tuple[jax.Array, jax.Array]:
    size = state.core_S.shape[0]
    width = min(size, calls.content_KL.shape[1])
    index = jnp.maximum(core_call, 0)
    written = jnp.pad(calls.content_KL[index, :width], (0, size - width))
    written_len = jnp.where(core_call >= 0, jnp.minimum(calls.length_K[index], size), 0)
    written = jnp.where(jnp.arange(size) < written_len, written, 0)
    kept = core_call == NO_CORE_CALL
    return jnp.where(kept, state.core_S, written), jnp.where(kept, state.core_len, written_len)


def _split_calls(calls: CallBatch) -> Call:
    """The calls as scan inputs [K, ...]."""
    num_calls = calls.kind_K.shape[0]
    return Call(
        index=jnp.arange(num_calls, dtype=jnp.int32),
        kind=calls.kind_K,
        memory_type=calls.memory_type_K,
        item_id=calls.item_id_K,
        content_L=calls.content_KL,
        length=calls.length_K,
        hash=jax.vmap(hash_tokens)(calls.content_KL, calls.length_K),
        parsed=calls.status_K,
    )


def _verdict(call: Call, progress: Progress, match_J: jax.Array, limits: Limits, pool: jax.Array) -> jax.Array:
    """Status of a call against what the calls before it left; `match_J` marks the row it names."""
    rows, core_is_empty = progress.rows, progress.core_call == CORE_CLEARED
    is_core = call.memory_type == MemoryType.CORE
    insert, update, delete = (call.kind == kind for kind in EDITS)
    enabled = jnp.array(limits.enabled).at[call.memory_type].get(mode="clip")
    freed = jnp.where(update, jnp.where(match_J, rows.length_J, 0).sum(), 0)
    too_much_text = rows.length_J.sum() - freed + call.length > limits.arena_tokens
    no_row = insert & ((rows.length_J > 0).sum() >= limits.items)
    truncated = (call.parsed == Status.TRUNCATED) | (is_core & update & (call.length > limits.core_tokens))
    return _first_of(
        ((call.parsed != Status.OK) & (call.parsed != Status.TRUNCATED), call.parsed),
        (~(insert | update | delete), Status.NO_CALL),
        ((call.memory_type < 0) | (call.memory_type >= len(MemoryType)), Status.UNKNOWN_TYPE),
        (~enabled, Status.TYPE_DISABLED),
        (is_core & insert, Status.NOT_ALLOWED),
        (~is_core & ~insert & ~jnp.any(match_J), Status.UNKNOWN_ID),
        # Nothing is there to delete; counting it as done would pay for calls that do nothing.
        (is_core & delete & core_is_empty, Status.UNKNOWN_ID),
        (~delete & (call.length <= 0), Status.EMPTY_CONTENT),
        (insert & _is_stored(call, rows, pool), Status.SKIPPED),
        (~is_core & ~delete & (too_much_text | no_row), Status.CAPACITY),
        (truncated, Status.TRUNCATED),
        otherwise=Status.OK,
    )


def _is_stored(call: Call, rows: Rows, pool: jax.Array) -> jax.Array:
    """bool: an item of the call's type has exactly its tokens.

    Only the first row whose type, length and hash agree is compared, so a stored twin could go unnoticed
    behind another item of the same 32-bit hash; a new text is never taken for a stored one.
    """
    twin_J = (rows.type_J == call.memory_type) & (rows.length_J == call.length) & (rows.hash_J == call.hash)
    position = jnp.arange(call.content_L.shape[0])
    twin_L = pool.at[rows.start_J[jnp.argmax(twin_J)] + position].get(mode="clip")
    same_L = (twin_L == call.content_L) | (position >= call.length)
    return jnp.any(twin_J) & jnp.all(same_L)


def _apply_call(
    progress: Progress, call: Call, *, chunk: jax.Array, limits: Limits, pool: jax.Array
) -> tuple[Progress, jax.Array]:
    """The scan body: judges one call, then edits the row it names or the free row that is its own."""
    rows = progress.rows
    match_J = (rows.length_J > 0) & (rows.type_J == call.memory_type) & (rows.id_J == call.item_id)
    status = _verdict(call, progress, match_J, limits, pool)
    done = (status == Status.OK) | (status == Status.TRUNCATED)
    insert, update, delete = (done & (call.kind == kind) for kind in EDITS)
    new_J = insert & (jnp.arange(match_J.shape[0]) == limits.items + call.index)
    written_J = new_J | (update & match_J)
    start_in_pool = limits.arena_tokens + call.index * call.content_L.shape[0]
    rows = Rows(
        start_J=jnp.where(written_J, start_in_pool, rows.start_J),
        length_J=jnp.where(written_J, call.length, jnp.where(delete & match_J, 0, rows.length_J)),
        id_J=jnp.where(new_J, progress.next_id, rows.id_J),
        type_J=jnp.where(new_J, call.memory_type, rows.type_J),
        first_chunk_J=jnp.where(new_J, chunk, rows.first_chunk_J),
        last_chunk_J=jnp.where(written_J, chunk, rows.last_chunk_J),
        hash_J=jnp.where(written_J, call.hash, rows.hash_J),
    )
    wrote_core = done & (call.memory_type == MemoryType.CORE)
    core_call = jnp.where(wrote_core, jnp.where(delete, CORE_CLEARED, call.index), progress.core_call)
    return Progress(rows, core_call, progress.next_id + insert), status


def _first_of(*cases: tuple[jax.Array, jax.Array | int], otherwise: int) -> jax.Array:
    """int32: the value of the first case that holds."""
    conditions = [condition for condition, _ in cases]
    return jnp.select(conditions, [jnp.asarray(value, jnp.int32) for _, value in cases], jnp.int32(otherwise))
