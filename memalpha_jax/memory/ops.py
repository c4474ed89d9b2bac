"""Applying the calls of one reply to a memory: a pure function, jitted and vmapped by its caller.

Inside the scan over calls no token moves: a call writes one row of the item table, and who wrote a row last says
where its text is. One pass over the arena at the end copies every text to its place, so garbage never accumulates and
"full" means that the items themselves do not fit.

What is stored is looked through once per call, and only by calls that need to; a reply that changes no text stored
before only writes behind the others. So applying it costs little beside decoding it even where the memory is large.
(vmap computes both sides of a condition, so that this holds for a memory alone; see `apply_batch`.)

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
OLD = -1  # a row that no call of the reply has changed
COLUMNS = ("length", "id", "type", "first_chunk", "last_chunk", "hash")
EDITS = (CallKind.INSERT, CallKind.UPDATE, CallKind.DELETE)


@flax.struct.dataclass
class Rows:
    """The item table while calls are applied; length 0 marks a free row.

    writer_J: the last call that wrote or deleted the item, OLD where none did.
    """

    length_J: jax.Array
    id_J: jax.Array
    type_J: jax.Array
    first_chunk_J: jax.Array
    last_chunk_J: jax.Array
    hash_J: jax.Array
    writer_J: jax.Array


@flax.struct.dataclass
class Progress:
    """What the scan carries.

    core_call: the call that last wrote the core, or one of the markers. end: rows up to here have been used. items,
    tokens: stored now.
    """

    rows: Rows
    core_call: jax.Array
    next_id: jax.Array
    end: jax.Array
    items: jax.Array
    tokens: jax.Array


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
    chunk = jnp.asarray(chunk_index, jnp.int32)
    core_now = jnp.where(state.core_len > 0, NO_CORE_CALL, CORE_CLEARED).astype(jnp.int32)
    start = Progress(_extended_rows(state, num_calls), core_now, state.next_id, state.rows, state.rows, state.used)
    step = functools.partial(_apply_call, chunk=chunk, limits=limits, state=state, calls=calls)
    end, (status_K, row_K) = jax.lax.scan(step, start, _split_calls(calls))
    core_S, core_len = _final_core(state, calls, end.core_call)
    rows = jax.lax.cond(
        end.items < end.end,
        lambda rows: compact(rows, limits.items),
        lambda rows: jax.tree.map(lambda column: column[: limits.items], rows),
        end.rows,
    )
    new_state = MemoryState(
        core_S=core_S,
        core_len=core_len,
        arena_A=jax.lax.cond(
            jnp.any(row_K < state.rows),
            lambda rows: _moved_arena(state, calls, rows, row_K),
            lambda rows: _extended_arena(state, calls, rows),
            end.rows,
        ),
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
    """The table with one free row per call appended: all of a reply's calls may insert after rows that they free."""
    fields = {f"{name}_I": jnp.pad(getattr(state, f"{name}_I"), (0, num_calls)) for name in COLUMNS}
    rows = {name.replace("_I", "_J"): column for name, column in fields.items()}
    return Rows(**rows, writer_J=jnp.full(rows["length_J"].shape, OLD, jnp.int32))


def _extended_arena(state: MemoryState, calls: CallBatch, rows: Rows) -> jax.Array:
    """int32 [A]: the texts of all rows, where only new ones are to be written."""
    num_calls, size = calls.content_KL.shape
    length_K, writer_K = (
        jax.lax.dynamic_slice_in_dim(column, state.rows, num_calls) for column in (rows.length_J, rows.writer_J)
    )
    tokens = concatenate_segments(calls.content_KL.reshape(-1), size * writer_K, length_K, num_calls * size)
    return state.arena_A.at[state.used + jnp.arange(num_calls * size)].set(tokens, mode="drop")


def _moved_arena(state: MemoryState, calls: CallBatch, rows: Rows, row_K: jax.Array) -> jax.Array:
    """int32 [A]: the texts of all rows back to back; `row_K` are the rows that the calls changed.

    A text that no call has changed moves by as much as the texts before it have shrunk or grown together.
    """
    num_calls, size = calls.content_KL.shape
    length_J, arena_tokens = rows.length_J, state.arena_A.shape[0]
    before_KJ = jnp.arange(length_J.shape[0]) < row_K[:, None]
    place_K = jnp.where(before_KJ, length_J, 0).sum(1)
    old_length_K = state.length_I.at[row_K].get(mode="fill", fill_value=0)
    new_length_K = length_J.at[row_K].get(mode="fill", fill_value=0)
    last_K = rows.writer_J.at[row_K].get(mode="fill", fill_value=OLD) == jnp.arange(num_calls)
    shrunk_K = jnp.where(last_K, old_length_K - new_length_K, 0)
    position_A = jnp.arange(arena_tokens)
    source_A = position_A
    for k in range(num_calls):  # unrolled, all of this is one pass over the arena
        source_A += jnp.where(position_A >= place_K[k] + new_length_K[k], shrunk_K[k], 0)
    for k in range(num_calls):
        inside_A = last_K[k] & (position_A >= place_K[k]) & (position_A < place_K[k] + new_length_K[k])
        source_A = jnp.where(inside_A, arena_tokens + k * size + position_A - place_K[k], source_A)
    pool = jnp.concatenate([state.arena_A, calls.content_KL.reshape(-1)])
    return jnp.where(position_A < length_J.sum(), pool.at[source_A].get(mode="clip"), 0)


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


