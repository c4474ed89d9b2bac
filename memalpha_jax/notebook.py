"""A memory as people read it: text items with the place each came from, kept in one JSON file.

A `Notebook` is the host's mirror of a `MemoryState`. It needs no policy and no tokenizer, so a saved memory
can be listed, edited and asked by itself.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from memalpha_jax.config import build, to_dict
from memalpha_jax.errors import UserError
from memalpha_jax.memory.ops import hash_tokens
from memalpha_jax.memory.state import LISTS, MemoryConfig, MemoryState, MemoryType, empty_memory, grow_for
from memalpha_jax.padded_sizes import power_of_two
from memalpha_jax.policy.tokenizer import Tokenizer
from memalpha_jax.rewards.reader import ExtractiveReader, Reader, ReaderQuery, every_answer
from memalpha_jax.workdir import atomic_write

FORMAT = "memalpha_jax memory, version 1"
BY_HAND = "edited by hand"
_EXCERPT = 160


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a text was written from.

    Attributes:
      source: name of the text, such as a file; chunk: number of the chunk, counted over everything read.
      start, end: the chunk's characters [start, end) within the source.
      excerpt: the part of the chunk that the item repeats, or the chunk's beginning.
    """

    source: str
    chunk: int
    start: int
    end: int
    excerpt: str

    def about(self, text: str, chunk_text: str) -> Origin:
        """This origin with the excerpt that fits an item saying `text`."""
        return dataclasses.replace(self, excerpt=excerpt(chunk_text, text))


@dataclasses.dataclass(frozen=True)
class Note:
    """One item: `type` is "episodic" or "semantic"; `first` and `last` say what it was written from."""

    id: int
    type: str
    text: str
    first: Origin
    last: Origin


@dataclasses.dataclass(frozen=True)
class Notebook:
    """Everything remembered.

    Attributes:
      core: the core paragraph. notes: items in insertion order.
      next_id: id of the next item; ids are never used again. chunks_read: chunks seen so far.
    """

    core: str = ""
    notes: tuple[Note, ...] = ()
    next_id: int = 1
    chunks_read: int = 0
    core_origin: Origin | None = None

    def find(self, note_id: int) -> Note:
        """The item with this id; UserError names the ids there are."""
        for note in self.notes:
            if note.id == note_id:
                return note
        ids = ", ".join(str(note.id) for note in self.notes[:20]) + (", ..." if len(self.notes) > 20 else "")
        raise UserError(f"memory holds no item {note_id}; its ids are: {ids or 'none'}")

    def texts(self, kind: MemoryType) -> tuple[str, ...]:
        """Texts of one list, in insertion order."""
        return tuple(note.text for note in self.notes if note.type == type_name(kind))

    def as_dict(self) -> dict[str, Any]:
        """`core` (text), `episodic` and `semantic` (lists of {"id", "text"})."""
        lists = {
            type_name(kind): [{"id": n.id, "text": n.text} for n in self.notes if n.type == type_name(kind)]
            for kind in LISTS
        }
        return {"core": self.core, **lists}


def type_name(kind: MemoryType) -> str:
    return kind.name.lower()


def excerpt(chunk: str, text: str) -> str:
    """The line of `chunk` that contains `text`, else the beginning of the chunk; cut to a readable length."""
    at = chunk.find(text) if text else -1
    if at >= 0:
        start, end = chunk.rfind("\n", 0, at) + 1, chunk.find("\n", at + len(text))
        line = chunk[start : end if end >= 0 else len(chunk)]
        if len(line) > _EXCERPT:
            line = text
    else:
        line = chunk
    line = " ".join(line.split())
    return line if len(line) <= _EXCERPT else line[: _EXCERPT - 4] + " ..."


def insert_note(book: Notebook, kind: MemoryType, text: str, origin: Origin) -> Notebook:
    """Adds an item under the next id."""
    note = Note(book.next_id, type_name(kind), text, origin, origin)
    return dataclasses.replace(book, notes=(*book.notes, note), next_id=book.next_id + 1)


def update_note(book: Notebook, note_id: int, text: str, origin: Origin) -> Notebook:
    """Replaces the text of an item, which keeps its place; UserError for an unknown id or an empty text."""
    if not text.strip():
        raise UserError(f"item {note_id} cannot become empty; delete it instead")
    new = dataclasses.replace(book.find(note_id), text=text, last=origin)
    return dataclasses.replace(book, notes=tuple(new if note.id == note_id else note for note in book.notes))


def delete_note(book: Notebook, note_id: int) -> Notebook:
    """Removes an item; UserError for an unknown id."""
    gone = book.find(note_id)
    return dataclasses.replace(book, notes=tuple(note for note in book.notes if note is not gone))


def set_core(book: Notebook, text: str, origin: Origin | None) -> Notebook:
    """Replaces the core paragraph; "" clears it."""
    return dataclasses.replace(book, core=text, core_origin=origin if text else None)


def by_hand(book: Notebook, text: str) -> Origin:
    """The origin of what a person typed."""
    return Origin(BY_HAND, max(0, book.chunks_read - 1), 0, len(text), excerpt(text, text))


