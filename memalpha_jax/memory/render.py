"""Memory and chunk to prompt tokens, on the device: stretches of one token pool, joined by one gather.

The pool is [literals | core | arena | chunk]; the stretches depend on how many items are shown. That number
is reduced until the prompt fits (`shown_choices`), so the stretches of every number are worked out and the
first that fits is used.

Axes: P prompt tokens, C chunk tokens, I item rows, M items that may be shown, k similar items, V choices, D digits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from memalpha_jax.memory.segments import concatenate_segments
from memalpha_jax.memory.similar import similar_items
from memalpha_jax.memory.state import (
    LISTS,
    MemoryConfig,
    MemoryItem,
    MemoryState,
    MemoryType,
    memory_core,
    memory_items,
)
from memalpha_jax.memory.template import (
    COUNT_SLOTS,
    LIST_SLOTS,
    ItemFormat,
    Part,
    PromptTemplate,
    RenderTables,
    compile_template,
    parse_template,
)

if TYPE_CHECKING:
    from memalpha_jax.policy.tokenizer import Tokenizer

__all__ = [
    "PromptTemplate",
    "RenderTables",
    "compile_template",
    "parse_template",
    "render_prompt",
    "render_text",
    "tokens_around",
]

POWERS_D = 10 ** np.arange(6, -1, -1)  # seven digits: more ids than any episode has calls
NO_ROW = jnp.iinfo(jnp.int32).max
Segments = tuple[jax.Array, jax.Array]
_jitted_similar_items = jax.jit(similar_items, static_argnums=3)


@flax.struct.dataclass
class Candidates:
    """The few items that a prompt may show, in row order; unused entries have length 0.

    recency_M: how many items of its list are newer. likeness_M: its place among the similar items.
    """

    id_M: jax.Array
    type_M: jax.Array
    start_M: jax.Array
    length_M: jax.Array
    recency_M: jax.Array
    likeness_M: jax.Array


def render_prompt(
    state: MemoryState,
    chunk_C: jax.Array,
    chunk_len: jax.Array,
    tables: RenderTables,
    config: MemoryConfig,
    prompt_tokens: int,
    likest_k: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The prompt for one chunk: the core in full, the most recent items of each list, and those similar to
    the chunk.

    Args:
      state: memory of one trajectory. chunk_C: int32, of which `chunk_len` count.
      prompt_tokens: P.
      likest_k: int32 [config.similar_items], what `similar_items` gives, where the caller knows it (`SimilarIndex`);
        without it, it is worked out here.
    Returns:
      (int32 [P] padded with 0, length). A length over P means that the prompt does not fit even without
      items and has been cut: the caller must refuse it.
    """
    pool = jnp.concatenate([tables.literals_F, state.core_S, state.arena_A, chunk_C])
    if not config.similar_items:
        likest_k = jnp.zeros(0, jnp.int32)
    elif likest_k is None:
        likest_k = similar_items(state, chunk_C, chunk_len, config.similar_items)
    items, counts = _candidates(state, likest_k, config), _count_items(state)

    def segments(recent: jax.Array, similar: jax.Array) -> Segments:
        shown_M = (items.recency_M < recent) | (items.likeness_M < similar)
        shown = dataclasses.replace(items, length_M=jnp.where(shown_M, items.length_M, 0))
        pieces = [_slot_segments(part, state, shown, counts, chunk_len, tables, config) for part in tables.parts]
        starts, lengths = zip(*(piece for group in pieces for piece in group), strict=True)
        return jnp.concatenate(starts), jnp.concatenate(lengths)

    start_VS, length_VS = jax.vmap(segments)(*jnp.array(shown_choices(config)).T)
    total_V = length_VS.sum(-1)
    fits_V = total_V <= prompt_tokens
    choice = jnp.where(jnp.any(fits_V), jnp.argmax(fits_V), total_V.shape[0] - 1)
    prompt_P = concatenate_segments(pool, start_VS[choice], length_VS[choice], prompt_tokens)
    return prompt_P, total_V[choice]


def tokens_around(tables: RenderTables, core_len: int, config: MemoryConfig) -> int:
    """Length of a prompt without items and without a chunk, worked out on the host: the room that chunks never have."""
    slots = {
        "core": core_len or tables.empty.length,
        "chunk": 0,
        "core_tokens": len(str(core_len)),
        "core_limit": len(str(config.core_tokens)),
        **dict.fromkeys(LIST_SLOTS, tables.empty.length + tables.newline.length),
        **dict.fromkeys(COUNT_SLOTS, 1),
    }
    return sum(slots[part.name] if part.name else part.length for part in tables.parts)


