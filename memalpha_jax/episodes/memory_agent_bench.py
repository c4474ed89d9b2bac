"""Rows of MemoryAgentBench: one long context and the questions about it.

Files: https://huggingface.co/datasets/ai-hyz/MemoryAgentBench, one parquet file for each competence below `data/`; MIT.
Columns: `context`, `questions` [text, ..], `answers` [[gold, ..], ..], `metadata` {`source`, `qa_pair_ids`, ..}. The
same rows as a JSON list or as JSON lines are read as well.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from memalpha_jax.episodes.official import field, read_records, typed
from memalpha_jax.episodes.parquet import read_parquet
from memalpha_jax.errors import UserError

PARQUET_MARK = b"PAR1"
ALL_COLUMNS = ("context", "questions", "answers", "metadata")
COLUMNS = (*ALL_COLUMNS[:-1], "metadata.source")


@dataclasses.dataclass(frozen=True)
class BenchmarkRow:
    """One row; `source` names the task and its length, `where` the place in the file. Each question has its golds.

    metadata: the columns of it that were asked for.
    """

    source: str
    context: str
    questions: tuple[tuple[str, tuple[str, ...]], ...]
    metadata: Mapping[str, Any]
    where: str


def read_rows(
    path: str | os.PathLike[str], task: str = "", columns: tuple[str, ...] = COLUMNS
) -> Iterator[BenchmarkRow]:
    """The rows whose source is `task`, or begins with `task` and an underscore, in order; without `task` all of them.

    `UserError` names the file, the row and the field that is not as expected, and a file without such rows.
    """
    seen: dict[str, None] = {}
    found = False
    for record, where in read_parquet(Path(path), columns) if _is_parquet(path) else read_records(path):
        metadata = field(record, "metadata", dict, where)
        source = field(metadata, "source", str, f"{where}, field 'metadata'")
        seen[source] = None
        if task in ("", source) or source.startswith(f"{task}_"):
            found = True
            context = field(record, "context", str, where)
            if not context.strip():
                raise UserError(f"{where}, field 'context' holds no text")
            yield BenchmarkRow(source, context, _questions(record, where), metadata, where)
    if not found:
        raise UserError(f"{path} has no row of {task}, only of {', '.join(seen)}; is it the right competence's file?")


def _questions(record: dict[str, Any], where: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    questions, answers = field(record, "questions", list, where), field(record, "answers", list, where)
    if len(questions) != len(answers):
        raise UserError(f"{where}: {len(questions)} questions and {len(answers)} answers; there must be one for each")
    pairs = []
    for i, (question, golds) in enumerate(zip(questions, answers, strict=True)):
        at = f"{where}, field 'answers[{i}]'"
        texts = [typed(gold, str, at).strip() for gold in typed(golds, list, at)]
        question = typed(question, str, f"{where}, field 'questions[{i}]'").strip()
        pairs.append((question, tuple(dict.fromkeys(filter(None, texts)))))
    return tuple(pairs)


def _is_parquet(path: str | os.PathLike[str]) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(PARQUET_MARK)) == PARQUET_MARK
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
