"""What a writer did, in numbers: how often it calls, how well it copies, what it repeats and where."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from memalpha_jax.episodes.episode import Episode
from memalpha_jax.episodes.generated import Sentence, has_sentences, sentences
from memalpha_jax.evaluation import WrittenMemory
from memalpha_jax.rewards.duplicates import near_duplicates
from memalpha_jax.rollout.scripted import right_list
from memalpha_jax.tools.calls import CallKind, Status


@dataclasses.dataclass(frozen=True)
class CallStatistics:
    """Means over all calls of a set of episodes; None where nothing could be counted.

    Attributes:
      chunks, calls: how many there were (calls beyond the limit of a reply included).
      calls_per_chunk: calls / chunks. unread_chunks: those the policy's own core paragraph left no room for.
      success_share: calls that changed the memory, of all calls.
      exact_copy_share: inserts and updates whose text equals a sentence of the chunk, of those with text. A
        sentence is a record of a generated episode, elsewhere a line of the chunk.
      near_duplicate_share: calls that store again what the memory holds or held (`rewards/duplicates.py`),
        exact repeats that the memory skipped included, of all calls.
      update_calls: successful updates. deletes: successful deletes.
      right_list_share: final items that equal a sentence of a generated episode and lie in the right list, of
        those that equal one.
      useful_share: final items that state something useful (not chatter), of the same.
      memory_share: tokens of the final memories over tokens of the streams.
    """

    chunks: int
    calls: int
    calls_per_chunk: float
    unread_chunks: int
    success_share: float | None
    exact_copy_share: float | None
    near_duplicate_share: float | None
    update_calls: int
    delete_calls: int
    right_list_share: float | None
    useful_share: float | None
    memory_share: float


def call_statistics(
    episodes: Sequence[Episode], memories: Sequence[WrittenMemory], near_duplicate: float = 0.8
) -> CallStatistics:
    """Statistics of the memories of `episodes`; texts repeat from a word Jaccard of `near_duplicate`."""
    calls = [call for memory in memories for chunk in memory.calls for call in chunk]
    total = len(calls) + sum(memory.dropped for memory in memories)
    chunks = sum(len(episode.chunks) for episode in episodes)
    exact = [hit for pair in zip(episodes, memories, strict=True) for hit in _exact_copies(*pair)]
    repeats = sum(_repeats(memory, near_duplicate) for memory in memories)
    known = [line_type for pair in zip(episodes, memories, strict=True) for line_type in _known_items(*pair)]
    done = [call for call in calls if call.status.success]
    return CallStatistics(
        chunks=chunks,
        calls=total,
        calls_per_chunk=total / chunks,
        unread_chunks=sum(memory.unread for memory in memories),
        success_share=_share(len(done), total),
        exact_copy_share=_share(sum(exact), len(exact)),
        near_duplicate_share=_share(repeats, total),
        update_calls=sum(call.kind == CallKind.UPDATE for call in done),
        delete_calls=sum(call.kind == CallKind.DELETE for call in done),
        right_list_share=_share(sum(right_list(line) == kind for line, kind in known), len(known)),
        useful_share=_share(sum(line.useful for line, _ in known), len(known)),
        memory_share=sum(m.tokens for m in memories) / sum(m.stream_tokens for m in memories),
    )


def stored_shares(episodes: Sequence[Episode], memories: Sequence[WrittenMemory]) -> dict[str, tuple[int, float]]:
    """Per kind of sentence of generated episodes: how many there were, and the share that was stored word for word."""
    stored: dict[str, list[bool]] = {}
    for episode, memory in zip(episodes, memories, strict=True):
        for chunk, calls in zip(sentences(episode), memory.calls, strict=True):
            texts = {call.text for call in calls if call.status.success and call.text}
            for line in chunk:
                stored.setdefault(line.kind, []).append(line.text in texts)
    return {kind: (len(hits), float(np.mean(hits))) for kind, hits in sorted(stored.items())}


def sentences_per_chunk(episodes: Sequence[Episode]) -> float:
    """Mean number of sentences of the chunks of generated episodes."""
    counts = [len(lines) for episode in episodes for lines in sentences(episode)]
    return float(np.mean(counts))


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _exact_copies(episode: Episode, memory: WrittenMemory) -> list[bool]:
    lines = [set(chunk.split("\n")) for chunk in episode.chunks]
    if has_sentences(episode):
        lines = [{line.text for line in chunk} for chunk in sentences(episode)]
    return [
        call.text in chunk_lines
        for chunk_lines, calls in zip(lines, memory.calls, strict=True)
        for call in calls
        if call.text and call.kind in (CallKind.INSERT, CallKind.UPDATE)
    ]


def _repeats(memory: WrittenMemory, threshold: float) -> int:
    most = max((len(calls) for calls in memory.calls), default=0)
    shape = (1, len(memory.calls), max(1, most))
    columns = {
        "kind": np.zeros(shape, int),
        "type": np.full(shape, -1),
        "id": np.full(shape, -1),
        "status": np.full(shape, int(Status.NO_CALL)),
    }
    for t, calls in enumerate(memory.calls):
        for k, call in enumerate(calls):
            values = (call.kind, call.memory_type, call.item_id, call.status)
            for column, value in zip(columns.values(), values, strict=True):
                column[0, t, k] = value
    texts = [[[call.text for call in calls] for calls in memory.calls]]
    kind, memory_type, item_id, status = columns.values()
    repeated = near_duplicates(kind, memory_type, item_id, status, texts, threshold)
    return int(repeated.sum()) + int((columns["status"] == Status.SKIPPED).sum())


def _known_items(episode: Episode, memory: WrittenMemory) -> list[tuple[Sentence, int]]:
    """The final items that are sentences of a generated episode, with the list each lies in."""
    if not has_sentences(episode):
        return []
    by_text = {line.text: line for chunk in sentences(episode) for line in chunk}
    return [(by_text[text], int(kind)) for kind, text in memory.items if text in by_text]