@dataclasses.dataclass(frozen=True)
class Answer:
    """`text`, "" if nothing in memory answers; `sure` where a sentence has every word of the question."""

    text: str
    sure: bool


def ask(book: Notebook, question: str, reader: Reader | None = None) -> Answer:
    """What the memory answers: from a sentence with all words of the question, else from the nearest one."""
    lists = (book.texts(MemoryType.EPISODIC), book.texts(MemoryType.SEMANTIC))
    queries = [ReaderQuery(question, book.core, *lists, data_source=rule) for rule in ("generated", "")]
    exact, near = every_answer(reader or ExtractiveReader(), queries)
    return Answer(exact or near, bool(exact))


def listing(book: Notebook) -> str:
    """The memory for reading, one item per line with where it came from."""
    lines = [f"core: {printable(book.core) or '(empty)'}"]
    for kind in LISTS:
        notes = [note for note in book.notes if note.type == type_name(kind)]
        lines.append(f"{type_name(kind)}: {len(notes) or 'no'} item{'s' if len(notes) != 1 else ''}")
        for note in notes:
            place = note.last
            where = place.source if place.source == BY_HAND else f"{place.source}, characters {place.start}-{place.end}"
            lines.append(f"  [{note.id}] {printable(note.text)}  ({where})")
    return "\n".join(lines)


def printable(text: str) -> str:
    """`text` with everything that could move the cursor or colour the terminal written out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def save_notebook(path: str | Path, book: Notebook) -> None:
    """Writes the memory as JSON, whole or not at all. UserError when the disk is full."""
    record = {"format": FORMAT, **to_dict(book)}
    atomic_write(path, json.dumps(record, ensure_ascii=False, indent=1) + "\n")


def load_notebook(path: str | Path) -> Notebook:
    """Reads what `save_notebook` wrote, edited by hand or not.

    Raises:
      UserError: absent, unreadable, no memory file, a wrong field (named), or an id that occurs twice.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the memory file {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"the memory file {path} is not valid JSON: {error}") from error
    if not isinstance(record, dict) or record.pop("format", None) != FORMAT:
        raise UserError(f'{path} is no memory file: it lacks "format": "{FORMAT}"')
    book = build(Notebook, record, str(path))
    _check(book, path)
    return book


def _check(book: Notebook, path: str | Path) -> None:
    names, seen = [type_name(kind) for kind in LISTS], set()
    for note in book.notes:
        if note.type not in names:
            raise UserError(f"{path}: item {note.id} has type {note.type!r}; use {' or '.join(names)}")
        if note.id in seen or not 0 < note.id < book.next_id:
            raise UserError(f"{path}: item id {note.id} occurs twice or is not between 1 and next_id - 1")
        if not note.text:
            raise UserError(f"{path}: item {note.id} has no text; remove the item instead")
        seen.add(note.id)


def to_state(book: Notebook, tokenizer: Tokenizer, config: MemoryConfig) -> MemoryState:
    """The memory as arrays, with as much room as `config` says or the items need.

    Raises:
      UserError: the core is longer than `config.core_tokens`.
    """
    core = tokenizer.encode(book.core)
    if len(core) > config.core_tokens:
        raise UserError(
            f"the core paragraph has {len(core)} tokens, this policy takes at most {config.core_tokens}; "
            "shorten it with --edit=core:TEXT"
        )
    texts = [tokenizer.encode(note.text) for note in book.notes]
    mean_tokens = -(-sum(map(len, texts)) // max(1, len(texts)))
    state = grow_for(empty_memory(config), len(texts), mean_tokens)
    kinds = {type_name(kind): int(kind) for kind in LISTS}

    def fill(like: Any, values: Sequence[int] | np.ndarray) -> np.ndarray:
        filled = np.zeros(like.shape, like.dtype)
        filled[: len(values)] = values
        return filled

    return dataclasses.replace(
        state,
        core_S=fill(state.core_S, core),
        core_len=np.int32(len(core)),
        arena_A=fill(state.arena_A, [token for tokens in texts for token in tokens]),
        length_I=fill(state.length_I, [len(tokens) for tokens in texts]),
        id_I=fill(state.id_I, [note.id for note in book.notes]),
        type_I=fill(state.type_I, [kinds[note.type] for note in book.notes]),
        first_chunk_I=fill(state.first_chunk_I, [note.first.chunk for note in book.notes]),
        last_chunk_I=fill(state.last_chunk_I, [note.last.chunk for note in book.notes]),
        hash_I=fill(state.hash_I, _hashes(texts)),
        next_id=np.int32(book.next_id),
    )


def _hashes(texts: Sequence[Sequence[int]]) -> np.ndarray:
    """uint32 `hash_tokens` of every text."""
    if not texts:
        return np.zeros(0, np.uint32)
    padded_IL = np.zeros((power_of_two(len(texts)), power_of_two(max(map(len, texts)))), np.int32)
    length_I = np.zeros(len(padded_IL), np.int32)
    for i, tokens in enumerate(texts):
        padded_IL[i, : len(tokens)], length_I[i] = tokens, len(tokens)
    return np.asarray(_hash_rows(padded_IL, length_I))[: len(texts)]


_hash_rows = jax.jit(jax.vmap(hash_tokens))
