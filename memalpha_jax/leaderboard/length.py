"""`python -m memalpha_jax.evaluate` for a config that names lengths: one policy on streams from short to very long.

A record is kept of each length as soon as it is finished, and the same command goes on with the next one:

    WORKDIR/lengths/TOKENS-KEY.json     episodes: what `_write_and_ask` returns of each
    WORKDIR/length.json, .md, .png      rows, table and picture made of all of them; see `length_report`

Streams are read one at a time, so that a chunk takes as long as in use, whatever the length; what happens beside, such
as compiling for a memory that has grown, is counted apart.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from pathlib import Path
from typing import Any

from absl import logging
from ml_collections import config_dict

from memalpha_jax.config import build, to_dict, with_tuples
from memalpha_jax.episodes.chunkers import CountTokens
from memalpha_jax.episodes.episode import Episode
from memalpha_jax.episodes.generated import WorldConfig, generate_episode
from memalpha_jax.errors import UserError
from memalpha_jax.leaderboard.config import PolicyChoice
from memalpha_jax.leaderboard.length_report import draw_lengths, length_markdown, length_results, short
from memalpha_jax.leaderboard.policy import chosen_policy, world_of
from memalpha_jax.leaderboard.store import key_of
from memalpha_jax.methods.context import fit, reader_query
from memalpha_jax.methods.memalpha import MemAlpha, Written
from memalpha_jax.methods.retrieval import Retrieval
from memalpha_jax.rewards.metrics import score
from memalpha_jax.rewards.reader import ExtractiveReader, Reader, every_answer
from memalpha_jax.workdir import Workdir, atomic_write, exclusive, open_workdir

MAY_CHANGE = ("lengths", "episodes", "reference", "bootstrap")
SAMPLE_CHUNKS = 64
TELL_EVERY_S = 20.0


@dataclasses.dataclass(frozen=True)
class LengthConfig:
    """A length study.

    Attributes:
      lengths: tokens of a stream, as the policy counts, about. episodes: streams of each of these lengths.
      reference: the length that the cost of a chunk of the longest one is compared with; one of `lengths`.
      first: number of the first episode. seed: of the generated world.
      top_k: entries of each list that retrieval hands to the reader. budget: tokens that it is shown at most.
      bootstrap: resamples of the intervals.
    """

    policy: PolicyChoice = PolicyChoice()
    lengths: tuple[int, ...] = (1_000, 4_000, 16_000, 64_000, 256_000, 1_000_000)
    episodes: tuple[int, ...] = (16, 8, 4, 2, 1, 1)
    reference: int = 16_000
    first: int = 9000
    seed: int = 0
    top_k: int = 20
    budget: int = 1024
    bootstrap: int = 2000

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < 1 or list(self.lengths) != sorted(set(self.lengths)):
            raise UserError(f"lengths are {list(self.lengths)}; give rising numbers of tokens")
        if len(self.episodes) != len(self.lengths) or min(self.episodes) < 1:
            raise UserError(f"episodes are {list(self.episodes)}; give a number above 0 for each of the lengths")
        if self.reference not in self.lengths:
            raise UserError(f"reference is {self.reference}, which is none of the lengths")
        for name in ("top_k", "budget", "bootstrap"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")


def default_config() -> config_dict.ConfigDict:
    """Every key with its default, for an experiment file to change."""
    return config_dict.ConfigDict(with_tuples(to_dict(LengthConfig())))


def evaluate_lengths(values: Any, path: str) -> None:
    """Goes on where an earlier call on the same workdir stopped.

    Raises:
      UserError: a wrong setting, no policy at the path, a chunk that does not fit its prompt.
    """
    config = build(LengthConfig, values)
    if not config.policy.path:
        raise UserError("set config.policy.path: a workdir or a checkpoint, whose policy reads the streams")
    logging.set_verbosity(logging.INFO)
    workdir = open_workdir(path, to_dict(config), may_change=MAY_CHANGE)
    with exclusive(workdir):
        policy = chosen_policy(config.policy)
        study = Study(
            config, MemAlpha(policy, config.top_k, Retrieval()), world_of(policy), ExtractiveReader(one_value=True)
        )
        records = study.run(workdir)
        results = length_results(records, config.reference, config.bootstrap)
        markdown = length_markdown(results)
        atomic_write(workdir.root / "length.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        atomic_write(workdir.root / "length.md", markdown)
        atomic_write(workdir.root / "length.png", draw_lengths(results))
    print(markdown)
    print(f"table    {workdir.root / 'length.md'}, {workdir.root / 'length.json'}")
    print(f"picture  {workdir.root / 'length.png'}")


class Study:
    """What the streams of every length have in common."""

    def __init__(self, config: LengthConfig, method: MemAlpha, world: WorldConfig, reader: Reader):
        self.config, self.method, self.world, self.reader = config, method, world, reader
        encode = method.policy.tokenizer.encode
        self.count_tokens: CountTokens = functools.lru_cache(maxsize=1 << 16)(lambda text: len(encode(text)))

    def run(self, workdir: Workdir) -> list[dict[str, Any]]:
        """The record of each length, in order; those that the workdir holds are read from it."""
        config = self.config
        plan = dict(zip(config.lengths, config.episodes, strict=True))
        files = {tokens: self._file(workdir, tokens, count) for tokens, count in plan.items()}
        todo = {tokens: count for tokens, count in plan.items() if not files[tokens].exists()}
        if todo:
            self._compile()
        progress = Progress(sum(tokens * count for tokens, count in todo.items()))
        for tokens, count in todo.items():
            episodes: list[dict[str, Any]] = []
            for index in range(config.first, config.first + count):
                progress.what = f"{short(tokens)} tokens, stream {len(episodes) + 1} of {count}"
                episode = stream_episode(self.world, tokens, index, config.seed, self.count_tokens)
                episodes.append(self._write_and_ask(episode, progress))
            record = {"tokens": tokens, "episodes": episodes}
            atomic_write(files[tokens], json.dumps(record, ensure_ascii=False) + "\n")
        return [_read(path) for path in files.values()]

    def _compile(self) -> None:
        """Reads a chunk for nothing: what is compiled once is no chunk's cost."""
        memory = self.method.open(1)[0]
        memory.write(stream_episode(self.world, 1, self.config.first, self.config.seed, self.count_tokens).chunks[0])
        memory.close()

    def _file(self, workdir: Workdir, tokens: int, count: int) -> Path:
        c = self.config
        settings = [c.first, c.seed, c.budget, dataclasses.asdict(self.world)]
        return workdir.root / "lengths" / f"{tokens}-{key_of(self.method.identity, tokens, count, settings)}.json"

    def _write_and_ask(self, episode: Episode, progress: Progress) -> dict[str, Any]:
        """Reads one stream and answers its questions.

        Returns:
          seconds, cpu_seconds: of every chunk, from its text to the memory after it, and of all threads of the process;
          growth_seconds: of all, for making room and compiling; chunk_tokens: of every chunk.
          memory_tokens, items, memory_bytes, index_bytes: of the memory at the end, unused room included.
          questions: question, kind, gold, answer, score.
        """
        memory: Written = self.method.open(1)[0]
        seconds, cpu_seconds = [], []
        sizes = [self.count_tokens(chunk) for chunk in episode.chunks]
        for chunk, size in zip(episode.chunks, sizes, strict=True):
            growth, wall, cpu = memory.stream.growth_seconds, time.perf_counter(), time.process_time()
            memory.write(chunk)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            grown = memory.stream.growth_seconds - growth
            seconds.append(round(wall - grown, 6))
            cpu_seconds.append(None if grown else round(cpu, 6))
            progress.done(size)
        memory.close()
        return {
            "instance_id": episode.instance_id,
            "chunk_tokens": sizes,
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "growth_seconds": memory.stream.growth_seconds,
            "memory_tokens": memory.memory_tokens,
            "items": len(memory.entries()),
            "memory_bytes": memory.stream.memory_bytes,
            "index_bytes": memory.stream.index_bytes,
            "questions": self._ask(memory, episode),
        }

    def _ask(self, memory: Written, episode: Episode) -> list[dict[str, Any]]:
        queries = []
        for asked in episode.questions:
            context = fit(memory.read(asked.question), self.config.budget, self.count_tokens)
            queries.append(reader_query(context.passages, asked.question, episode.data_source))
        return [
            {
                "question": asked.question,
                "kind": asked.kind,
                "gold": asked.answer,
                "answer": answer,
                "score": score(episode.data_source, answer, asked.answer),
            }
            for asked, answer in zip(episode.questions, every_answer(self.reader, queries), strict=True)
        ]


def stream_episode(world: WorldConfig, tokens: int, index: int, seed: int, count_tokens: CountTokens) -> Episode:
    """A held-out episode of as many chunks as have about `tokens` tokens together."""
    sample = generate_episode(world, "eval", index, chunks=SAMPLE_CHUNKS, seed=seed)
    mean = sum(map(count_tokens, sample.chunks)) / SAMPLE_CHUNKS
    return generate_episode(world, "eval", index, chunks=max(1, round(tokens / mean)), seed=seed)


class Progress:
    """Says now and then how far a study is and about how long it still takes, by tokens read."""

    def __init__(self, total: int):
        self.what = ""
        self._total, self._done, self._start, self._told = total, 0, time.monotonic(), time.monotonic()

    def done(self, tokens: int) -> None:
        self._done += tokens
        now = time.monotonic()
        if now - self._told >= TELL_EVERY_S:
            self._told = now
            left = (now - self._start) / self._done * max(0, self._total - self._done)
            share = min(100, round(100 * self._done / self._total))
            logging.info("%s: %d %% of all tokens read, about %d min left", self.what, share, -(-left // 60))


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; delete it, and the same command makes it again") from error
