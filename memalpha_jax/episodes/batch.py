"""Episodes as arrays: the only form in which text reaches the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from flax import struct

from memalpha_jax.episodes.episode import Episode
from memalpha_jax.errors import UserError


class Encoder(Protocol):
    """The part of a tokenizer that untrusted text needs."""

    def encode(self, text: str) -> list[int]: ...


@struct.dataclass
class EpisodeBatch:
    """B episodes of at most T chunks of at most C tokens. Padding is 0 and known from the lengths alone.

    Attributes:
      chunk_BTC: int32 tokens.
      chunk_len_BT: int32 tokens per chunk; 0 where the episode has ended.
      num_chunks_B: int32 chunks per episode.
      episode_index_B: int32 place of the episode in its dataset; random keys are folded from it.
    """

    chunk_BTC: np.ndarray
    chunk_len_BT: np.ndarray
    num_chunks_B: np.ndarray
    episode_index_B: np.ndarray


def tokenize_episodes(
    episodes: Sequence[Episode],
    tokenizer: Encoder,
    *,
    max_chunks: int,
    chunk_capacity: int,
    episode_indices: Sequence[int] | np.ndarray | None = None,
) -> EpisodeBatch:
    """Numpy arrays of shape B = len(episodes), T = `max_chunks`, C = `chunk_capacity`.

    `episode_indices` defaults to 0..B-1. A chunk over C tokens or an episode over T chunks is a `UserError`:
    text is never cut silently.
    """
    B = len(episodes)
    chunk_BTC = np.zeros((B, max_chunks, chunk_capacity), np.int32)
    chunk_len_BT = np.zeros((B, max_chunks), np.int32)
    for b, episode in enumerate(episodes):
        encoded = encode_chunks(episode, tokenizer, max_chunks=max_chunks, chunk_capacity=chunk_capacity)
        for t, tokens in enumerate(encoded):
            chunk_BTC[b, t, : len(tokens)] = tokens
            chunk_len_BT[b, t] = len(tokens)
    indices = np.arange(B) if episode_indices is None else np.asarray(episode_indices)
    if indices.shape != (B,):
        raise ValueError(f"episode_indices has shape {indices.shape}, expected ({B},)")
    num_chunks_B = np.array([len(episode.chunks) for episode in episodes], np.int32)
    return EpisodeBatch(
        chunk_BTC=chunk_BTC,
        chunk_len_BT=chunk_len_BT,
        num_chunks_B=num_chunks_B,
        episode_index_B=indices.astype(np.int32),
    )


def encode_chunks(episode: Episode, tokenizer: Encoder, *, max_chunks: int, chunk_capacity: int) -> Iterator[list[int]]:
    """The tokens of each chunk; `UserError` when an episode or one of its chunks is too long."""
    _check_chunk_count(episode, max_chunks)
    for t, chunk in enumerate(episode.chunks):
        tokens = tokenizer.encode(chunk)
        if len(tokens) > chunk_capacity:
            raise _too_long(episode, t, len(tokens), chunk_capacity)
        yield tokens


def _check_chunk_count(episode: Episode, max_chunks: int) -> None:
    if len(episode.chunks) > max_chunks:
        raise UserError(
            f"episode {episode.instance_id!r} has {len(episode.chunks)} chunks, this run takes at most "
            f"{max_chunks}; raise config.episodes.chunks or leave the episode out"
        )


def _too_long(episode: Episode, t: int, tokens: int, limit: int) -> UserError:
    return UserError(
        f"episode {episode.instance_id!r}: chunk {t + 1} of {len(episode.chunks)} has {tokens} tokens, "
        f"over the limit of {limit}; raise config.rollout.prompt_tokens or make chunks shorter: by "
        "config.episodes.chunk_tokens (official files), config.episodes.world.sentences_max (generated), "
        "--chunk_tokens of memalpha_jax.prepare (prepared), or in the file (jsonl)"
    )