def _verdict(call: Call, progress: Progress, row: jax.Array, stored: jax.Array, limits: Limits) -> jax.Array:
    """Status of a call against what the calls before it left.

    Args:
      row: that of the item it names, J where there is none. stored: whether an item has its very text.
    """
    is_core = call.memory_type == MemoryType.CORE
    insert, update, delete = (call.kind == kind for kind in EDITS)
    enabled = jnp.array(limits.enabled).at[call.memory_type].get(mode="clip")
    length_J = progress.rows.length_J
    freed = jnp.where(update, length_J.at[row].get(mode="fill", fill_value=0), 0)
    too_much_text = progress.tokens - freed + call.length > limits.arena_tokens
    no_row = insert & (progress.items >= limits.items)
    truncated = (call.parsed == Status.TRUNCATED) | (is_core & update & (call.length > limits.core_tokens))
    return _first_of(
        ((call.parsed != Status.OK) & (call.parsed != Status.TRUNCATED), call.parsed),
        (~(insert | update | delete), Status.NO_CALL),
        ((call.memory_type < 0) | (call.memory_type >= len(MemoryType)), Status.UNKNOWN_TYPE),
        (~enabled, Status.TYPE_DISABLED),
        (is_core & insert, Status.NOT_ALLOWED),
        (~is_core & ~insert & (row == length_J.shape[0]), Status.UNKNOWN_ID),
        # Nothing is there to delete; counting it as done would pay for calls that do nothing.
        (is_core & delete & (progress.core_call == CORE_CLEARED), Status.UNKNOWN_ID),
        (~delete & (call.length <= 0), Status.EMPTY_CONTENT),
        (insert & stored, Status.SKIPPED),
        (~is_core & ~delete & (too_much_text | no_row), Status.CAPACITY),
        (truncated, Status.TRUNCATED),
        otherwise=Status.OK,
    )


def _is_stored(call: Call, rows: Rows, state: MemoryState, calls: CallBatch) -> jax.Array:
    """bool: an item of the call's type has exactly its tokens.

    Only the first row whose type, length and hash agree is compared, so a stored twin could go unnoticed
    behind another item of the same 32-bit hash; a new text is never taken for a stored one.
    """
    twin_J = (rows.type_J == call.memory_type) & (rows.length_J == call.length) & (rows.hash_J == call.hash)
    row = _first_row(twin_J)
    position = jnp.arange(call.content_L.shape[0])
    start = jnp.where(jnp.arange(state.length_I.shape[0]) < row, state.length_I, 0).sum()
    old_L = state.arena_A.at[start + position].get(mode="clip")
    writer = rows.writer_J.at[row].get(mode="fill", fill_value=OLD)
    twin_L = jnp.where(writer == OLD, old_L, calls.content_KL[writer])
    same_L = (twin_L == call.content_L) | (position >= call.length)
    return (row < twin_J.shape[0]) & jnp.all(same_L)


def _first_row(marked_J: jax.Array) -> jax.Array:
    """int32: the first marked row, J if there is none."""
    total = marked_J.shape[0]
    return jnp.where(marked_J, jnp.arange(total), total).min()


def _apply_call(
    progress: Progress, call: Call, *, chunk: jax.Array, limits: Limits, state: MemoryState, calls: CallBatch
) -> tuple[Progress, tuple[jax.Array, jax.Array]]:
    """The scan body: judges one call, then edits the row it names or the next free one.

    Gives the call's status and the row that it changed, J where it changed none.
    """
    rows, nowhere = progress.rows, progress.rows.length_J.shape[0]
    is_core = call.memory_type == MemoryType.CORE
    named = jax.lax.cond(
        ~is_core & ((call.kind == CallKind.UPDATE) | (call.kind == CallKind.DELETE)),
        lambda: _first_row((rows.length_J > 0) & (rows.type_J == call.memory_type) & (rows.id_J == call.item_id)),
        lambda: jnp.int32(nowhere),
    )
    stored = jax.lax.cond(
        ~is_core & (call.kind == CallKind.INSERT),
        lambda: _is_stored(call, rows, state, calls),
        lambda: jnp.bool_(False),
    )
    status = _verdict(call, progress, named, stored, limits)
    done = (status == Status.OK) | (status == Status.TRUNCATED)
    insert, update, delete = (done & ~is_core & (call.kind == kind) for kind in EDITS)
    new = jnp.where(insert, progress.end, nowhere)
    written = jnp.where(update, named, new)
    changed = jnp.where(delete, named, written)
    old_length = rows.length_J.at[changed].get(mode="fill", fill_value=0)
    new_length = jnp.where(delete, 0, call.length)
    rows = Rows(
        length_J=rows.length_J.at[changed].set(new_length, mode="drop"),
        id_J=rows.id_J.at[new].set(progress.next_id, mode="drop"),
        type_J=rows.type_J.at[new].set(call.memory_type, mode="drop"),
        first_chunk_J=rows.first_chunk_J.at[new].set(chunk, mode="drop"),
        last_chunk_J=rows.last_chunk_J.at[written].set(chunk, mode="drop"),
        hash_J=rows.hash_J.at[written].set(call.hash, mode="drop"),
        writer_J=rows.writer_J.at[changed].set(call.index, mode="drop"),
    )
    deletes_core = call.kind == CallKind.DELETE
    core_call = jnp.where(done & is_core, jnp.where(deletes_core, CORE_CLEARED, call.index), progress.core_call)
    progress = Progress(
        rows,
        core_call,
        next_id=progress.next_id + insert,
        end=progress.end + insert,
        items=progress.items + insert - delete,
        tokens=progress.tokens + jnp.where(insert | update | delete, new_length - old_length, 0),
    )
    return progress, (status, changed)


def _first_of(*cases: tuple[jax.Array, jax.Array | int], otherwise: int) -> jax.Array:
    """int32: the value of the first case that holds."""
    conditions = [condition for condition, _ in cases]
    return jnp.select(conditions, [jnp.asarray(value, jnp.int32) for _, value in cases], jnp.int32(otherwise))
