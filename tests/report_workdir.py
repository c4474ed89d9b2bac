"""A workdir of a comparison as an evaluation leaves it, made in a second: real episodes, answers and intervals, by
scripted memories that keep some sentences, rewrite some, forget some and make mistakes."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memalpha_jax.episodes.episode import Episode
from memalpha_jax.episodes.generated import WorldConfig, generate_episodes
from memalpha_jax.leaderboard import page, run, summary
from memalpha_jax.leaderboard.config import LeaderboardConfig, PolicyChoice, ReportConfig
from memalpha_jax.leaderboard.store import Store
from memalpha_jax.methods.bm25_rag import Bm25Rag
from memalpha_jax.methods.long_context import LongContext
from memalpha_jax.methods.method import CORE, EPISODIC, SEMANTIC, Context, Entry, Operation, Passage, WriteRecord
from memalpha_jax.methods.retrieval import RetrievalConfig, make_retrieval
from memalpha_jax.rewards.make import Named
from memalpha_jax.rewards.reader import ExtractiveReader

KINDS = (SEMANTIC, EPISODIC)


def count(text: str) -> int:
    return len(text.split())


@dataclasses.dataclass(frozen=True)
class Scripted:
    """Keeps a sentence with probability `keep`, at most `room` of them: the oldest go first."""

    name: str
    keep: float
    room: int = 100_000
    top_k: int = 6
    about: str = "a script that keeps some sentences, rewrites some and forgets some"

    @property
    def identity(self) -> str:
        return f"{self.name} {self.keep} {self.room} {self.top_k}"

    def open(self, n: int) -> list[ScriptedMemory]:
        return [ScriptedMemory(self) for _ in range(n)]


class ScriptedMemory:
    def __init__(self, method: Scripted):
        self.method, self._entries, self._chunk, self._next = method, {}, -1, 0
        self._rng = np.random.default_rng(zlib.crc32(method.name.encode()))
        self._ranking = make_retrieval(RetrievalConfig()).open()

    def write(self, chunk: str) -> WriteRecord:
        self._chunk += 1
        done = [self._sentence(line) for line in chunk.splitlines() if self._rng.random() < self.method.keep]
        if self._chunk % 7 == 3:
            done.append(Operation("update", SEMANTIC, "9999", "nobody is there", "unknown_id"))
        if self._chunk % 4 == 0:
            self._entries["core"] = Entry("core", CORE, f"The stream has {self._chunk + 1} parts so far.", self._chunk)
            done.append(Operation("update", CORE, "core", self._entries["core"].text))
        while len(self._entries) > self.method.room:
            oldest = next(iter(self._entries))
            done.append(Operation("delete", self._entries.pop(oldest).kind, oldest))
        reply = "\n".join(json.dumps({"tool": o.name, "kind": o.kind, "id": o.id, "content": o.text}) for o in done)
        return WriteRecord((reply,), tuple(done), count(chunk), count(reply))

    def _sentence(self, line: str) -> Operation:
        same = [e for e in self._entries.values() if e.kind != CORE and e.text.split()[:2] == line.split()[:2]]
        if same and self._rng.random() < 0.5:
            old = same[-1]
            self._entries[old.id] = Entry(old.id, old.kind, f"{old.text} Later: {line}", self._chunk)
            return Operation("update", old.kind, old.id, self._entries[old.id].text)
        kind, name = KINDS[self._next % 2], str(self._next)
        self._next += 1
        self._entries[name] = Entry(name, kind, line, self._chunk)
        return Operation("insert", kind, name, line)

    def read(self, question: str) -> Context:
        entries = self.entries()
        core = tuple(Passage(e.text, CORE, e.id, i) for i, e in enumerate(entries) if e.kind == CORE)
        return Context((*core, *self._ranking.best_passages(entries, KINDS, question, self.method.top_k)))

    def entries(self) -> Sequence[Entry]:
        return list(self._entries.values())

    @property
    def memory_tokens(self) -> int:
        return sum(count(entry.text) for entry in self.entries())

    def close(self) -> None:
        pass


METHODS = (
    Scripted("memalpha", 0.85),
    LongContext(150, count),
    Bm25Rag(2, count),
    Scripted("memagent", 0.5, room=4),
    Scripted("mem1", 0.5, room=2),
    Scripted("mem0", 0.6),
    Scripted("memory_r1", 0.7, room=60),
)


def make_episodes(source: str, number: int, chunks: int) -> list[Episode]:
    made = generate_episodes(WorldConfig(), "eval", number, chunks=chunks, seed=zlib.crc32(source.encode()) % 1000)
    return [dataclasses.replace(e, instance_id=f"{source}-{i}") for i, e in enumerate(made)]


def training_metrics(steps: int = 60) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    rise = 1 - np.exp(-np.arange(1, steps + 1) / 18)
    lines = []
    for i, r in enumerate(rise):
        noise = rng.normal(0, 0.05, 4)
        line = {"step": i + 1, "reward/all/r1": 0.15 + 0.7 * r + noise[0], "reward/all/r2": 0.6 + 0.35 * r + noise[1]}
        line |= {"reward/all/r3": 0.9 - 0.3 * r + noise[2], "reward/all/total": 0.4 + 0.9 * r + noise[3]}
        if (i + 1) % 10 == 0:
            line["eval/generated/accuracy"] = 0.1 + 0.75 * r
        lines.append(line)
    return lines


def length_study() -> dict[str, Any]:
    """As the length study writes it, as far as the page looks at it."""
    rows = [
        {
            "stream_tokens": tokens,
            "accuracy": 0.93 - 0.03 * i,
            "ci_low": 0.88 - 0.035 * i,
            "ci_high": 0.97 - 0.025 * i,
            "memory_tokens": tokens * 0.4,
            "seconds": {"median": 0.041 + 0.0004 * i},
            "bytes_per_token": 40.0 + i,
        }
        for i, tokens in enumerate((1000, 4000, 16000, 64000, 256000, 1000000))
    ]
    return {"rows": rows}


def make_workdir(
    root: Path, episodes: dict[str, list[Episode]], methods: Sequence[Any] = METHODS, traces: int = 2
) -> dict[str, Any]:
    """Runs the methods on the episodes by source, and writes `report.html`; returns the results."""
    policy = root / "policy"
    policy.mkdir(parents=True)
    (policy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in training_metrics()))
    (root / "length.json").write_text(json.dumps(length_study()))
    report = ReportConfig(traces, str(root))
    config = LeaderboardConfig(policy=PolicyChoice(str(policy)), report=report, bootstrap=500)
    name = Named("extractive", "the extractive reader")
    made = run.Parts({m.name: m for m in methods}, episodes, ExtractiveReader(one_value=True), name, count)
    store = Store(root)
    cells = run.run(config, made, store)
    results = summary.summarise(cells, store, count, config.bootstrap)
    results["about"] = {method.name: method.about for method in methods}
    results |= {"reader": made.reader_name.about, "grader": made.grader_name.about}
    (root / "results.json").write_text(json.dumps(results))
    page.write_page(config, cells, store, results)
    return results
