"""From episodes to what a training step takes in: drawn by schedule, tokenised in the background."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from memalpha_jax.episodes.batch import Encoder, EpisodeBatch, encode_chunks, tokenize_episodes
from memalpha_jax.episodes.episode import Episode
from memalpha_jax.episodes.iterator import THREADS, EpisodeIterator
from memalpha_jax.episodes.schedule import Schedule


@dataclasses.dataclass(frozen=True)
class Drawn:
    """The episodes of one step.

    Attributes:
      index_B: int64 places in the data set, of the whole batch.
      episodes: those of them that this process rolls out and scores. batch: the same, tokenised.
    """

    index_B: np.ndarray
    episodes: tuple[Episode, ...]
    batch: EpisodeBatch


def make_feed(
    schedule: Schedule,
    episodes: Sequence[Episode],
    tokenizer: Encoder,
    *,
    own_B: np.ndarray,
    max_chunks: int,
    chunk_capacity: int,
) -> EpisodeIterator[Drawn]:
    """The steps of `schedule`, for one process.

    own_B: places in a batch whose episodes this process reads and tokenises. max_chunks, chunk_capacity: T and C, as in
    `tokenize_episodes`. `episodes` may read them when asked, in several threads at once.
    """

    def draw(index_B: np.ndarray) -> Drawn:
        own = index_B[own_B]
        chosen = tuple(episodes[int(i)] for i in own)
        batch = tokenize_episodes(
            chosen, tokenizer, max_chunks=max_chunks, chunk_capacity=chunk_capacity, episode_indices=own
        )
        return Drawn(index_B, chosen, batch)

    return EpisodeIterator(schedule, draw)


def check_lengths(
    episodes: Sequence[Episode], tokenizer: Encoder, indices: Sequence[int], *, max_chunks: int, chunk_capacity: int
) -> None:
    """Raises UserError for the first of the episodes that does not fit, rather than at the step that draws it."""

    def check(i: int) -> None:
        for _ in encode_chunks(episodes[i], tokenizer, max_chunks=max_chunks, chunk_capacity=chunk_capacity):
            pass

    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for _ in pool.map(check, indices):
                pass
        finally:
            pool.shutdown(cancel_futures=True)
