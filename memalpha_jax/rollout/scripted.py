"""Scripted writers: the same loop as a rollout, with replies written by a program instead of the policy.

Everything else (prompts, parsing, memory) is the rollout's own machinery. The warm start learns from such
trajectories, and evaluation compares with them. A writer sees the sentence records of a generated episode (in the long
world they are notes, which may say what follows from several sentences):

    `oracle`         stores exactly what is asked
    `RandomChooser`  stores each sentence with a given probability, in the right list
    `Demonstrator`   the warm start's: right format, random choice of sentence and list
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from memalpha_jax.episodes.batch import EpisodeBatch
from memalpha_jax.episodes.episode import Episode
from memalpha_jax.episodes.generated import Sentence, sentences
from memalpha_jax.memory.state import (
    LISTS,
    MemoryItem,
    MemoryState,
    MemoryType,
    empty_memory,
    memory_items,
    memory_tokens,
    unstack,
)
from memalpha_jax.memory.template import ItemFormat
from memalpha_jax.policy.tokenizer import Tokenizer
from memalpha_jax.rollout.rollout import Engine, room_for
from memalpha_jax.rollout.steps import Steps
from memalpha_jax.rollout.trajectory import Trajectory
from memalpha_jax.tools.calls import MEMORY_NAMES
from memalpha_jax.tools.wire import call_segments


@dataclasses.dataclass(frozen=True)
class View:
    """What a writer sees at one step: the chunk's sentences, the stored items with their texts, the prompt, and how
    items are written in it.
    """

    lines: Sequence[Sentence]
    items: Sequence[tuple[MemoryItem, str]]
    prompt: str
    item_format: ItemFormat
    episode_lines: Sequence[Sequence[Sentence]]

    def shown(self) -> list[tuple[MemoryItem, str]]:
        """The items that the prompt shows."""
        prompt_lines = set(self.prompt.split("\n"))
        return [(item, text) for item, text in self.items if self.item_format.line(item.id, text) in prompt_lines]


Call = tuple[str, dict[str, str]]
Writer = Callable[[View, np.random.Generator], list[Call]]


def insert(memory_type: MemoryType, text: str) -> Call:
    return "new_memory_insert", {"memory_type": MEMORY_NAMES[memory_type], "content": text}


def update(item: MemoryItem, text: str) -> Call:
    arguments = {"memory_type": MEMORY_NAMES[item.type], "new_content": text, "memory_id": str(item.id)}
    return "memory_update", arguments


def right_list(line: Sentence) -> MemoryType:
    """Events are episodic, everything else is semantic."""
    return MemoryType.EPISODIC if line.kind.startswith("event") else MemoryType.SEMANTIC


def corrected_item(line: Sentence, view: View, items: Sequence[tuple[MemoryItem, str]]) -> MemoryItem | None:
    """The one of `items` that holds the sentence which `line` corrects, if any does."""
    if line.corrects is None:
        return None
    chunk, index = line.corrects
    stale = view.episode_lines[chunk][index].text
    return next((item for item, text in items if text == stale), None)


def store(line: Sentence, view: View) -> Call:
    """The right call for one sentence: a correction updates the corrected item where that is stored."""
    stale = corrected_item(line, view, view.items)
    return insert(right_list(line), line.text) if stale is None else update(stale, line.text)


def oracle(view: View, rng: np.random.Generator) -> list[Call]:
    """Stores what is asked, and nothing else."""
    return [store(line, view) for line in view.lines if line.asked]


@dataclasses.dataclass(frozen=True)
class RandomChooser:
    """Copies perfectly, chooses blindly: each sentence is stored with probability `rate`."""

    rate: float

    def __call__(self, view: View, rng: np.random.Generator) -> list[Call]:
        return [store(line, view) for line in view.lines if rng.random() < self.rate]


@dataclasses.dataclass(frozen=True)
class Demonstrator:
    """The warm start's writer: right format, in text order, no repeats; what is stored is random.

    Attributes:
      rate: share of sentences that are stored, over many chunks. In one chunk every kind of sentence has a share of
        its own, drawn from Beta(rate, 1 - rate): a taste, as random as the choice of single sentences, which gives
        reinforcement learning whole tastes to choose from.
      update_rate: share of sentences correcting a shown item that are stored; they replace that item. Where the
        prompt does not show the item that a sentence corrects, it is not stored: an insert beside a stale item is
        what must not become a habit. Where there is no such item, it is inserted like any other sentence.
      right_list_rate: share of the others that go to the right list.
    """

    rate: float
    update_rate: float
    right_list_rate: float

    def __call__(self, view: View, rng: np.random.Generator) -> list[Call]:
        kinds = sorted({line.kind for line in view.lines})
        rates = dict(zip(kinds, rng.beta(max(self.rate, 1e-9), max(1 - self.rate, 1e-9), len(kinds)), strict=True))
        calls = []
        shown, taken = view.shown(), {text for _, text in view.items}
        for line in view.lines:
            if line.text in taken:
                continue
            stale = corrected_item(line, view, shown)
            rate = self.update_rate if stale else rates[line.kind]
            hidden = stale is None and corrected_item(line, view, view.items) is not None
            if hidden or rng.random() >= rate:
                continue
            right = right_list(line)
            kind = right if rng.random() < self.right_list_rate else next(k for k in LISTS if k != right)
            calls.append(update(stale, line.text) if stale else insert(kind, line.text))
            taken.add(line.text)
        return calls


def encode_reply(calls: Sequence[Call], tokenizer: Tokenizer, wire: str) -> list[int]:
    """Tokens of a reply holding `calls`, end token included; only the frames of calls become single tokens."""
    ids: list[int] = []
    for name, arguments in calls:
        for text, is_frame in call_segments(name, arguments, wire):
            ids += tokenizer.encode_trusted(text) if is_frame else tokenizer.encode(text)
    return [*ids, tokenizer.eos_id]


def fit_reply(calls: Sequence[Call], tokenizer: Tokenizer, wire: str, limit: int) -> list[int]:
    """As `encode_reply`, leaving out last calls until the reply has at most `limit` tokens."""
    calls = list(calls)
    while len(reply := encode_reply(calls, tokenizer, wire)) > limit:
        calls.pop()
    return reply


def script_replies(
    engine: Engine,
    tokenizer: Tokenizer,
    writer: Writer,
    rngs: Sequence[np.random.Generator],
    lines: Sequence[Sequence[Sequence[Sentence]]],
    memory: MemoryState,
    t: int,
    prompts: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(int32 [N, R], int32 [N]): what `writer` replies to chunk t of N streams; nothing where there is no such chunk.

    Args:
      rngs: one per stream. lines: the sentences of each stream's chunks. memory: [N], before the chunk.
      prompts: what each is shown; without them, nothing.
    """
    N, R = len(lines), engine.rollout.reply_tokens
    reply_NR, reply_len_N = np.zeros((N, R), np.int32), np.zeros((N,), np.int32)
    for n, state in enumerate(unstack(memory)):
        if t >= len(lines[n]):
            continue
        items = [(item, tokenizer.decode(item.tokens)) for item in memory_items(state)]
        view = View(lines[n][t], items, prompts[n] if prompts else "", engine.tables.item, lines[n])
        reply = fit_reply(writer(view, rngs[n]), tokenizer, engine.rollout.wire, R)
        reply_NR[n, : len(reply)], reply_len_N[n] = reply, len(reply)
    return reply_NR, reply_len_N


