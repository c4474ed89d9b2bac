"""Lengths of prompts and replies of one training step, without a model: real chunks, the real prompt, a made-up writer.

The writer copies: of each chunk it stores every sentence with a probability of its own, in a random list, until the
reply or its number of calls is full; in 3 of 10 replies it writes the core as well. The memories grow along the episode
as they do in a run, and the renderer says how long each prompt is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from memalpha_jax.episodes.chunkers import split_sentences
from memalpha_jax.episodes.episode import Episode
from memalpha_jax.experiment import Config
from memalpha_jax.grpo.learner import Block, to_blocks
from memalpha_jax.memory.state import empty_memory
from memalpha_jax.rollout.engine import make_engine
from memalpha_jax.rollout.rollout import render_batch, room_for
from memalpha_jax.rollout.trajectory import Trajectory
from memalpha_jax.tools.wire import call_segments

CORE_RATE = 0.3
Chunk = tuple[int, list[int]]
"""Tokens of a chunk, and of each of its sentences."""


def measured(episodes: Sequence[Episode], count: Callable[[str], int]) -> list[list[Chunk]]:
    """The chunks of every episode in tokens."""
    return [[(count(text), [count(s) for s in split_sentences(text)]) for text in e.chunks] for e in episodes]


def generated(rng: np.random.Generator, episodes: int, chunks: int, longest: int) -> list[list[Chunk]]:
    """Chunks packed to lengths from 100 to `longest`, as SQuAD's are, of sentences of some 25 tokens."""

    def chunk() -> Chunk:
        tokens, sentences = int(rng.integers(min(100, longest), longest + 1)), []
        while sum(sentences) < tokens:
            sentences.append(int(np.clip(rng.lognormal(3.2, 0.5), 5, 120)))
        return tokens, sentences

    return [[chunk() for _ in range(chunks)] for _ in range(episodes)]


def lengths_of_a_step(
    config: Config, tokenizer: Any, episodes: Sequence[Sequence[Chunk]], share: tuple[float, float], seed: int = 0
) -> Trajectory:
    """`grpo.group` trajectories of each episode, whose tokens are left out; a reply stores a share drawn from `share`.

    Only lengths, `active_NT` and fields of one token a reply are filled: what `to_blocks` looks at.
    """
    rng, T = np.random.default_rng(seed), max(map(len, episodes))
    engine, rollout = make_engine(config.policy, config.memory, config.rollout, tokenizer), config.rollout
    rows = [episode for episode in episodes for _ in range(config.grpo.group)]
    N, sizes = len(rows), room_for(config.memory, rollout, T)
    call = ("new_memory_insert", {"memory_type": "semantic", "content": ""})
    markup = sum(len(tokenizer.encode_trusted(text)) for text, _ in call_segments(*call, rollout.wire))
    render = jax.jit(lambda memory, chunk, length: render_batch(engine, memory, chunk, length)[1])
    width = max(tokens for episode in episodes for tokens, _ in episode)
    length_NI, type_NI = np.zeros((2, N, sizes.items), np.int32)
    core_len_N = np.zeros(N, np.int32)
    prompt_len_NT, reply_len_NT = np.zeros((2, N, T), np.int32)
    for t in range(T):
        chunk_len_N = np.array([row[t][0] if t < len(row) else 0 for row in rows], np.int32)
        memory = dataclasses.replace(
            empty_memory(sizes, (N,)),
            length_I=length_NI,
            type_I=type_NI,
            id_I=np.cumsum(length_NI > 0, axis=1, dtype=np.int32),
            core_len=core_len_N,
        )
        prompt_len_NT[:, t] = render(memory, np.zeros((N, width), np.int32), chunk_len_N)
        for n in np.flatnonzero((chunk_len_N > 0) & (prompt_len_NT[:, t] <= rollout.prompt_tokens)):
            reply = 1  # the end token
            if rng.random() < CORE_RATE:
                core_len_N[n] = rng.integers(1, config.memory.core_tokens + 1)
                reply += min(markup + core_len_N[n], rollout.reply_tokens - 1)
            sentences, taste = rows[n][t][1], rng.uniform(*share)
            stored = [tokens for tokens in sentences if rng.random() < taste]
            first = np.count_nonzero(length_NI[n])
            for i, sentence in enumerate(stored[: rollout.max_calls]):
                if reply + markup + sentence > rollout.reply_tokens:
                    break
                reply += markup + sentence
                length_NI[n, first + i], type_NI[n, first + i] = sentence, rng.integers(1, 3)
            reply_len_NT[n, t] = reply
    active_NT = np.arange(T) < np.array([len(row) for row in rows])[:, None]
    return _without_tokens(prompt_len_NT, reply_len_NT, active_NT)


def _without_tokens(prompt_len_NT: np.ndarray, reply_len_NT: np.ndarray, active_NT: np.ndarray) -> Trajectory:
    ones_NT1 = np.ones((*active_NT.shape, 1), np.int32)
    nothing: Any = None
    return Trajectory(
        prompt_NTP=ones_NT1,
        prompt_len_NT=prompt_len_NT,
        reply_NTR=ones_NT1,
        reply_len_NT=reply_len_NT,
        finished_NT=active_NT,
        logprobs_NTR=0.0 * ones_NT1,
        subaction_NTR=0 * ones_NT1,
        calls=nothing,
        statuses_NTK=ones_NT1,
        active_NT=active_NT,
        memory_tokens_NT=0 * reply_len_NT,
        memory=nothing,
    )


_to_blocks = jax.jit(to_blocks, static_argnums=2)  # step by step, it would be dozens of programs to compile


def blocks_of(config: Config, trajectory: Trajectory) -> Block:
    """The blocks that the update makes of these trajectories."""
    return _to_blocks(trajectory, np.zeros(trajectory.active_NT.shape, np.float32), config.grpo)
