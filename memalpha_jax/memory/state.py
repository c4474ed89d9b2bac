"""The memory of one trajectory as a pytree: a core paragraph, and items whose tokens share a flat arena.

The arena is always compact: the items of both lists lie back to back in insertion order, so a row's start
is the sum of the lengths before it, and a row is alive exactly when its length is not zero (an item is
never empty). That leaves nothing to keep consistent, and 400k tokens of memory cost 1.6 MB plus 24 bytes an
item.

Axes: S core tokens, I item rows, A arena tokens. Batches of trajectories add leading axes.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from memalpha_jax.errors import UserError


class MemoryType(enum.IntEnum):
    """The three kinds of memory; the numbers are those in `CallBatch.memory_type_K` and `type_I`."""

    CORE = 0
    EPISODIC = 1
    SEMANTIC = 2


LISTS = (MemoryType.EPISODIC, MemoryType.SEMANTIC)


@dataclasses.dataclass(frozen=True)
class MemoryConfig:
    """Sizes in tokens and rows, what is switched on, and how much of it the policy is shown.

    Attributes:
      core_tokens: longest core paragraph; longer text is cut.
      items: rows of the item table, shared by both lists.
      arena_tokens: tokens of all items together.
      enabled: names of the memory types in use, of "core", "episodic", "semantic".
      shown_items: most recent items of each list shown in a prompt.
      similar_items: items most similar to the chunk that are shown besides, over both lists.
    """

    core_tokens: int = 512
    items: int = 64
    arena_tokens: int = 2048
    enabled: tuple[str, ...] = ("core", "episodic", "semantic")
    shown_items: int = 5
    similar_items: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "enabled", tuple(self.enabled))
        known = [kind.name.lower() for kind in MemoryType]
        if unknown := [name for name in self.enabled if name not in known]:
            raise UserError(f"unknown type {unknown[0]!r} in memory.enabled; use some of {', '.join(known)}")
        if not self.enabled:
            raise UserError(f"memory.enabled is empty; name at least one of {', '.join(known)}")
        for name in ("core_tokens", "items", "arena_tokens", "shown_items", "similar_items"):
            least = 0 if name in ("shown_items", "similar_items") else 1
            if getattr(self, name) < least:
                raise UserError(f"memory.{name} is {getattr(self, name)}; it must be at least {least}")

    def is_enabled(self, kind: MemoryType) -> bool:
        return kind.name.lower() in self.enabled


@flax.struct.dataclass
class MemoryState:
    """Memory of one trajectory. Rows beyond the last item, and tokens beyond the last item's, are zero.

    Attributes:
      core_S: int32, the core paragraph, zero beyond `core_len`.
      core_len: int32 scalar.
      arena_A: int32, tokens of all items, back to back in insertion order.
      length_I: int32, tokens of each item; 0 marks an unused row.
      id_I: int32, the item's id; ids count up from 1 over both lists and are never used again.
      type_I: int32, a MemoryType (EPISODIC or SEMANTIC).
      first_chunk_I, last_chunk_I: int32, the chunks whose replies wrote the item first and last.
      hash_I: uint32, `hash_tokens` of the item, to find duplicates without comparing everything.
      next_id: int32 scalar, the id the next insert will get.
    """

    core_S: jax.Array
    core_len: jax.Array
    arena_A: jax.Array
    length_I: jax.Array
    id_I: jax.Array
    type_I: jax.Array
    first_chunk_I: jax.Array
    last_chunk_I: jax.Array
    hash_I: jax.Array
    next_id: jax.Array

    @property
    def alive_I(self) -> jax.Array:
        """bool: rows that hold an item; always a prefix of the table."""
        return self.length_I > 0

    @property
    def start_I(self) -> jax.Array:
        """int32: where each item starts in the arena."""
        return jnp.cumsum(self.length_I, -1) - self.length_I

    @property
    def used(self) -> jax.Array:
        """int32: arena tokens in use."""
        return self.length_I.sum(-1)

    @property
    def rows(self) -> jax.Array:
        """int32: number of items."""
        return self.alive_I.sum(-1)


@dataclasses.dataclass(frozen=True)
class MemoryItem:
    """One item on the host."""

    id: int
    type: MemoryType
    tokens: tuple[int, ...]
    first_chunk: int
    last_chunk: int


def empty_memory(config: MemoryConfig, batch_shape: tuple[int, ...] = ()) -> MemoryState:
    """A memory that holds nothing; `batch_shape` adds leading axes."""

    def zeros(*shape: int, dtype: type = jnp.int32) -> jax.Array:
        return jnp.zeros((*batch_shape, *shape), dtype)

    row_fields = ("length_I", "id_I", "type_I", "first_chunk_I", "last_chunk_I")
    return MemoryState(
        core_S=zeros(config.core_tokens),
        core_len=zeros(),
        arena_A=zeros(config.arena_tokens),
        hash_I=zeros(config.items, dtype=jnp.uint32),
        next_id=zeros() + 1,
        **{name: zeros(config.items) for name in row_fields},
    )


def memory_tokens(state: MemoryState) -> jax.Array:
    """int32: tokens of the core and of every item's text; ids and markup do not count."""
    return state.core_len + state.used


