"""Evaluation: memories are written for whole episodes, then questions are answered from them and scored.

The writer is a policy (greedy), a script (`rollout/scripted.py`), or nobody: `answer_from_chunks` is plain
retrieval over the raw text. All three answer with the same reader and are scored by the same rule.

Axes: N episodes decoded at once, T chunk steps, C chunk tokens, R reply tokens, K calls per reply.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from memalpha_jax.episodes.batch import EpisodeBatch, tokenize_episodes
from memalpha_jax.episodes.episode import Episode
from memalpha_jax.episodes.generated import sentences
from memalpha_jax.errors import UserError
from memalpha_jax.memory.retrieval import Bm25Index
from memalpha_jax.memory.state import (
    MemoryState,
    MemoryType,
    empty_memory,
    grow_for,
    memory_core,
    memory_items,
    memory_tokens,
    unstack,
)
from memalpha_jax.padded_sizes import power_of_two
from memalpha_jax.policy.tokenizer import Tokenizer
from memalpha_jax.rewards.judge import Grader
from memalpha_jax.rewards.metrics import score
from memalpha_jax.rewards.reader import Reader, ReaderQuery, every_answer
from memalpha_jax.rewards.reward import score_answers
from memalpha_jax.rollout.rollout import Engine, trajectory_keys
from memalpha_jax.rollout.scripted import Writer, script_replies
from memalpha_jax.rollout.steps import StepRecord, Steps
from memalpha_jax.rollout.stream import Stream, reply_room
from memalpha_jax.tools.calls import CallBatch, CallKind, Status

ROOMY_TOKENS = 8192
RAG_CHUNKS = 2


@dataclasses.dataclass(frozen=True)
class WrittenCall:
    """One call as it was parsed and applied. `memory_type` and `item_id` are -1 where the call names none."""

    kind: CallKind
    memory_type: int
    item_id: int
    text: str
    status: Status


@dataclasses.dataclass(frozen=True)
class WrittenMemory:
    """What a writer left of one episode.

    Attributes:
      core: the core paragraph. items: (type, text) in insertion order.
      tokens: length of the memory. stream_tokens: length of the chunks it was written from.
      calls: of each chunk, in order. dropped: calls beyond the limit of one reply, over all chunks.
      unread: chunks that the policy never saw, because its own core paragraph left no room in the prompt.
    """

    core: str
    items: tuple[tuple[MemoryType, str], ...]
    tokens: int
    stream_tokens: int
    calls: tuple[tuple[WrittenCall, ...], ...] = ()
    dropped: int = 0
    unread: int = 0

    def texts(self, kind: MemoryType) -> tuple[str, ...]:
        """The texts of one list, in insertion order."""
        return tuple(text for item_type, text in self.items if item_type == kind)


class PolicyWriter:
    """Writes memories with one policy architecture; compiled code is shared by all parameters it is given."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, batch: int, seed: int = 0):
        """Args: engine: made with temperature 0 for greedy replies. batch: N, episodes decoded at once."""
        self.engine, self.tokenizer, self.batch, self.seed = engine, tokenizer, batch, seed
        self.steps = Steps(engine)

    def write(self, params: Any, episodes: Sequence[Episode]) -> list[WrittenMemory]:
        """One memory per episode, in order.

        Raises:
          UserError: a chunk does not fit the prompt (which episode, which chunk).
        """
        # Episodes of like length together, so that few rows idle.
        order = sorted(range(len(episodes)), key=lambda i: len(episodes[i].chunks))
        written: dict[int, WrittenMemory] = {}
        for start in range(0, len(order), self.batch):
            chosen = order[start : start + self.batch]
            memories = self._write_batch(params, [episodes[i] for i in chosen])
            written.update(zip(chosen, memories, strict=True))
        return [written[i] for i in range(len(episodes))]

    def _write_batch(self, params: Any, episodes: Sequence[Episode]) -> list[WrittenMemory]:
        data = tokenize_for(self.engine, self.tokenizer, episodes)
        data = _pad_rows(data, min(self.batch, power_of_two(len(episodes))))
        N, T, _ = data.chunk_BTC.shape
        key_N = trajectory_keys(self.seed, 0, data.episode_index_B, np.zeros(N, np.int32))
        stream, records = Stream(self.steps, roomy_memory(self.engine, data)), []
        for t in range(T):
            active_N = t < data.num_chunks_B
            chunk_NC, length_N = data.chunk_BTC[:, t], data.chunk_len_BT[:, t]
            records.append(stream.read(params, key_N, t, chunk_NC, length_N, active_N))
        unread = _unread_chunks(records, episodes, self.engine.rollout.prompt_tokens)
        steps = [(record.calls, record.statuses_NK) for record in records]
        written = written_memories(self.tokenizer, episodes, data, stream.memory, steps)
        return [dataclasses.replace(one, unread=n) for one, n in zip(written, unread, strict=True)]

    def write_scripted(self, episodes: Sequence[Episode], writer: Writer) -> list[WrittenMemory]:
        """The memories that a scripted writer makes of generated episodes; it is shown no prompt."""
        data = tokenize_for(self.engine, self.tokenizer, episodes)
        N, T, _ = data.chunk_BTC.shape
        rngs = [np.random.default_rng([self.seed, n]) for n in range(N)]
        lines = [sentences(episode) for episode in episodes]
        memory, steps = roomy_memory(self.engine, data), []
        for t in range(T):
            memory = grow_for(memory, *reply_room(self.engine))
            replies = script_replies(self.engine, self.tokenizer, writer, rngs, lines, memory, t)
            parsed, _ = self.engine.parser(*replies)
            memory, statuses_NK = self.steps.apply(memory, parsed, np.int32(t))
            steps.append((parsed, np.asarray(statuses_NK)))
        return written_memories(self.tokenizer, episodes, data, memory, steps)


