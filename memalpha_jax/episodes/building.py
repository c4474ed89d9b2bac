"""Building a folder of prepared episodes: all of it, or nothing under its name.

The work is done beside it, in OUTPUT.partial. What is finished there is used again when an interrupted build is started
anew; the result takes its name at the very end.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import multiprocessing.process
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from memalpha_jax.config import flatten
from memalpha_jax.episodes import overlap, published, registry, selection
from memalpha_jax.episodes.episode import Episode, episode_from_json
from memalpha_jax.episodes.prepared import EVAL, MANIFEST, SPLITS, TEST, TRAIN, VERSION, PreparedEpisodes, read_manifest
from memalpha_jax.episodes.prepared_writer import write_prepared
from memalpha_jax.episodes.source import COMPETENCES, TRAINING, Source
from memalpha_jax.episodes.staging import Stage, stage, staged_counts, staged_episodes, staged_lines
from memalpha_jax.errors import UserError
from memalpha_jax.policy import hub
from memalpha_jax.policy.tokenizer_files import load_tokenizer
from memalpha_jax.workdir import Workdir, atomic_write, disk_errors, exclusive

BUILD_FILE = "build.json"
SUMMARIES = COMPETENCES[2]
OFFLINE_KEYWORDS = "memalpha_jax.episodes.keywords:extract_keywords (log-likelihood ratio, no model)"
_SHOWN_CLASHES = 5
_RECORDED_CLASHES = 20


@dataclasses.dataclass(frozen=True)
class BuildConfig:
    """What a folder is built from.

    Attributes:
      sources: names or NAME:ROLEs. raw: the folder with their files. output: the folder to be built.
      tokenizer: a folder; limits and counts are in its tokens.
      seed: of every random choice. workers: processes that read sources; they do not change the result.
      max_per_source: most training episodes of one data source. eval_share: of the episodes of a training source that
        is kept back.
      chunk_tokens, chunks, stream_tokens: other than the published ones, as in `BuildOptions`; 0 keeps those.
      shard_mb: size of the array_record files in MiB, at most.
      closed_book_reader: MODULE:FUNCTION of a reader; the squad and hotpotqa questions that it answers without the text
        are left out.
      keyword_extractor: MODULE:FUNCTION, another one for the gold of summaries; empty for ours, which needs no model.
      hub: take published sets that are not below `raw` from the Hugging Face hub.
      allow_leaks: split at random and only record what training and held-out episodes share.
    """

    sources: tuple[str, ...]
    raw: str
    output: str
    tokenizer: str
    seed: int = 42
    workers: int = 1
    max_per_source: int = 100
    eval_share: float = 0.1
    chunk_tokens: int = 0
    chunks: int = 0
    stream_tokens: int = 0
    shard_mb: int = 64
    closed_book_reader: str = ""
    keyword_extractor: str = ""
    hub: bool = False
    allow_leaks: bool = False

    def __post_init__(self) -> None:
        for name in ("raw", "output", "tokenizer", "sources"):
            if not getattr(self, name):
                raise UserError(f"--{name} is required to build")
        for name, least in (("workers", 1), ("shard_mb", 1), ("max_per_source", 0), ("seed", 0), ("chunk_tokens", 0)):
            if getattr(self, name) < least:
                raise UserError(f"--{name}={getattr(self, name)} must be at least {least}")
        if not 0 <= self.eval_share < 1:
            raise UserError(f"--eval_share={self.eval_share} must be at least 0 and below 1")


def build(config: BuildConfig) -> dict[str, Any]:
    """Builds `config.output`, or finds it built by the same configuration; returns its manifest.

    Raises:
      UserError: unknown sources, missing or faulty files, text shared by training and held-out episodes, a folder that
        something else made, or the disk. Nothing is left under the final name.
    """
    sources = registry.select(config.sources)
    files = {registry.key(source): _files(source, config) for source in sources}
    identity = _identity(config, files)
    output = Path(os.path.abspath(config.output))
    partial = output.with_name(f"{output.name}.partial")
    if _is_built(output, identity):
        logging.info("%s is built already, by the same configuration", output)
        return read_manifest(output)
    with _partial_folder(partial, identity):
        tasks = _stages(config, files, partial)
        _stage_all(tasks, config.workers)
        chosen = _choose(sources, tasks, config)
        leaks = _check_leaks(tasks, chosen, config)
        data = partial / "data"
        with disk_errors(f"cannot write {data}"), _array_record_errors(data):
            rows = {split: _Rows(tasks, chosen[split]) for split in SPLITS if any(map(len, chosen[split].values()))}
            write_prepared(data, rows, config.shard_mb)
            _verify(data, rows)
        manifest = _manifest(identity, sources, tasks, chosen, leaks)
        atomic_write(data / MANIFEST, json.dumps(manifest, indent=1) + "\n")
        with disk_errors(f"cannot move the finished folder to {output}"):
            os.rename(data, output)
    shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _files(source: Source, config: BuildConfig) -> dict[str, Path]:
    name = published.HUB_IDS.get(source.name)
    if not (config.hub and name):
        return registry.find_files(source, config.raw)
    try:
        return registry.find_files(source, config.raw)
    except UserError:
        patterns = [f"*{pattern}" for patterns in source.files.values() for pattern in patterns]
        return registry.find_files(source, hub.fetch_files(name, patterns, "the parquet files", "dataset"))


# --- what a build is, and whether it was done ---


def _identity(config: BuildConfig, files: Mapping[str, Mapping[str, Path]]) -> dict[str, Any]:
    """All that the result depends on; no paths, since the same files elsewhere give the same result."""
    kept = dataclasses.asdict(config)
    for name in ("raw", "output", "workers", "sources", "tokenizer", "hub"):
        del kept[name]
    tokenizer = load_tokenizer(config.tokenizer).files()
    inputs = {source: {name: _file_identity(path) for name, path in found.items()} for source, found in files.items()}
    digest = hashlib.sha256(
        b"".join(f"{name} {len(tokenizer[name])} ".encode() + tokenizer[name] for name in sorted(tokenizer))
    )
    named = {"name": Path(os.path.abspath(config.tokenizer)).name, "sha256": digest.hexdigest()}
    return {"format": VERSION, **kept, "tokenizer": named, "inputs": inputs}


def _file_identity(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return {"file": path.name, "bytes": os.fstat(file.fileno()).st_size, "sha256": digest}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _is_built(output: Path, identity: Mapping[str, Any]) -> bool:
    if not output.exists():
        return False
    if not output.is_dir():
        raise UserError(f"--output={output} is a file; give a folder that is not there yet")
    if (output / MANIFEST).is_file():
        _check_same(read_manifest(output).get("build", {}), identity, f"{output} was built")
        return True
    if any(output.iterdir()):
        raise UserError(
            f"--output={output} holds other things than prepared episodes; give a folder that is new or empty"
        )
    return False


def _check_same(stored: Mapping[str, Any], wanted: Mapping[str, Any], what: str) -> None:
    old, new = flatten(stored), flatten(wanted)
    differing = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    if differing:
        shown = "; ".join(
            f"{key} ({old.get(key, 'absent')} there, {new.get(key, 'absent')} now)" for key in differing[:6]
        )
        more = f" and {len(differing) - 6} more" if len(differing) > 6 else ""
        raise UserError(f"{what} by another configuration: {shown}{more}; give another --output or remove that folder")


@contextlib.contextmanager
def _partial_folder(partial: Path, identity: Mapping[str, Any]) -> Iterator[None]:
    """Makes the working folder, or takes that of an interrupted build; empty if that was of something else."""
    known = partial / BUILD_FILE
    with disk_errors(f"cannot create {partial}"):
        partial.mkdir(parents=True, exist_ok=True)
    with exclusive(Workdir(partial)):
        wanted = {"build": identity, "git_revision": git_revision()}
        if known.exists():
            stored = json.loads(known.read_bytes())
            if stored != wanted:
                logging.info("%s was begun by another configuration or revision of the program: starting anew", partial)
                _empty(partial)
        elif any(path.name not in (".lock",) and not path.name.endswith(".tmp") for path in partial.iterdir()):
            raise UserError(f"{partial} holds something else than an interrupted build; move it away")
        atomic_write(known, json.dumps(wanted))
        yield


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != ".lock":
            path.unlink()


def git_revision() -> str | None:
    """The commit that this program was taken from; None where it is not in a repository of its own."""
    here = Path(__file__)
    try:
        git = ["git", "-C", str(here.parent)]
        tracked = subprocess.run([*git, "ls-files", "--error-unmatch", here.name], capture_output=True, timeout=10)
        found = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if tracked.returncode == 0 else None


# --- reading the sources ---


def _stages(config: BuildConfig, files: Mapping[str, Mapping[str, Path]], partial: Path) -> dict[str, Stage]:
    return {
        source: Stage(
            source,
            found,
            partial,
            place,
            config.seed,
            config.chunk_tokens,
            config.chunks,
            config.stream_tokens,
            config.tokenizer,
            config.closed_book_reader,
            config.keyword_extractor,
        )
        for place, (source, found) in enumerate(files.items())
    }


def _stage_all(tasks: Mapping[str, Stage], workers: int) -> None:
    waiting = [task for task in tasks.values() if not task.counts_file.exists()]
    for old in (path for task in tasks.values() for path in task.folder.glob("*.tmp")):
        old.unlink(missing_ok=True)
    workers = min(workers, len(waiting))
    if workers <= 1:
        for task in waiting:
            stage(task)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, initializer=_end_with_parent) as pool:
        running = [pool.submit(stage, task) for task in waiting]
        try:
            for done in concurrent.futures.as_completed(running):
                done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """A worker whose parent was killed would otherwise wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


