"""From what a memory offers to what a reader is given: the same budget for every method."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from memalpha_jax.episodes.chunkers import CountTokens
from memalpha_jax.methods.method import CORE, EPISODIC, Context, Passage
from memalpha_jax.rewards.reader import ReaderQuery

CUT_NOTE = " [cut]"


def fit(context: Context, budget: int, count_tokens: CountTokens) -> Context:
    """The most relevant passages that fit `budget` tokens together; a first one that is too long alone is cut."""
    kept: list[Passage] = []
    room = budget
    for passage in context.passages:
        tokens = count_tokens(passage.text)
        if tokens > room:
            if not kept:
                kept.append(dataclasses.replace(passage, text=shorten(passage.text, room, count_tokens)))
            break
        kept.append(passage)
        room -= tokens
    return dataclasses.replace(context, passages=tuple(kept))


def shorten(text: str, tokens: int, count_tokens: CountTokens, keep: str = "start") -> str:
    """The longest start (or end) of `text`, in whole words, that has at most `tokens` tokens with a note of the cut."""
    if count_tokens(text) <= tokens:
        return text
    pieces = text.split(" ")
    low, high = 0, len(pieces)

    def cut(n: int) -> str:
        return " ".join(pieces[:n]) + CUT_NOTE if keep == "start" else " ".join(pieces[len(pieces) - n :])

    while low < high:
        middle = (low + high + 1) // 2
        if count_tokens(cut(middle)) <= tokens:
            low = middle
        else:
            high = middle - 1
    return cut(low)


def reader_query(passages: Sequence[Passage], question: str, data_source: str) -> ReaderQuery:
    """Passages as a reader takes them: core, dated events, everything else; each list in the memory's own order."""
    ordered = sorted(passages, key=lambda passage: passage.place)
    core = "\n".join(passage.text for passage in ordered if passage.kind == CORE)
    episodic = tuple(passage.text for passage in ordered if passage.kind == EPISODIC)
    rest = tuple(passage.text for passage in ordered if passage.kind not in (CORE, EPISODIC))
    return ReaderQuery(question, core, episodic, rest, data_source, retrieved=True)
