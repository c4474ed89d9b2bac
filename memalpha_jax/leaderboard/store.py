"""What a comparison has done so far, on disk: one file for each written memory, one for the answers from it.

    WORKDIR/memories/KEY.json      a record of `write.py`, whole or absent
    WORKDIR/answers/KEY.jsonl      one line for each question answered so far: its number as `at`, answer, score, and
                                   rouge_l where people answered it at length

A key is made of everything that the content depends on, so that nothing stale is ever used again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memalpha_jax.episodes.episode import Episode
from memalpha_jax.errors import UserError
from memalpha_jax.workdir import atomic_write, disk_errors

FAILED: Mapping[str, Any] = {"answer": None, "score": None}
"""In place of an answer that failed for good. It is not stored, so the next call asks again."""


def key_of(*parts: Any) -> str:
    """A file name for what these parts determine."""
    plain = [dataclasses.asdict(p) if dataclasses.is_dataclass(p) and not isinstance(p, type) else p for p in parts]
    text = json.dumps(plain, sort_keys=True, ensure_ascii=True, default=dict)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def episode_key(episode: Episode) -> str:
    return key_of(episode)


@dataclasses.dataclass(frozen=True)
class Store:
    """The files of one comparison."""

    root: Path

    def memory_file(self, key: str) -> Path:
        return self.root / "memories" / f"{key}.json"

    def answers_file(self, key: str) -> Path:
        return self.root / "answers" / f"{key}.jsonl"

    def has_memory(self, key: str) -> bool:
        return self.memory_file(key).exists()

    def save_memory(self, key: str, record: Mapping[str, Any]) -> None:
        atomic_write(self.memory_file(key), json.dumps(record, ensure_ascii=False) + "\n")

    def read_memory(self, key: str) -> dict[str, Any]:
        path = self.memory_file(key)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path}: {error}; delete it, and the same command makes it again") from error

    def read_answers(self, key: str) -> dict[int, dict[str, Any]]:
        """The answers given so far, by question; a last line that was cut off in the middle is dropped."""
        path = self.answers_file(key)
        if not path.exists():
            return {}
        with disk_errors(f"cannot read {path}"):
            data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            answers = {line.pop("at"): line for line in lines}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"cannot read {path}: {error}; delete it, and its answers are asked for again") from error
        if len(whole) < len(data):
            atomic_write(path, whole)
        return answers

    def all_answers(self, key: str, questions: int) -> list[Mapping[str, Any]]:
        """One answer per question; FAILED for those that have none."""
        answers = self.read_answers(key)
        return [answers.get(at, FAILED) for at in range(questions)]

    def add_answers(self, key: str, answers: Mapping[int, Mapping[str, Any]]) -> None:
        path = self.answers_file(key)
        lines = "".join(json.dumps({"at": at, **one}, ensure_ascii=False) + "\n" for at, one in answers.items())
        with disk_errors(f"cannot write {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "ab") as handle:
                handle.write(lines.encode("utf-8", "backslashreplace"))
                handle.flush()
                os.fsync(handle.fileno())