# --- which episodes go where ---

Chosen = dict[str, dict[str, np.ndarray]]
"""Split to source to the numbers of its staged episodes that go there, ascending."""


def _choose(sources: Sequence[Source], tasks: Mapping[str, Stage], config: BuildConfig) -> Chosen:
    chosen: Chosen = {split: {} for split in SPLITS}
    of_training: list[tuple[str, int, str]] = []  # source, number, data source
    for source in sources:
        key = registry.key(source)
        task = tasks[key]
        names = [episode.data_source for episode in staged_episodes(task)]
        if source.role != TRAINING:
            chosen[TEST][key] = np.arange(len(names))
            continue
        alone = np.arange(len(names))
        group_of = alone if config.allow_leaks else overlap.groups(lambda task=task: staged_episodes(task))  # type: ignore[misc]
        held = selection.hold_out(group_of, config.eval_share, config.seed, key)
        if config.eval_share and not held.any():
            logging.warning("%s: nothing is kept back, its %d episodes share text with each other", key, len(names))
        chosen[EVAL][key] = np.flatnonzero(held)
        of_training += [(key, number, names[number]) for number in np.flatnonzero(~held).tolist()]
    sampled = selection.sample_strata([name for _, _, name in of_training], config.max_per_source, config.seed)
    for key in (registry.key(source) for source in sources if source.role == TRAINING):
        chosen[TRAIN][key] = np.array([of_training[i][1] for i in sampled if of_training[i][0] == key], np.int64)
    return chosen


