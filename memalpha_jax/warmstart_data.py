"""What the warm start learns from: rows of (prompt, reply), first copies of random text, then demonstrations."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from memalpha_jax.episodes.batch import tokenize_episodes
from memalpha_jax.episodes.generated import WorldConfig, generate_episode
from memalpha_jax.memory.state import LISTS, empty_memory
from memalpha_jax.policy.tokenizer import Tokenizer
from memalpha_jax.rollout.scripted import Demonstrator, insert, scripted_rollout
from memalpha_jax.rollout.steps import Steps
from memalpha_jax.tools.wire import call_segments

LINE_PIECES = (4, 10)
"""A random line has at least the first and fewer than the second number of pieces."""
_JSON_SPECIAL = {*range(0x20), *b'"\\', 0x7F}


PRACTICE = WorldConfig(
    chatter_rate=0.4,
    correction_rate=0.7,
    late_rate=0.3,
    fact_weight=0.6,
    event_weight=0.15,
    knowledge_weight=0.1,
    sample_weight=0.15,
)
"""A world with many corrections, so that updates are practised as much as inserts are."""


@dataclasses.dataclass(frozen=True)
class LessonConfig:
    """One lesson of the warm start.

    Attributes:
      steps: optimizer steps; 0 skips the lesson.
      demonstrate: False copies chunks of random pieces line by line; True shows the format on generated episodes,
        with a random choice of what to store.
      lines_min, lines_max: random lines per chunk, where they are copied.
      world: of the demonstrated episodes. chunks: chunks per episode; memory fills up along them.
      rate_low, rate_high, update_rate: see `Demonstrator`.
    """

    steps: int
    demonstrate: bool
    lines_min: int = 1
    lines_max: int = 2
    world: WorldConfig = PRACTICE
    chunks: int = 8
    rate_low: float = 0.2
    rate_high: float = 0.7
    update_rate: float = 0.6


@dataclasses.dataclass(frozen=True)
class Rows:
    """prompt_MP, reply_MR int32 right-padded; prompt_len_M, reply_len_M int32."""

    prompt_MP: np.ndarray
    prompt_len_M: np.ndarray
    reply_MR: np.ndarray
    reply_len_M: np.ndarray

    def take(self, index: np.ndarray) -> Rows:
        return Rows(*(getattr(self, f.name)[index] for f in dataclasses.fields(self)))

    def crop(self, multiple: int) -> Rows:
        """Drops columns that no row uses, up to a multiple, so that few shapes are compiled."""
        longest = (int(length_M.max(initial=1)) for length_M in (self.prompt_len_M, self.reply_len_M))
        P, R = (-(-length // multiple) * multiple for length in longest)
        return Rows(self.prompt_MP[:, :P], self.prompt_len_M, self.reply_MR[:, :R], self.reply_len_M)


def demonstrations(steps: Steps, tokenizer: Tokenizer, lesson: LessonConfig, count: int, seed: int, first: int) -> Rows:
    """Rows of `count` episodes of the training split, numbered from `first`, in random order.

    A function of the arguments alone, so that an interrupted warm start sees the same rows again.
    """
    engine = steps.engine
    chosen = [generate_episode(lesson.world, "train", first + i, chunks=lesson.chunks, seed=seed) for i in range(count)]
    batch = tokenize_episodes(
        chosen,
        tokenizer,
        max_chunks=lesson.chunks,
        chunk_capacity=engine.rollout.prompt_tokens,
        episode_indices=np.arange(first, first + count),
    )
    writer = Demonstrator(lesson.rate_low, lesson.rate_high, lesson.update_rate)
    t = scripted_rollout(steps, tokenizer, chosen, batch, writer, seed)
    fits = (t.prompt_len_NT <= engine.rollout.prompt_tokens) & t.active_NT & (t.reply_len_NT > 0)
    rows = Rows(t.prompt_NTP[fits], t.prompt_len_NT[fits], t.reply_NTR[fits], t.reply_len_NT[fits])
    return rows.take(np.random.default_rng([seed, first]).permutation(len(rows.prompt_len_M)))


def copying_rows(steps: Steps, tokenizer: Tokenizer, lesson: LessonConfig, count: int, seed: int, first: int) -> Rows:
    """Rows that copy every line of a chunk of random pieces into a random list.

    No line can be guessed, so the loss falls only by learning to copy, and any text can be copied afterwards.
    """
    engine, rng = steps.engine, np.random.default_rng([seed, first, lesson.lines_max])
    pieces = copyable_pieces(tokenizer)
    newline = tokenizer.encode("\n")
    P, R = engine.rollout.prompt_tokens, engine.rollout.reply_tokens
    chunks, replies = [], []
    for _ in range(count):
        lines = [
            rng.choice(pieces, rng.integers(*LINE_PIECES)).tolist()
            for _ in range(rng.integers(lesson.lines_min, lesson.lines_max + 1))
        ]
        chunks.append([token for i, line in enumerate(lines) for token in (newline if i else []) + line])
        calls = [call_segments(*insert(LISTS[rng.integers(2)], ""), engine.rollout.wire) for _ in lines]
        reply = [token for call, line in zip(calls, lines, strict=True) for token in _filled(call, line, tokenizer)]
        replies.append([*reply, tokenizer.eos_id])
    # All rows at full width, whatever was drawn, so that rendering is compiled once.
    chunk_MC, chunk_len_M = _padded(chunks, P)
    memory = empty_memory(engine.memory, (count,))
    prompt_MP, prompt_len_M = jax.device_get(steps.render(memory, chunk_MC, chunk_len_M))
    reply_MR, reply_len_M = _padded(replies, R)
    rows = Rows(prompt_MP, prompt_len_M, reply_MR[:, :R], reply_len_M)
    return rows.take(np.flatnonzero((prompt_len_M <= P) & (reply_len_M <= R)))


def copyable_pieces(tokenizer: Tokenizer) -> np.ndarray:
    """Ids of the pieces (frames are none) that stand for themselves inside a JSON string."""

    def stands_for_itself(token: int) -> bool:
        text = tokenizer.token_bytes(token)
        return not set(text) & _JSON_SPECIAL and tokenizer.encode(text.decode("utf-8", "replace")) == [token]

    return np.array([token for token in range(1, tokenizer.vocab_size) if stands_for_itself(token)])


def _filled(call: Sequence[tuple[str, bool]], line: list[int], tokenizer: Tokenizer) -> list[int]:
    """The call's frames with the tokens of `line` where its empty content stands."""
    frames = [tokenizer.encode_trusted(text) for text, is_frame in call if is_frame]
    return [*(token for frame in frames[:-1] for token in frame), *line, *frames[-1]]


def _padded(rows: Sequence[Sequence[int]], size: int = 0) -> tuple[np.ndarray, np.ndarray]:
    length_M = np.array([len(row) for row in rows], np.int32)
    padded = np.zeros((len(rows), max(size, int(length_M.max(initial=1)))), np.int32)
    for m, row in enumerate(rows):
        padded[m, : len(row)] = row
    return padded, length_M
