"""From what was stored to the one results file: rows, averages, differences, and every question with its answer.

rows: method, source, episodes, questions, failed, accuracy, ci_low, ci_high, memory_tokens, stream_tokens,
  write_calls and read_calls (of a language model, per chunk and per question), tokens (of these models, per chunk),
  rouge_l (a mean as accuracy is; None where nobody answered at length)
averages: method, accuracy (the plain mean of the method's cells), cells
differences: method, baseline, source, difference, ci_low, ci_high (paired, over questions)
episodes: method, source, instance_id, memory (key of its record), memory_tokens, and `questions`: question, kind,
  gold, answer, score, rouge_l (of summaries), retrieved ([kind, id, score, chunk, text])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from memalpha_jax.episodes.chunkers import CountTokens
from memalpha_jax.leaderboard.run import Cell, passages_of
from memalpha_jax.leaderboard.store import Store
from memalpha_jax.report.statistics import Estimate, question_interval

REFERENCE = "memalpha"
"""Every method is compared with this one, if it takes part."""

Scores = list[list[float]]
"""Per episode, of each question; None where the answer failed for good."""


def summarise(cells: Sequence[Cell], store: Store, count_tokens: CountTokens, bootstrap: int) -> dict[str, Any]:
    """The content of `results.json`; the same for the same stored records."""
    episodes, rows, scores = [], [], {}
    for cell in cells:
        records = [store.read_memory(key) for key in cell.memories]
        answers = [store.all_answers(key, len(e.questions)) for key, e in zip(cell.answers, cell.episodes, strict=True)]
        scores[cell.method, cell.source] = [[a["score"] for a in given] for given in answers]
        row = _row(cell, records, scores[cell.method, cell.source], count_tokens, bootstrap)
        rows.append({**row, "rouge_l": _rouge_l(answers)})
        episodes += [_episode(cell, i, records[i], answers[i]) for i in range(len(cell.episodes))]
    return {
        "rows": rows,
        "averages": _averages(rows),
        "differences": _differences(cells, scores, bootstrap),
        "episodes": episodes,
    }


def timings(cells: Sequence[Cell], store: Store) -> list[dict[str, Any]]:
    """Seconds that writing took per chunk, of each method and source; they differ from run to run."""
    found = []
    for cell in cells:
        seconds = sum(store.read_memory(key)["seconds"] for key in cell.memories)
        chunks = sum(len(episode.chunks) for episode in cell.episodes)
        found.append({"method": cell.method, "source": cell.source, "seconds_per_chunk": seconds / chunks})
    return found


def _row(
    cell: Cell, records: Sequence[Mapping], scores: Scores, count_tokens: CountTokens, bootstrap: int
) -> dict[str, Any]:
    estimate = question_interval(scores, bootstrap)
    chunks = sum(len(episode.chunks) for episode in cell.episodes)
    questions = sum(len(episode.questions) for episode in cell.episodes)
    streams = [sum(count_tokens(chunk) for chunk in episode.chunks) for episode in cell.episodes]

    def total(name: str) -> int:
        return sum(record[name] for record in records)

    return {
        "method": cell.method,
        "source": cell.source,
        "episodes": len(cell.episodes),
        "questions": questions,
        "failed": sum(score is None for own in scores for score in own),
        **_interval("accuracy", estimate),
        "memory_tokens": float(np.mean([record["memory_tokens"] for record in records])),
        "stream_tokens": float(np.mean(streams)),
        "write_calls": total("write_calls") / chunks,
        "read_calls": sum(c["calls"] for record in records for c in record["contexts"]) / questions,
        "tokens": (total("prompt_tokens") + total("reply_tokens")) / chunks,
    }


def _rouge_l(answers: Sequence[Sequence[Mapping[str, Any]]]) -> float | None:
    own = [[answer["rouge_l"] for answer in given if "rouge_l" in answer] for given in answers]
    means = [np.mean(values) for values in own if values]
    return float(np.mean(means)) if means else None


def _interval(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    """Nothing where every answer failed."""
    if estimate is None:
        return {name: None, "ci_low": None, "ci_high": None}
    return {name: estimate.mean, "ci_low": estimate.low, "ci_high": estimate.high}


def _averages(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = [row["accuracy"] for row in rows if row["method"] == method and row["accuracy"] is not None]
        found.append({"method": method, "accuracy": float(np.mean(cells)) if cells else None, "cells": len(cells)})
    return found


def _differences(cells: Sequence[Cell], scores: Mapping, bootstrap: int) -> list[dict[str, Any]]:
    """The reference minus every other method, on the questions that both answered."""
    found = []
    for cell in cells:
        ours = scores.get((REFERENCE, cell.source))
        if cell.method == REFERENCE or ours is None:
            continue
        theirs = scores[cell.method, cell.source]
        pairs = [
            [None if a is None or b is None else a - b for a, b in zip(own, other, strict=True)]
            for own, other in zip(ours, theirs, strict=True)
        ]
        estimate = question_interval(pairs, bootstrap)
        names = {"method": REFERENCE, "baseline": cell.method, "source": cell.source}
        found.append({**names, **_interval("difference", estimate)})
    return found


def _episode(cell: Cell, i: int, record: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    episode = cell.episodes[i]
    questions = [
        {
            "question": question.question,
            "kind": question.kind,
            "gold": question.answer,
            **answer,
            "retrieved": [[p.kind, p.id, p.score, p.chunk, p.text] for p in passages_of(record, context)],
        }
        for question, context, answer in zip(episode.questions, record["contexts"], answers, strict=True)
    ]
    return {
        "method": cell.method,
        "source": cell.source,
        "instance_id": episode.instance_id,
        "memory": cell.memories[i],
        "memory_tokens": record["memory_tokens"],
        "questions": questions,
    }
