"""The results as Markdown: methods down, sources across."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memalpha_jax.report.tables import interval, markdown_table, percent


def results_markdown(results: Mapping[str, Any], timings: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy with its interval and memory tokens of every cell, the average, what it cost, and what each method is.

    `timings`: as `summary.timings` gives them.
    """
    rows = results["rows"]
    cells = {(row["method"], row["source"]): row for row in rows}
    sources, methods = list(dict.fromkeys(r["source"] for r in rows)), list(dict.fromkeys(r["method"] for r in rows))
    averages = {entry["method"]: entry["accuracy"] for entry in results["averages"]}

    def table(cell, average) -> str:
        body = [[m, *(cell(cells[m, s]) for s in sources), average(m)] for m in methods]
        return markdown_table(["method", *sources, "average"], body)

    def memory(method: str) -> str:
        return f"{_mean(rows, method, 'memory_tokens'):.0f}"

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
        "## Cost",
        "",
        _cost(rows, timings),
        "",
        "Calls and tokens are those of a language model; seconds pass until a chunk is read, with the episodes of a "
        "batch side by side. Means over sources.",
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


def _cost(rows: Sequence[Mapping[str, Any]], timings: Sequence[Mapping[str, Any]]) -> str:
    """What writing and reading took, a line per method."""
    seconds = {
        method: _mean(timings, method, "seconds_per_chunk") for method in dict.fromkeys(r["method"] for r in rows)
    }
    body = [
        [
            method,
            *(f"{_mean(rows, method, name):.2f}" for name in ("write_calls", "read_calls")),
            f"{_mean(rows, method, 'tokens'):.0f}",
            f"{spent:.3f}",
        ]
        for method, spent in seconds.items()
    ]
    return markdown_table(["method", "calls/chunk", "calls/question", "tokens/chunk", "seconds/chunk"], body)


def _mean(rows: Sequence[Mapping[str, Any]], method: str, name: str) -> float:
    own = [row[name] for row in rows if row["method"] == method]
    return sum(own) / len(own)


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