def grow(state: MemoryState, items: int, arena_tokens: int) -> MemoryState:
    """The same memory with room for `items` rows and `arena_tokens` tokens; leading axes allowed.

    Raises ValueError when asked for less room than there is.
    """
    old_items, old_tokens = state.length_I.shape[-1], state.arena_A.shape[-1]
    if items < old_items or arena_tokens < old_tokens:
        raise ValueError(f"cannot shrink {old_items} rows, {old_tokens} tokens to {items}, {arena_tokens}")

    def pad(array: jax.Array, size: int) -> jax.Array:
        return jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, size - array.shape[-1])])

    names = [field.name for field in dataclasses.fields(state) if field.name.endswith("_I")]
    rows = {name: pad(getattr(state, name), items) for name in names}
    return dataclasses.replace(state, arena_A=pad(state.arena_A, arena_tokens), **rows)


def grow_for(state: MemoryState, calls: int, call_tokens: int) -> MemoryState:
    """Doubles rows and arena until `calls` inserts of `call_tokens` tokens fit every trajectory.

    It looks at values, so it runs on the host, between jitted steps.
    """
    items, tokens = state.length_I.shape[-1], state.arena_A.shape[-1]
    while items < int(jnp.max(state.rows)) + calls:
        items *= 2
    while tokens < int(jnp.max(state.used)) + calls * call_tokens:
        tokens *= 2
    return grow(state, items, tokens)


def unstack(states: MemoryState) -> list[MemoryState]:
    """Splits a batch [N, ...] into N states of numpy arrays, with one transfer from the device."""
    host = jax.device_get(states)
    return [jax.tree.map(lambda leaf, n=n: leaf[n], host) for n in range(host.core_len.shape[0])]


def memory_core(state: MemoryState) -> tuple[int, ...]:
    """Tokens of the core paragraph, on the host."""
    return tuple(np.asarray(state.core_S)[: int(state.core_len)].tolist())


def memory_items(state: MemoryState, kinds: Sequence[MemoryType] = LISTS) -> list[MemoryItem]:
    """The items of one trajectory in insertion order, on the host (cheap for states from `unstack`)."""
    length_I = np.asarray(state.length_I)
    count = int((length_I > 0).sum())
    end = np.cumsum(length_I[:count])
    arena = np.asarray(state.arena_A)[: int(end[-1]) if count else 0].tolist()
    columns = [length_I, state.id_I, state.type_I, state.first_chunk_I, state.last_chunk_I]
    rows = zip(end.tolist(), *(np.asarray(column)[:count].tolist() for column in columns), strict=True)
    return [
        MemoryItem(item_id, MemoryType(kind), tuple(arena[stop - length : stop]), first, last)
        for stop, length, item_id, kind, first, last in rows
        if kind in kinds
    ]