def tokenize_for(engine: Engine, tokenizer: Tokenizer, episodes: Sequence[Episode]) -> EpisodeBatch:
    """The chunks of `episodes` as arrays; UserError when one is longer than the whole prompt."""
    most = max(len(episode.chunks) for episode in episodes)
    capacity = engine.rollout.prompt_tokens
    return tokenize_episodes(episodes, tokenizer, max_chunks=most, chunk_capacity=capacity)


def roomy_memory(engine: Engine, data: EpisodeBatch) -> MemoryState:
    """Empty memories with room for what replies to all of these chunks can hold, up to `ROOMY_TOKENS` tokens.

    Every growth costs a compilation, so for short streams it is cheaper to start with enough.
    """
    B, T, _ = data.chunk_BTC.shape
    rollout = engine.rollout
    replies = max(1, min(T, ROOMY_TOKENS // rollout.reply_tokens))
    calls, tokens = reply_room(engine)
    return grow_for(empty_memory(engine.memory, (B,)), replies * calls, tokens)


def memory_query(question: str, memory: WrittenMemory, data_source: str) -> ReaderQuery:
    """What the reader sees of a memory."""
    return ReaderQuery(
        question,
        memory.core,
        memory.texts(MemoryType.EPISODIC),
        memory.texts(MemoryType.SEMANTIC),
        data_source,
    )


def answer_from_memories(
    episodes: Sequence[Episode], memories: Sequence[WrittenMemory], reader: Reader
) -> list[list[float]]:
    """Scores in [0, 1], per episode and question, of answers from the memories alone.

    Raises:
      UserError: an answer failed for good, or is one that no rule scores.
    """
    return _scores(episodes, _memory_queries(episodes, memories), reader)


def accuracy_from_memories(
    episodes: Sequence[Episode], memories: Sequence[WrittenMemory], reader: Reader, grader: Grader | None
) -> float:
    """Mean over episodes of the mean score of their questions; what failed for good is left out.

    Raises:
      UserError: nothing is left, or a source needs a grader and there is none.
    """
    queries = _memory_queries(episodes, memories)
    flat = [query for own in queries for query in own]
    golds = [question.answer for episode in episodes for question in episode.questions]
    scores = iter(score_answers(flat, reader.answer(flat), golds, grader=grader))
    kept = [[score for _, score in zip(own, scores, strict=False) if score is not None] for own in queries]
    means = [float(np.mean(own)) for own in kept if own]
    if not means:
        raise UserError("no held-out question has an answer; see the warnings above for the reason")
    return float(np.mean(means))


def _memory_queries(episodes: Sequence[Episode], memories: Sequence[WrittenMemory]) -> list[list[ReaderQuery]]:
    return [
        [memory_query(question.question, memory, episode.data_source) for question in episode.questions]
        for episode, memory in zip(episodes, memories, strict=True)
    ]


def answer_from_chunks(episodes: Sequence[Episode], reader: Reader, chunks: int = RAG_CHUNKS) -> list[list[float]]:
    """As `answer_from_memories`, but the reader is given the `chunks` raw chunks that BM25 ranks first.

    They are handed over in the order they were read, like memory items.
    """
    queries: list[list[ReaderQuery]] = []
    for episode in episodes:
        index = Bm25Index(enumerate(episode.chunks))
        queries.append([])
        for question in episode.questions:
            rows = sorted(index.rank(question.question, chunks))
            found = tuple(episode.chunks[row] for row in rows)
            queries[-1].append(ReaderQuery(question.question, semantic=found, data_source=episode.data_source))
    return _scores(episodes, queries, reader)


def stream_tokens(episode: Episode, tokenizer: Tokenizer) -> int:
    """Tokens of all chunks of an episode."""
    return sum(len(tokenizer.encode(chunk)) for chunk in episode.chunks)


def _scores(episodes: Sequence[Episode], queries: Sequence[Sequence[ReaderQuery]], reader: Reader) -> list[list[float]]:
    answers = iter(every_answer(reader, [query for rows in queries for query in rows]))
    return [
        [score(episode.data_source, next(answers), question.answer) for question in episode.questions]
        for episode in episodes
    ]


def _pad_rows(data: EpisodeBatch, rows: int) -> EpisodeBatch:
    """Adds rows without chunks, so that few batch sizes are compiled."""
    missing = rows - data.num_chunks_B.shape[0]
    return jax.tree.map(lambda x: np.pad(np.asarray(x), [(0, missing)] + [(0, 0)] * (np.ndim(x) - 1)), data)


def _unread_chunks(records: Sequence[StepRecord], episodes: Sequence[Episode], limit: int) -> list[int]:
    """How many chunks of each episode did not fit the prompt because the policy has filled the core.

    Raises:
      UserError: a chunk would not fit beside an empty core either.
    """
    unread = [0] * len(episodes)
    for n, episode in enumerate(episodes):
        for t, record in enumerate(records[: len(episode.chunks)]):
            length, core = int(record.prompt_len_N[n]), int(record.core_len_N[n])
            if length - core > limit:
                raise UserError(
                    f"episode {episode.instance_id!r}: with chunk {t + 1} of {len(episode.chunks)} the "
                    f"prompt has at least {length - core} tokens, over the limit of {limit}; lower "
                    "config.episodes.chunk_tokens or raise config.rollout.prompt_tokens"
                )
            unread[n] += length > limit
    if any(unread):
        logging.warning("%d chunks were not read: with the core the policy wrote, the prompt is full", sum(unread))
    return unread


def written_memories(
    tokenizer: Tokenizer,
    episodes: Sequence[Episode],
    data: EpisodeBatch,
    memory: MemoryState,
    steps: Sequence[tuple[CallBatch, np.ndarray]],
) -> list[WrittenMemory]:
    """The host's view of N memories and of the calls and statuses [N, K] of every chunk step."""
    results = []
    for n, (episode, state) in enumerate(zip(episodes, unstack(memory), strict=False)):
        own = steps[: len(episode.chunks)]
        items = memory_items(state)
        results.append(
            WrittenMemory(
                core=tokenizer.decode(memory_core(state)),
                items=tuple((item.type, tokenizer.decode(item.tokens)) for item in items),
                tokens=int(memory_tokens(state)),
                stream_tokens=int(np.sum(data.chunk_len_BT[n])),
                calls=tuple(written_calls(tokenizer, calls, statuses_NK, n) for calls, statuses_NK in own),
                dropped=sum(int(calls.dropped[n]) for calls, _ in own),
            )
        )
    return results


def written_calls(tokenizer: Tokenizer, calls: CallBatch, statuses_NK: np.ndarray, n: int) -> tuple[WrittenCall, ...]:
    """The calls of trajectory `n` of one step, with what became of them."""
    found = []
    for k, status in enumerate(statuses_NK[n].tolist()):
        if status != Status.NO_CALL:
            text = tokenizer.decode(calls.content_KL[n, k, : calls.length_K[n, k]].tolist())
            kind, memory_type = CallKind(int(calls.kind_K[n, k])), int(calls.memory_type_K[n, k])
            found.append(WrittenCall(kind, memory_type, int(calls.item_id_K[n, k]), text, Status(status)))
    return tuple(found)
