"""Rows of MemoryAgentBench: one long context and the questions about it.

Files: https://huggingface.co/datasets/ai-hyz/MemoryAgentBench, one parquet file for each competence below `data/`; MIT.
Columns: `context`, `questions` [text, ..], `answers` [[gold, ..], ..], `metadata` {`source`, `qa_pair_ids`, ..}. The
same rows as a JSON list or as JSON lines are read as well.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

from memalpha_jax.episodes.official import field, read_records, typed
from memalpha_jax.errors import UserError

PARQUET_MARK = b"PAR1"
COLUMNS = ("context", "questions", "answers", "metadata.source")


@dataclasses.dataclass(frozen=True)
class BenchmarkRow:
    """One row; `source` names the task and its length, `where` the place in the file. Each question has its golds."""

    source: str
    context: str
    questions: tuple[tuple[str, tuple[str, ...]], ...]
    where: str


def read_rows(path: str | os.PathLike[str], task: str) -> Iterator[BenchmarkRow]:
    """The rows whose source is `task`, or begins with `task` and an underscore, in order.

    `UserError` names the file, the row and the field that is not as expected, and a file without such rows.
    """
    seen: dict[str, None] = {}
    found = False
    for record, where in _parquet(path) if _is_parquet(path) else read_records(path):
        source = field(field(record, "metadata", dict, where), "source", str, f"{where}, field 'metadata'")
        seen[source] = None
        if source == task or source.startswith(f"{task}_"):
            found = True
            yield BenchmarkRow(source, field(record, "context", str, where), _questions(record, where), where)
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


def _parquet(path: str | os.PathLike[str]) -> Iterator[tuple[dict[str, Any], str]]:
    # Only here: it is slow to import, and most sources do without it.
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            missing = {name.split(".")[0] for name in COLUMNS} - set(file.schema_arrow.names)
            if missing:
                raise UserError(f"{path}: no column {min(missing)!r} in {file.schema_arrow.names}")
            number = 0
            for batch in file.iter_batches(batch_size=1, columns=list(COLUMNS)):
                for record in batch.to_pylist():
                    yield record, f"{path}, row {number}"
                    number += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a readable parquet file: {error}") from None
