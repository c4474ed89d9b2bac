"""The published results of arXiv 2509.25911, tables 1 and 2, and ours beside them.

Printed averages are not always the mean of the printed cells, so both are kept. The published episodes are other draws
than ours, and their reader is Qwen3-32B: a column of the same name shares the scoring rule, no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Column:
    """A benchmark: its published name, and the names that the source has here."""

    name: str
    sources: tuple[str, ...]


@dataclass(frozen=True)
class PublishedRow:
    """One method as printed.

    Attributes:
      name: as printed. model: that wrote the memory, or has the context. method: the one of ours that does the same.
      accuracy: per column, in [0, 1]. memory: per column, in thousands of tokens.
      printed_accuracy, printed_memory: the averages as printed.
    """

    name: str
    model: str
    method: str
    accuracy: tuple[float, ...]
    memory: tuple[float, ...]
    printed_accuracy: float
    printed_memory: float


@dataclass(frozen=True)
class PublishedTable:
    title: str
    columns: tuple[Column, ...]
    rows: tuple[PublishedRow, ...]


VALIDATION = PublishedTable(
    "Validation set, in distribution (table 1)",
    (
        Column("SQuAD", ("squad", "squad:training")),
        Column("HotpotQA", ("hotpotqa", "hotpotqa:training")),
        Column("PerLTQA", ("perltqa", "perltqa:training")),
        Column("TREC-C", ("trec_coarse", "trec_coarse:training")),
        Column("NLU", ("nlu", "nlu:training")),
        Column("PubMed", ("pubmed_rct", "pubmed_rct:training")),
        Column("BookSum", ("booksum", "booksum:training")),
    ),
    (
        PublishedRow(
            "Mem-α",
            "Qwen3-4B",
            "memalpha",
            (0.786, 0.832, 0.659, 0.666, 0.658, 0.545, 0.187),
            (10.1, 8.7, 11.2, 4.0, 6.5, 12.3, 2.2),
            0.642,
            7.9,
        ),
        PublishedRow(
            "Long-Context",
            "Qwen3-32B, 32k",
            "long_context",
            (0.742, 0.852, 0.605, 0.623, 0.708, 0.533, 0.052),
            (10.6, 9.7, 13.1, 3.9, 6.1, 16.7, 15.4),
            0.588,
            10.8,
        ),
        PublishedRow(
            "RAG-Top2",
            "Qwen3-32B",
            "bm25_rag",
            (0.762, 0.849, 0.623, 0.612, 0.508, 0.570, 0.042),
            (10.6, 9.7, 16.7, 3.9, 6.1, 16.7, 15.6),
            0.567,
            11.3,
        ),
        PublishedRow(
            "MemAgent",
            "14B",
            "memagent",
            (0.091, 0.140, 0.052, 0.562, 0.290, 0.343, 0.103),
            (0.79, 0.76, 0.29, 1.24, 0.99, 0.94, 0.59),
            0.236,
            0.84,
        ),
        PublishedRow(
            "MEM1",
            "Qwen2.5-7B",
            "mem1",
            (0.039, 0.083, 0.068, 0.269, 0.056, 0.175, 0.085),
            (0.16, 0.22, 0.14, 0.23, 0.22, 0.08, 0.16),
            0.111,
            0.17,
        ),
    ),
)

MEMORY_AGENT_BENCH = PublishedTable(
    "MemoryAgentBench, out of distribution (table 2)",
    (
        Column("RULER-QA1", ("ruler_qa1", "ruler_qa1:evaluation")),
        Column("RULER-QA2", ("ruler_qa2", "ruler_qa2:evaluation")),
        Column("LME(S*)", ("longmemeval_s", "longmemeval_s:evaluation")),
        Column("TREC-C", ("trec_coarse:evaluation",)),
        Column("NLU", ("nlu:evaluation",)),
        Column("TREC-F", ("trec_fine", "trec_fine:evaluation")),
        Column("CLINIC", ("clinic150", "clinic150:evaluation")),
        Column("BANKING77", ("banking77", "banking77:evaluation")),
        Column("InfBench-Sum", ("infbench_sum", "infbench_sum:evaluation")),
    ),
    (
        PublishedRow(
            "Mem-α",
            "Qwen3-4B",
            "memalpha",
            (0.740, 0.680, 0.520, 0.710, 0.710, 0.410, 0.730, 0.700, 0.129),
            (160, 323, 127, 120, 142, 123, 18, 133, 19),
            0.592,
            129,
        ),
        PublishedRow(
            "Long-Context",
            "Qwen3-32B, 32k",
            "long_context",
            (0.280, 0.270, 0.292, 0.640, 0.740, 0.340, 0.860, 0.770, 0.125),
            (33, 33, 33, 33, 33, 33, 33, 33, 33),
            0.461,
            33,
        ),
        PublishedRow(
            "RAG-Top2",
            "Qwen3-32B",
            "bm25_rag",
            (0.690, 0.450, 0.581, 0.690, 0.650, 0.210, 0.700, 0.750, 0.065),
            (217, 474, 348, 124, 134, 126, 131, 128, 181),
            0.502,
            207,
        ),
        PublishedRow(
            "MemAgent",
            "14B",
            "memagent",
            (0.070, 0.160, 0.050, 0.370, 0.260, 0.210, 0.250, 0.370, 0.043),
            (1.02, 1.02, 0.56, 1.02, 1.02, 0.77, 1.02, 1.02, 0.73),
            0.198,
            0.92,
        ),
        PublishedRow(
            "MEM1",
            "Qwen2.5-7B",
            "mem1",
            (0.070, 0.180, 0.090, 0.180, 0.000, 0.000, 0.090, 0.000, 0.029),
            (0.30, 0.38, 0.22, 0.16, 0.11, 0.13, 0.28, 0.11, 0.19),
            0.071,
            0.21,
        ),
    ),
)

TABLES = (VALIDATION, MEMORY_AGENT_BENCH)


def beside_published(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each published table that shares a column with `results` (of `leaderboard.summary`), and our rows for it.

    `shared` are the columns that both have, and `shared_mean` is the mean of these cells alone: the only averages of a
    published and of our row that are of the same things. It is None for a row that lacks one of them.
    """
    found = []
    for table in TABLES:
        ours = _our_rows(table, results["rows"])
        shared = [i for i in range(len(table.columns)) if any(row["accuracy"][i] is not None for row in ours)]
        if not shared:
            continue
        rows = []
        for row in table.rows:
            rows += [_published(row), *[own for own in ours if own["method"] == row.method]]
        rows += [own for own in ours if own["method"] not in {row.method for row in table.rows}]
        for entry in rows:
            entry["shared_mean"] = _mean([entry["accuracy"][i] for i in shared])
        columns = [column.name for column in table.columns]
        found.append({"title": table.title, "columns": columns, "shared": shared, "rows": rows})
    return found


def _published(row: PublishedRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "model": row.model,
        "method": row.method,
        "published": True,
        "accuracy": list(row.accuracy),
        "memory": list(row.memory),
        "printed_accuracy": row.printed_accuracy,
        "printed_memory": row.printed_memory,
        "mean_accuracy": _mean(row.accuracy),
        "mean_memory": _mean(row.memory),
    }


def _our_rows(table: PublishedTable, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = {row["source"]: row for row in rows if row["method"] == method}
        cells = [next((own[s] for s in column.sources if s in own), None) for column in table.columns]
        accuracy = [None if cell is None else cell["accuracy"] for cell in cells]
        memory = [None if cell is None else cell["memory_tokens"] / 1000 for cell in cells]
        found.append(
            {
                "name": method,
                "model": "",
                "method": method,
                "published": False,
                "accuracy": accuracy,
                "memory": memory,
                "printed_accuracy": None,
                "printed_memory": None,
                "mean_accuracy": _mean(accuracy),
                "mean_memory": _mean(memory),
            }
        )
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    """None where a value is missing: a mean of fewer cells would be of something else."""
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present and len(present) == len(values) else None
