"""Feeding training: how many tokens a second are read, tokenised and laid out, when nothing else has to be done.

The stream is the trainer's own, with its threads. The tiny tokenizer reads generated episodes; another one reads them
too, or prepared ones.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from memalpha_jax.benchmarks.report import OURS, Measured, Result
from memalpha_jax.benchmarks.timing import Device, alternate
from memalpha_jax.benchmarks.work import Work
from memalpha_jax.episodes.episode import Episode
from memalpha_jax.episodes.feed import Drawn, make_feed
from memalpha_jax.episodes.iterator import THREADS, EpisodeIterator
from memalpha_jax.episodes.schedule import Schedule, heads_of
from memalpha_jax.episodes.sources import PREPARED, EpisodesConfig, load_episodes
from memalpha_jax.experiment import Config
from memalpha_jax.policy.tokenizer import Tokenizer
from memalpha_jax.policy.tokenizer_files import load_tokenizer
from memalpha_jax.warmstart import train_tokenizer

EPISODES = 512
"""Of those generated, and at most of those prepared."""


@dataclasses.dataclass(frozen=True)
class FeedSettings:
    """batch: B, episodes of a step. chunks: of a generated episode. tokenizer, data: folders, or empty."""

    batch: int
    chunks: int
    tokenizer: str = ""
    data: str = ""


@dataclasses.dataclass(frozen=True)
class _Subject:
    """What is timed: the steps of one pass through the episodes. C: tokens of the longest chunk."""

    schedule: Schedule
    episodes: Sequence[Episode]
    tokenizer: Tokenizer
    T: int
    C: int

    @property
    def steps(self) -> int:
        return len(self.episodes) // self.schedule.batch

    def feed(self) -> EpisodeIterator[Drawn]:
        own_B = np.arange(self.schedule.batch)
        sizes = {"max_chunks": self.T, "chunk_capacity": self.C}
        return make_feed(self.schedule, self.episodes, self.tokenizer, own_B=own_B, **sizes)

    def tokens(self) -> int:
        """Draws every step, and counts."""
        feed = self.feed()
        count = sum(int(next(feed).batch.chunk_len_BT.sum()) for _ in range(self.steps))
        feed.close()
        return count


def _subject(config: EpisodesConfig, tokenizer: Tokenizer, batch: int) -> _Subject:
    count = lambda text: len(tokenizer.encode(text))
    episodes = load_episodes(config, "train", count)
    heads = heads_of(episodes)
    C = max(count(chunk) for episode in episodes for chunk in episode.chunks)
    schedule = Schedule(heads, min(batch, len(heads)), seed=0)
    return _Subject(schedule, episodes, tokenizer, max(head.chunks for head in heads), C)


def bench_feed(settings: FeedSettings, device: Device, repeats: int) -> Result:
    """Times one pass for each tokenizer, in turns. UserError for folders that hold no tokenizer, or no episodes."""
    generated = EpisodesConfig(num_train=EPISODES, chunks=settings.chunks)
    subjects = {"tiny tokenizer, generated": _subject(generated, train_tokenizer(Config()), settings.batch)}
    if settings.tokenizer:
        data = EpisodesConfig(PREPARED, settings.data, num_train=EPISODES) if settings.data else generated
        name = f"{Path(settings.tokenizer).name}, {data.source}"
        subjects[name] = _subject(data, load_tokenizer(settings.tokenizer), settings.batch)
    tokens = {name: subject.tokens() for name, subject in subjects.items()}
    used: dict[str, list[float]] = {name: [] for name in subjects}

    def timed(name: str) -> int:
        begin = time.process_time()
        found = subjects[name].tokens()
        used[name].append(time.process_time() - begin)
        return found

    runs = {name: (lambda name=name: timed(name)) for name in subjects}  # type: ignore[misc]
    timings = alternate(runs, repeats, device.sample)
    measured = [Measured(name, OURS, timings[name], Work(tokens[name], 0, 0)) for name in subjects]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    checks = {"threads": THREADS, "cores": f"{os.cpu_count()}, with {load:.1f} processes wanting to run"}
    for name, subject in subjects.items():
        checks[f"{name}, episodes x chunks x tokens"] = f"{subject.schedule.batch} x {subject.T} x {subject.C} a step"
        checks[f"{name}, tokens per second of processor time"] = round(tokens[name] / min(used[name]))
    return Result(measured, checks)