def _episodes(tasks: Mapping[str, Stage], chosen: Mapping[str, np.ndarray]) -> Iterator[Episode]:
    for _, line in _Rows(tasks, chosen):
        yield episode_from_json(json.loads(line), "staged episode")


@dataclasses.dataclass(frozen=True)
class _Rows:
    """The records of a split with their keys, read from the staged files at every iteration."""

    tasks: Mapping[str, Stage]
    chosen: Mapping[str, np.ndarray]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for source, numbers in self.chosen.items():
            wanted = set(numbers.tolist())
            for number, line in enumerate(staged_lines(self.tasks[source])):
                if number in wanted:
                    record = json.loads(line)
                    yield f"{record['data_source']}/{record['instance_id']}", line


def _check_leaks(tasks: Mapping[str, Stage], chosen: Chosen, config: BuildConfig) -> list[overlap.Clash]:
    clashes: list[overlap.Clash] = []
    for split in (EVAL, TEST):
        clashes += overlap.find_clashes(lambda: _episodes(tasks, chosen[TRAIN]), _episodes(tasks, chosen[split]))
    if clashes and not config.allow_leaks:
        lines = [f"  {c.kind} {c.text!r:.200} of {c.train} is in {c.held_out}" for c in clashes[:_SHOWN_CLASHES]]
        print(*lines, sep="\n", file=sys.stderr)
        counted = ", ".join(f"{name} {count}" for name, count in overlap.count_clashes(clashes).items())
        raise UserError(
            f"{len(clashes)} times training and held-out episodes share text ({counted}), first: {clashes[0].kind} "
            f"{clashes[0].text!r:.200} of {clashes[0].train} in {clashes[0].held_out}; leave one of these sources out, "
            "or record the overlap by --allow_leaks"
        )
    return clashes


