"""Lessons on random text: copy the lines of a chunk, and replace the stored items that they revise.

No line can be guessed, so the loss falls only by learning to copy and to find the item that begins like a line;
whatever text comes afterwards, both can be done with it.

Axes: M rows, P prompt tokens, R reply tokens, I item rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from memalpha_jax.memory.state import LISTS, MemoryItem, MemoryState, MemoryType, empty_memory
from memalpha_jax.policy.tokenizer import Tokenizer
from memalpha_jax.rollout.scripted import Call, insert, update
from memalpha_jax.rollout.steps import Steps
from memalpha_jax.tools.wire import call_segments
from memalpha_jax.warmstart_data import LessonConfig, Rows

LEAD_PIECES = 1
TAIL_PIECES = 3
"""What a revision puts before and after the words that it repeats: at most so many pieces."""
FRESH_SHARE = 0.5
"""Of the lines of a chunk that could revise an item, so many are new."""
MOST_SKIPPED_IDS = 4
_JSON_SPECIAL = {*range(0x20), *b'"\\', 0x7F}


def copying_rows(steps: Steps, tokenizer: Tokenizer, lesson: LessonConfig, count: int, seed: int, first: int) -> Rows:
    """Rows that store every line of a chunk of random pieces: in a random list, or over the item that it revises.

    With `lesson.stored` items in memory most lines revise one of them, each another, as far as they go.
    """
    engine, rng = steps.engine, np.random.default_rng([seed, first, lesson.lines_max, lesson.stored])
    pieces, newline = copyable_pieces(tokenizer), tokenizer.encode("\n")
    P, R = engine.rollout.prompt_tokens, engine.rollout.reply_tokens
    items_M = [[_line(rng, pieces, lesson) for _ in range(lesson.stored)] for _ in range(count)]
    memory = _memory_of(steps, tokenizer, items_M, rng)
    id_MI, type_MI = np.asarray(memory.id_I), np.asarray(memory.type_I)
    chunks, replies = [], []
    for m, items in enumerate(items_M):
        number = int(rng.integers(lesson.lines_min, lesson.lines_max + 1))
        chunk: list[int] = []
        reply: list[int] = []
        for row in [*rng.permutation(len(items)), *[-1] * number][:number]:
            if row < 0 or rng.random() < FRESH_SHARE:
                line, call = _line(rng, pieces, lesson), insert(LISTS[rng.integers(2)], "")
            else:
                item = MemoryItem(int(id_MI[m, row]), MemoryType(type_MI[m, row]), (), 0, 0)
                line, call = _revision(rng, pieces, items[row]), update(item, "")
            chunk += (newline if chunk else []) + line
            if rng.random() >= lesson.skip:
                reply += _filled(call, line, tokenizer, engine.rollout.wire)
        chunks.append(chunk)
        replies.append([*reply, tokenizer.eos_id])
    # All rows at full width, whatever was drawn, so that rendering is compiled once.
    chunk_MC, chunk_len_M = _padded(chunks, P)
    prompt_MP, prompt_len_M = jax.device_get(steps.render(memory, chunk_MC, chunk_len_M))
    reply_MR, reply_len_M = _padded(replies, R)
    rows = Rows(prompt_MP, prompt_len_M, reply_MR[:, :R], reply_len_M)
    return rows.take(np.flatnonzero((prompt_len_M <= P) & (reply_len_M <= R)))


def _memory_of(
    steps: Steps, tokenizer: Tokenizer, items_M: Sequence[Sequence[list[int]]], rng: np.random.Generator
) -> MemoryState:
    """Memories that hold the given items, each in a random list, under ids with gaps between them."""
    engine, count = steps.engine, len(items_M)
    memory = empty_memory(engine.memory, (count,))
    for own in zip(*items_M, strict=True):
        skipped = rng.integers(MOST_SKIPPED_IDS + 1, size=count, dtype=np.int32)
        memory = dataclasses.replace(memory, next_id=memory.next_id + skipped)
        calls = [insert(LISTS[rng.integers(2)], "") for _ in own]
        replies = [_filled(*pair, tokenizer, engine.rollout.wire) for pair in zip(calls, own, strict=True)]
        parsed, _ = engine.parser(*_padded(replies, engine.rollout.reply_tokens))
        memory, _ = steps.apply(memory, parsed, np.int32(0))
    return memory


def copyable_pieces(tokenizer: Tokenizer) -> np.ndarray:
    """Ids of the pieces (frames are none) that stand for themselves inside a JSON string."""

    def stands_for_itself(token: int) -> bool:
        text = tokenizer.token_bytes(token)
        return not set(text) & _JSON_SPECIAL and tokenizer.encode(text.decode("utf-8", "replace")) == [token]

    return np.array([token for token in range(1, tokenizer.vocab_size) if stands_for_itself(token)])


def _line(rng: np.random.Generator, pieces: np.ndarray, lesson: LessonConfig) -> list[int]:
    return rng.choice(pieces, rng.integers(lesson.pieces_min, lesson.pieces_max + 1)).tolist()


def _revision(rng: np.random.Generator, pieces: np.ndarray, item: list[int]) -> list[int]:
    """A line that repeats the beginning of `item`, after another word at times, and ends differently."""
    kept = item[: int(rng.integers(2, max(3, len(item))))]
    lead = rng.choice(pieces, rng.integers(LEAD_PIECES + 1)).tolist()
    return [*lead, *kept, *rng.choice(pieces, rng.integers(1, TAIL_PIECES + 1)).tolist()]


def _filled(call: Call, line: list[int], tokenizer: Tokenizer, wire: str) -> list[int]:
    """The tokens of a call with those of `line` where its content, empty so far, stands."""
    tokens: list[int] = []
    for text, is_frame in call_segments(*call, wire):
        tokens += tokenizer.encode_trusted(text) if is_frame else tokenizer.encode(text) if text else line
    return tokens


def _padded(rows: Sequence[Sequence[int]], size: int = 0) -> tuple[np.ndarray, np.ndarray]:
    length_M = np.array([len(row) for row in rows], np.int32)
    padded = np.zeros((len(rows), max(size, 1, *map(len, rows))), np.int32)
    for m, row in enumerate(rows):
        padded[m, : len(row)] = row
    return padded, length_M
