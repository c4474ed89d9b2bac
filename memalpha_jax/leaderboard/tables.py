"""The results as Markdown: methods down, sources across."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memalpha_jax.report.tables import interval, markdown_table, percent


def results_markdown(results: Mapping[str, Any]) -> str:
    """Accuracy with its interval and memory tokens of every cell, the average, and what each method is."""
    rows = results["rows"]
    cells = {(row["method"], row["source"]): row for row in rows}
    sources, methods = list(dict.fromkeys(r["source"] for r in rows)), list(dict.fromkeys(r["method"] for r in rows))
    averages = {entry["method"]: entry["accuracy"] for entry in results["averages"]}

    def table(cell, average) -> str:
        body = [[m, *(cell(cells[m, s]) for s in sources), average(m)] for m in methods]
        return markdown_table(["method", *sources, "average"], body)

    def memory(method: str) -> str:
        own = [row["memory_tokens"] for row in rows if row["method"] == method]
        return f"{sum(own) / len(own):.0f}"

    parts = [
        "# Results",
        "",
        "## Accuracy in %, and its 95 % interval over questions",
        "",
        table(_accuracy, lambda method: percent(averages[method])),
        "",
        f"Answers by: {results['reader']}. Answers that no rule scores are graded by: {results['grader']}.",
        "The average is the plain mean of the cells printed.",
        "",
        *_rouge(rows),
        "## Memory, in tokens",
        "",
        table(lambda row: f"{row['memory_tokens']:.0f}", memory),
        "",
        "## Methods",
        "",
        *[f"- {name}: {about}" for name, about in results["about"].items()],
    ]
    failed = sum(row["failed"] for row in rows)
    if failed:
        left_out = f"**{failed} answers failed for good and are left out of the means; the same command asks again.**"
        parts[2:2] = [left_out, ""]
    return "\n".join(parts) + "\n"


def _rouge(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table for the sources whose questions people answered at length."""
    found = [[row["method"], row["source"], percent(row["rouge_l"])] for row in rows if row["rouge_l"] is not None]
    return (
        ["## ROUGE-L of summaries, in %", "", markdown_table(["method", "source", "ROUGE-L"], found), ""]
        if found
        else []
    )


def _accuracy(row: Mapping[str, Any]) -> str:
    if row["accuracy"] is None:
        return "failed"
    return f"{percent(row['accuracy'])} ({interval(row['ci_low'], row['ci_high'])})"