# --- the result ---


@contextlib.contextmanager
def _array_record_errors(folder: Path) -> Iterator[None]:
    """What the writer of array_record files raises when the disk fails it."""
    try:
        yield
    except RuntimeError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise UserError(
            f"cannot write {folder}: {reason}; make room or permission there and run the same command again"
        ) from error


def _verify(folder: Path, rows: Mapping[str, _Rows]) -> None:
    """Reads back what was written, since a full disk may show only then, and hands it to the disk."""
    for split, wanted in rows.items():
        written = PreparedEpisodes(folder, split)
        stored = sorted(hashlib.sha256(written.text(i).encode()).digest() for i in range(len(written)))
        if stored != sorted(hashlib.sha256(record.encode()).digest() for _, record in wanted):
            raise RuntimeError(f"split {split} does not read back as it was written")
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def _manifest(
    identity: Mapping[str, Any],
    sources: Sequence[Source],
    tasks: Mapping[str, Stage],
    chosen: Chosen,
    leaks: Sequence[overlap.Clash],
) -> dict[str, Any]:
    described = {}
    keywords = identity["keyword_extractor"] or OFFLINE_KEYWORDS
    for source in sources:
        key = registry.key(source)
        described[key] = {
            "competence": source.competence,
            "where": source.where,
            "licence": source.licence,
            "published": dataclasses.asdict(source.published),
            **({"keywords": keywords} if source.competence == SUMMARIES else {}),
            **staged_counts(tasks[key]),
            **{split: _statistics(tasks, {key: c[key]}) for split, c in chosen.items() if len(c.get(key, ()))},
        }
    return {
        "episodes": {split: sum(map(len, chosen[split].values())) for split in SPLITS},
        "build": dict(identity),
        "git_revision": git_revision(),
        "leaks": {
            "count": len(leaks),
            "by_sources": overlap.count_clashes(leaks),
            "first": [dataclasses.asdict(clash) for clash in leaks[:_RECORDED_CLASHES]],
        },
        "sources": described,
    }


def _statistics(tasks: Mapping[str, Stage], chosen: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Counts of the chosen episodes, in tokens of the build's tokenizer."""
    records = [json.loads(line) for _, line in _Rows(tasks, chosen)]
    tokens = np.concatenate([record["chunk_tokens"] for record in records])
    return {
        "episodes": len(records),
        "chunks": len(tokens),
        "questions": sum(len(record["questions"]) for record in records),
        "tokens": int(tokens.sum()),
        "chunks_per_episode": round(len(tokens) / len(records), 2),
        "questions_per_episode": round(sum(len(record["questions"]) for record in records) / len(records), 2),
        "tokens_per_chunk": round(float(tokens.mean()), 1),
        "chunk_tokens": {"min": int(tokens.min()), "median": float(np.median(tokens)), "max": int(tokens.max())},
    }