def scripted_rollout(
    steps: Steps,
    tokenizer: Tokenizer,
    episodes: Sequence[Episode],
    batch: EpisodeBatch,
    writer: Writer,
    seed: int,
) -> Trajectory:
    """Trajectories (numpy, log-probs 0) of `writer` on generated episodes, one per episode."""
    engine = steps.engine
    N, T, _ = batch.chunk_BTC.shape
    R = engine.rollout.reply_tokens
    rngs = [np.random.default_rng([seed, int(e)]) for e in np.asarray(batch.episode_index_B)]
    chunks = np.asarray(batch.num_chunks_B).tolist()
    lines = [sentences(episode)[:n] for episode, n in zip(episodes, chunks, strict=True)]
    memory, records = empty_memory(room_for(engine.memory, engine.rollout, T), (N,)), []
    for t in range(T):
        prompt_NP, prompt_len_N = jax.device_get(steps.render(memory, batch.chunk_BTC[:, t], batch.chunk_len_BT[:, t]))
        active_N = t < np.asarray(batch.num_chunks_B)
        prompts = [tokenizer.decode(row[:length].tolist()) for row, length in zip(prompt_NP, prompt_len_N, strict=True)]
        reply_NR, reply_len_N = script_replies(engine, tokenizer, writer, rngs, lines, memory, t, prompts)
        parsed, subaction_NR = engine.parser(reply_NR, reply_len_N)
        memory, statuses_NK = steps.apply(memory, parsed, np.int32(t))
        records.append(
            {
                "prompt_NTP": prompt_NP,
                "prompt_len_NT": prompt_len_N,
                "reply_NTR": reply_NR,
                "reply_len_NT": reply_len_N,
                "finished_NT": active_N,
                "logprobs_NTR": np.zeros((N, R), np.float32),
                "subaction_NTR": np.asarray(subaction_NR),
                "calls": parsed,
                "statuses_NTK": np.asarray(statuses_NK),
                "active_NT": active_N,
                "memory_tokens_NT": np.asarray(jax.vmap(memory_tokens)(memory)),
            }
        )
    stacked = jax.tree.map(lambda *xs: np.stack(xs, axis=1), *records)
    return Trajectory(**stacked, memory=jax.device_get(memory))
