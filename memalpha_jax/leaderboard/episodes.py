"""The episodes that a comparison runs on: the first of each source, shortened and thinned as the config says."""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from absl import logging

from memalpha_jax.episodes import registry
from memalpha_jax.episodes.chunkers import CountTokens
from memalpha_jax.episodes.episode import Episode
from memalpha_jax.episodes.generated import WorldConfig, generate_episodes
from memalpha_jax.episodes.source import EVALUATION, BuildOptions
from memalpha_jax.episodes.sources import GENERATED
from memalpha_jax.errors import UserError
from memalpha_jax.leaderboard.config import EpisodeChoice


def load(source: str, choice: EpisodeChoice, world: WorldConfig, count_tokens: CountTokens) -> list[Episode]:
    """The chosen episodes of one source.

    Raises:
      UserError: an unknown source, or missing or wrong files.
    """
    wanted = slice(choice.first, choice.first + choice.episodes)
    found = list(itertools.islice(_shortened(source, choice, world, count_tokens), wanted.start, wanted.stop))
    if not found:
        raise UserError(f"source {source!r} gives no episode from number {choice.first} on, counting from 0")
    if len(found) < choice.episodes:
        logging.warning("%s has only %d episode(s) of the %d wanted", source, len(found), choice.episodes)
    return [dataclasses.replace(e, questions=_thinned(e, choice)) for e in found]


def _shortened(source: str, choice: EpisodeChoice, world: WorldConfig, count: CountTokens) -> Iterator[Episode]:
    dropped = 0
    for episode in _all(source, choice, world, count):
        short = shortened(episode, choice.chunks)
        if short is None:
            dropped += 1
            continue
        yield short
    if dropped:
        logging.info("%s: %d episode(s) have no question about their first %d chunks", source, dropped, choice.chunks)


def _all(source: str, choice: EpisodeChoice, world: WorldConfig, count: CountTokens) -> Iterator[Episode]:
    if source == GENERATED:
        wanted = choice.first + choice.episodes
        yield from generate_episodes(world, "eval", wanted, chunks=choice.chunks or 10, seed=choice.seed)
        return
    try:
        named = registry.select([source])
    except UserError as error:
        raise UserError(f"{error}, and {GENERATED}, the world the policy was trained on") from error
    found = next((one for one in named if one.role == EVALUATION), named[0])
    paths = registry.find_files(found, choice.data) if found.files else {}
    yield from found.load(paths, BuildOptions(count, choice.seed, choice.chunk_tokens, choice.chunks))


def shortened(episode: Episode, chunks: int) -> Episode | None:
    """The first `chunks` chunks, with the questions whose evidence lies there; None where none does.

    A question without known evidence is kept only if nothing is cut off.
    """
    if not chunks or len(episode.chunks) <= chunks:
        return episode
    kept = tuple(q for q in episode.questions if q.evidence and max(q.evidence) < chunks)
    return dataclasses.replace(episode, chunks=episode.chunks[:chunks], questions=kept) if kept else None


def _thinned(episode: Episode, choice: EpisodeChoice) -> tuple:
    questions: Sequence = episode.questions
    if len(questions) <= choice.questions:
        return tuple(questions)
    rng = np.random.default_rng([choice.seed, zlib.crc32(episode.instance_id.encode("utf-8", "surrogatepass"))])
    return tuple(questions[i] for i in sorted(rng.choice(len(questions), choice.questions, replace=False)))