def shown_choices(config: MemoryConfig) -> list[tuple[int, int]]:
    """How many (recent items per list, similar items) to show: as configured; then one similar item fewer at a time;
    without any, the recent ones are halved down to none, as published.
    """
    choices = [(config.shown_items, similar) for similar in range(config.similar_items, -1, -1)]
    while choices[-1][0]:
        choices.append((choices[-1][0] // 2, 0))
    return choices


def _candidates(state: MemoryState, likest_k: jax.Array, config: MemoryConfig) -> Candidates:
    """The newest items of each list and those in the rows `likest_k`, each once, in row order."""
    rows, recency_I = [likest_k], jnp.zeros_like(state.length_I)
    for kind in LISTS if config.shown_items else ():
        of_kind_I = state.alive_I & (state.type_I == kind)
        upto_I, total = jnp.cumsum(of_kind_I), of_kind_I.sum()
        recency_I = jnp.where(of_kind_I, total - upto_I, recency_I)
        nth = total - jnp.arange(config.shown_items)  # newest first, counting from 1
        rows.append(jnp.where(nth > 0, jnp.searchsorted(upto_I, nth), -1))
    row_M = jnp.sort(jnp.concatenate(rows))
    row_M = jnp.where((row_M < 0) | (row_M == jnp.roll(row_M, 1)) & (jnp.arange(len(row_M)) > 0), NO_ROW, row_M)
    ranked_Mk = row_M[:, None] == likest_k
    places = jnp.where(ranked_Mk, jnp.arange(len(likest_k)), config.similar_items)

    def of_row(x_I: jax.Array) -> jax.Array:
        return x_I.at[row_M].get(mode="fill", fill_value=0)

    return Candidates(
        id_M=of_row(state.id_I),
        type_M=of_row(state.type_I),
        start_M=jnp.where(jnp.arange(len(state.length_I)) < row_M[:, None], state.length_I, 0).sum(1),
        length_M=of_row(state.length_I),
        recency_M=of_row(recency_I) if config.shown_items else jnp.full_like(row_M, NO_ROW),
        likeness_M=places.min(1, initial=config.similar_items),
    )


def _count_items(state: MemoryState) -> dict[MemoryType, jax.Array]:
    """int32 of each list."""
    return {kind: (state.alive_I & (state.type_I == kind)).sum() for kind in LISTS}


def _slot_segments(
    part: Part,
    state: MemoryState,
    shown: Candidates,
    counts: dict[MemoryType, jax.Array],
    chunk_len: jax.Array,
    tables: RenderTables,
    config: MemoryConfig,
) -> list[Segments]:
    """What one part of the template contributes, in order; items of length 0 are not shown."""
    core_start = tables.literals_F.shape[0]
    arena_start = core_start + state.core_S.shape[0]
    if part.name == "":
        return [_piece(part)]
    if part.name == "core":
        return [_stretch(core_start, state.core_len), _piece(tables.empty, state.core_len == 0)]
    if part.name == "chunk":
        return [_stretch(arena_start + state.arena_A.shape[0], chunk_len)]
    if part.name in LIST_SLOTS:
        kind = LIST_SLOTS[part.name]
        return _list_segments(kind, shown, counts[kind], arena_start, tables)
    if part.name == "core_tokens":
        return [_number(state.core_len)]
    if part.name == "core_limit":
        return [_number(jnp.int32(config.core_tokens))]
    name, count = part.name.split("_")
    kind = LIST_SLOTS[name]
    return [_number(((shown.length_M > 0) & (shown.type_M == kind)).sum() if count == "shown" else counts[kind])]


def _list_segments(
    kind: MemoryType, shown: Candidates, count: jax.Array, arena_start: int, tables: RenderTables
) -> list[Segments]:
    """One line for each shown item of one list, or the empty word if the list holds nothing."""

    def line(item: Candidates) -> Segments:
        item_id, text = _number(item.id_M), _stretch(arena_start + item.start_M, item.length_M)
        first, second = (item_id, text) if tables.item.id_first else (text, item_id)
        before, between, after = map(_piece, tables.item_marks)
        return _joined([before, first, between, second, after, _piece(tables.newline)])

    start_MS, length_MS = jax.vmap(line)(shown)
    present_M = (shown.type_M == kind) & (shown.length_M > 0)
    length_MS = jnp.where(present_M[:, None], length_MS, 0)
    empty = [_piece(tables.empty, count == 0), _piece(tables.newline, count == 0)]
    return [(start_MS.reshape(-1), length_MS.reshape(-1)), *empty]


def _joined(segments: list[Segments]) -> Segments:
    starts, lengths = zip(*segments, strict=True)
    return jnp.concatenate(starts), jnp.concatenate(lengths)


def _stretch(start: jax.Array | int, length: jax.Array | int) -> Segments:
    return jnp.asarray(start, jnp.int32)[None], jnp.asarray(length, jnp.int32)[None]


def _piece(part: Part, present: jax.Array | bool = True) -> Segments:
    return _stretch(part.start, jnp.where(present, part.length, 0))


def _number(value: jax.Array) -> Segments:
    """A number as one segment per digit; the literals begin with the ten digits, leading zeros have length
    0."""
    digit_D = value // POWERS_D % 10
    present_D = (value >= POWERS_D) | (POWERS_D == 1)
    return digit_D.astype(jnp.int32), present_D.astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class _Text:
    """A piece of prompt on the host and what it costs."""

    text: str
    tokens: int


def render_text(
    state: MemoryState,
    chunk_tokens: Sequence[int],
    template: PromptTemplate,
    tokenizer: Tokenizer,
    config: MemoryConfig,
    prompt_tokens: int,
) -> str:
    """The prompt of `render_prompt` as text, put together in plain Python: for traces, text-only models and
    tests.

    It may need more than `prompt_tokens` tokens, where even a prompt without items does.
    """
    likest = _likest_rows(state, chunk_tokens, config.similar_items)
    pieces: list[_Text] = []
    for recent, similar in shown_choices(config):
        values = _slot_texts(state, chunk_tokens, template, tokenizer, config, recent, likest[:similar])
        pieces = [
            values[value] if kind == "slot" else _Text(value, len(tokenizer.encode_trusted(value)))
            for kind, value in template.parts
        ]
        if sum(piece.tokens for piece in pieces) <= prompt_tokens:
            break
    return "".join(piece.text for piece in pieces)


def _likest_rows(state: MemoryState, chunk_tokens: Sequence[int], k: int) -> list[int]:
    """The rows that `render_prompt` chooses, best first: by the same function, so ties fall alike."""
    if k == 0:
        return []
    width = 256 * (1 + len(chunk_tokens) // 256)  # few widths, few compilations
    chunk_C = np.zeros(width, np.int32)
    chunk_C[: len(chunk_tokens)] = chunk_tokens
    rows = _jitted_similar_items(state, chunk_C, len(chunk_tokens), k)
    return [row for row in np.asarray(rows).tolist() if row >= 0]


def _slot_texts(
    state: MemoryState,
    chunk_tokens: Sequence[int],
    template: PromptTemplate,
    tokenizer: Tokenizer,
    config: MemoryConfig,
    recent: int,
    likest: Sequence[int],
) -> dict[str, _Text]:
    """Every slot's text, with the last `recent` items of each list and the items in rows `likest` shown."""
    core = memory_core(state)
    items = memory_items(state)
    values = {
        "core": _Text(tokenizer.decode(core), len(core)) if core else _trusted(template.empty, tokenizer),
        "chunk": _Text(tokenizer.decode(chunk_tokens), len(chunk_tokens)),
        "core_tokens": _Text(str(len(core)), len(str(len(core)))),
        "core_limit": _Text(str(config.core_tokens), len(str(config.core_tokens))),
    }
    for name, kind in LIST_SLOTS.items():
        rows = [row for row, item in enumerate(items) if item.type == kind]
        newest = rows[max(0, len(rows) - recent) :]
        shown = [items[row] for row in rows if row in newest or row in likest]
        lines = [_line(item, template.item, tokenizer) for item in shown]
        if not rows:
            lines = [_trusted(template.empty + "\n", tokenizer)]
        values[name] = _Text("".join(line.text for line in lines), sum(line.tokens for line in lines))
        values[f"{name}_shown"] = _Text(str(len(shown)), len(str(len(shown))))
        values[f"{name}_total"] = _Text(str(len(rows)), len(str(len(rows))))
    return values


def _trusted(text: str, tokenizer: Tokenizer) -> _Text:
    return _Text(text, len(tokenizer.encode_trusted(text)))


def _line(item: MemoryItem, item_format: ItemFormat, tokenizer: Tokenizer) -> _Text:
    text = item_format.line(item.id, tokenizer.decode(item.tokens)) + "\n"
    marks = sum(len(tokenizer.encode_trusted(mark)) for mark in (*item_format.marks, "\n"))
    return _Text(text, marks + len(str(item.id)) + len(item.tokens))
