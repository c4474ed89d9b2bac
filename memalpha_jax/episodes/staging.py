"""From a source's files to a file of all its episodes, once, however often a build is interrupted."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import logging
from tqdm import tqdm

from memalpha_jax.episodes import closed_book, registry
from memalpha_jax.episodes.episode import Episode, episode_from_json
from memalpha_jax.episodes.prepared import to_record
from memalpha_jax.episodes.source import BuildOptions, Source
from memalpha_jax.errors import UserError
from memalpha_jax.policy.tokenizer_files import load_tokenizer
from memalpha_jax.rewards import metrics
from memalpha_jax.workdir import atomic_write, disk_errors


@dataclasses.dataclass(frozen=True)
class Stage:
    """One source to be read, as it is handed to a worker process.

    Attributes:
      source: NAME:ROLE. files: what it reads. folder: where the result goes. place: of its progress bar.
      seed, chunk_tokens, chunks, stream_tokens: of `BuildOptions`. tokenizer: its folder.
      closed_book_reader: MODULE:FUNCTION of the reader for the closed-book filter; empty for none.
      keyword_extractor: MODULE:FUNCTION of another `BuildOptions.extract_keywords`; empty for ours.
    """

    source: str
    files: Mapping[str, Path]
    folder: Path
    place: int
    seed: int
    chunk_tokens: int
    chunks: int
    stream_tokens: int
    tokenizer: str
    closed_book_reader: str = ""
    keyword_extractor: str = ""

    @property
    def records_file(self) -> Path:
        return self.folder / f"{self.source.replace(':', '-')}.jsonl"

    @property
    def counts_file(self) -> Path:
        """Is there once the records are complete."""
        return self.folder / f"{self.source.replace(':', '-')}.counts.json"


def stage(task: Stage) -> None:
    """Reads a source and writes its episodes to `task.records_file`; does nothing where that was done before.

    Episodes whose data source has no scoring rule are left out and counted.

    Raises:
      UserError: a fault in the files (with its place), no episode in them, or the disk.
    """
    if task.counts_file.exists():
        return
    (source,) = registry.select([task.source])
    tokenizer = load_tokenizer(task.tokenizer)
    options = BuildOptions(
        count_tokens=lambda text: len(tokenizer.encode(text)),
        seed=task.seed,
        chunk_tokens=task.chunk_tokens,
        chunks=task.chunks,
        stream_tokens=task.stream_tokens,
    )
    if task.keyword_extractor:
        extractor = closed_book.load_function(task.keyword_extractor, "the keyword extractor")
        options = dataclasses.replace(options, extract_keywords=extractor)
    counts = {"read": 0, "without_scoring_rule": 0, "questions_known_closed_book": 0, "emptied_by_closed_book": 0}
    partial = task.records_file.with_suffix(f".{os.getpid()}.tmp")
    with disk_errors(f"cannot write {partial}"), open(partial, "w", encoding="utf-8") as file:
        shown = tqdm(
            _episodes(source, task.files, options), task.source, position=task.place, unit=" episodes", disable=None
        )
        for episode in _kept(shown, task.closed_book_reader, counts):
            chunk_tokens = [options.count_tokens(chunk) for chunk in episode.chunks]
            file.write(to_record(episode, chunk_tokens) + "\n")
        file.flush()
        os.fsync(file.fileno())
    if not counts["read"] - counts["without_scoring_rule"] - counts["emptied_by_closed_book"]:
        raise UserError(f"source {task.source!r} gives no episode that can be used ({counts})")
    with disk_errors(f"cannot write {task.records_file}"):
        os.replace(partial, task.records_file)
    atomic_write(task.counts_file, json.dumps(counts))
    logging.info("%s: %d episodes read", task.source, counts["read"])


def _episodes(source: Source, files: Mapping[str, Path], options: BuildOptions) -> Iterator[Episode]:
    """The source's episodes. The disk's errors in its files are told apart from those of our own."""
    try:
        yield from source.load(files, options)
    except OSError as error:
        raise UserError(f"cannot read the files of source {source.name!r}: {error}") from error


def _kept(episodes: Iterator[Episode], reader_name: str, counts: dict[str, int]) -> Iterator[Episode]:
    reader = closed_book.load_reader(reader_name) if reader_name else None
    for episode in episodes:
        counts["read"] += 1
        if metrics.find_source(episode.data_source) is None:
            counts["without_scoring_rule"] += 1
            continue
        if reader and metrics.find_source(episode.data_source) in closed_book.WORLD_KNOWLEDGE:
            before = len(episode.questions)
            episode = closed_book.without_known(episode, reader)
            counts["questions_known_closed_book"] += before - len(episode.questions)
            if not episode.questions:
                counts["emptied_by_closed_book"] += 1
                continue
        yield episode


def staged_lines(task: Stage) -> Iterator[str]:
    """The records of a staged source, in the order in which its loader gave them."""
    with open(task.records_file, encoding="utf-8", newline="\n") as file:
        yield from (line.rstrip("\n") for line in file)


def staged_episodes(task: Stage) -> Iterator[Episode]:
    """The same as episodes."""
    for number, line in enumerate(staged_lines(task), 1):
        yield episode_from_json(json.loads(line), f"{task.records_file}, line {number}")


def staged_counts(task: Stage) -> dict[str, Any]:
    """What was read and what was left out."""
    return json.loads(task.counts_file.read_bytes())
