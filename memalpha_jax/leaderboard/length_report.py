"""From the records of a length study to its table and its picture.

Results (`length.json`):
  rows: one for each length: tokens (asked for), stream_tokens (read, mean), episodes, chunks, questions, accuracy,
    ci_low, ci_high (over questions), by_kind ({kind: [accuracy, questions]}), memory_tokens, items, memory_bytes,
    index_bytes (means over episodes), bytes_per_token (both, per stored token), growth_seconds (of all), and for
    "seconds" and "cpu_seconds" of a chunk: median, mean, and the same over the last tenth of each stream.
  ratios: of these numbers, those of the longest stream over those of the reference; bounds: what they may be at most.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display; must come before pyplot
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from memalpha_jax.report.statistics import question_interval
from memalpha_jax.report.tables import interval, markdown_table, percent

CLOCKS = ("seconds", "cpu_seconds")
STATISTICS = ("median", "mean", "last_median", "last_mean")
MOST_SECONDS_RATIO, MOST_BYTES = 1.3, 64.0
LAST = 10


def short(tokens: float) -> str:
    """1000 as 1k, 1000000 as 1M."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if tokens >= size:
            return f"{tokens / size:.3g}{unit}"
    return f"{tokens:.0f}"


def length_results(records: Sequence[Mapping[str, Any]], reference: int, bootstrap: int) -> dict[str, Any]:
    """The content of `length.json`, made of the records of all lengths, shortest first."""
    rows = [_row(record, bootstrap) for record in records]
    base = next(row for row in rows if row["tokens"] == reference)
    ratios = {clock: {name: rows[-1][clock][name] / base[clock][name] for name in STATISTICS} for clock in CLOCKS}
    questions = {str(record["tokens"]): [e["questions"] for e in record["episodes"]] for record in records}
    bounds = {"seconds_ratio": MOST_SECONDS_RATIO, "bytes_per_token": MOST_BYTES}
    return {"rows": rows, "reference": reference, "ratios": ratios, "bounds": bounds, "questions": questions}


def _row(record: Mapping[str, Any], bootstrap: int) -> dict[str, Any]:
    episodes = record["episodes"]
    asked = [question for episode in episodes for question in episode["questions"]]
    estimate = question_interval([[q["score"] for q in episode["questions"]] for episode in episodes], bootstrap)
    assert estimate is not None  # an episode has a question, and a generated answer is always scored
    kinds = {kind: [q["score"] for q in asked if q["kind"] == kind] for kind in sorted({q["kind"] for q in asked})}

    def mean(name: str) -> float:
        return float(np.mean([episode[name] for episode in episodes]))

    stored = sum(episode["memory_tokens"] for episode in episodes)
    held = sum(episode["memory_bytes"] + episode["index_bytes"] for episode in episodes)
    return {
        "tokens": record["tokens"],
        "stream_tokens": float(np.mean([sum(episode["chunk_tokens"]) for episode in episodes])),
        "episodes": len(episodes),
        "chunks": sum(len(episode["seconds"]) for episode in episodes),
        "questions": len(asked),
        "accuracy": estimate.mean,
        "ci_low": estimate.low,
        "ci_high": estimate.high,
        "by_kind": {kind: [float(np.mean(scores)), len(scores)] for kind, scores in kinds.items()},
        **{name: mean(name) for name in ("memory_tokens", "items", "memory_bytes", "index_bytes")},
        "bytes_per_token": held / stored if stored else None,
        "growth_seconds": sum(episode["growth_seconds"] for episode in episodes),
        **{clock: _clocked([episode[clock] for episode in episodes]) for clock in CLOCKS},
    }


def _clocked(seconds_ET: Sequence[Sequence[float | None]]) -> dict[str, float]:
    """Statistics over the chunks of all streams; chunks without a measurement are left out."""
    streams = [np.array(own, np.float64) for own in seconds_ET]
    everything = np.concatenate(streams)
    last = np.concatenate([own[len(own) - -(-len(own) // LAST) :] for own in streams])
    values = {"median": np.nanmedian(everything), "mean": np.nanmean(everything)}
    values |= {"last_median": np.nanmedian(last), "last_mean": np.nanmean(last)}
    return {name: float(value) for name, value in values.items()}


def length_markdown(results: Mapping[str, Any]) -> str:
    """One line for each length, and how the longest compares with the reference."""
    rows, ratios, bounds = results["rows"], results["ratios"], results["bounds"]
    header = ["stream", "streams", "questions", "accuracy in %", "95 % interval", "memory tokens", "items"]
    header += ["ms per chunk", "mean", "last tenth", "mean", "CPU ms per chunk", "bytes per token", "growth s"]
    body = [_line(row) for row in rows]
    names = ("median", "mean", "median over the last tenth", "mean over the last tenth")
    pair = f"{short(rows[-1]['tokens'])} over {short(results['reference'])}"
    table = [
        [clock, *(f"{ratios[key][name]:.2f}" for name in STATISTICS)]
        for key, clock in zip(CLOCKS, ("seconds", "CPU seconds"), strict=True)
    ]
    kinds = sorted({kind for row in rows for kind in row["by_kind"]})
    return "\n".join(
        [
            "# Accuracy and cost by length of the stream",
            "",
            markdown_table(header, body),
            "",
            "Times are medians over chunks where nothing else is said; making room in the memory, and compiling for "
            "it, is counted apart, as growth. Bytes are those of the memory and of the index of its items, unused "
            "room included, per stored token.",
            "",
            f"## Cost of a chunk, {pair} tokens",
            "",
            markdown_table(["ratio", *names], table),
            "",
            f"To be at most {bounds['seconds_ratio']}, with at most {bounds['bytes_per_token']:.0f} bytes per token.",
            "",
            "## Accuracy by kind of question, in % (questions)",
            "",
            markdown_table(["stream", *kinds], [[short(row["tokens"]), *_by_kind(row, kinds)] for row in rows]),
            "",
            "The names of the generated world are few: the longer a stream, the more of its statements, and so of the "
            "questions about it, are events.",
            "",
        ]
    )


def _line(row: Mapping[str, Any]) -> list[str]:
    ms = [f"{1000 * row['seconds'][name]:.1f}" for name in STATISTICS]
    return [
        short(row["tokens"]),
        str(row["episodes"]),
        str(row["questions"]),
        percent(row["accuracy"]),
        interval(row["ci_low"], row["ci_high"]),
        f"{row['memory_tokens']:.0f}",
        f"{row['items']:.0f}",
        *ms,
        f"{1000 * row['cpu_seconds']['median']:.1f}",
        "-" if row["bytes_per_token"] is None else f"{row['bytes_per_token']:.1f}",
        f"{row['growth_seconds']:.1f}",
    ]


def _by_kind(row: Mapping[str, Any], kinds: Sequence[str]) -> list[str]:
    found = row["by_kind"]
    return [f"{percent(found[kind][0])} ({found[kind][1]})" if kind in found else "-" for kind in kinds]


def draw_lengths(results: Mapping[str, Any]) -> bytes:
    """A PNG of four panels over the length of the stream: accuracy, memory, time and bytes."""
    rows = results["rows"]
    figure, axes = plt.subplots(2, 2, figsize=(12, 8), constrained_layout=True)
    try:
        _accuracy_panel(axes[0, 0], rows)
        _panel(axes[0, 1], rows, {"memory tokens": [row["memory_tokens"] for row in rows]}, "Memory", "tokens")
        axes[0, 1].plot(_lengths(rows), [row["stream_tokens"] for row in rows], ":", label="the whole stream")
        axes[0, 1].set(yscale="log", ylim=(10, None))
        milliseconds = {
            "median": [1000 * row["seconds"]["median"] for row in rows],
            "mean": [1000 * row["seconds"]["mean"] for row in rows],
            "mean over the last tenth": [1000 * row["seconds"]["last_mean"] for row in rows],
            "CPU, median": [1000 * row["cpu_seconds"]["median"] for row in rows],
        }
        _panel(axes[1, 0], rows, milliseconds, "Time per chunk", "ms")
        stored = [max(1.0, row["memory_tokens"]) for row in rows]
        held = {
            "memory and index": [row["bytes_per_token"] or 0.0 for row in rows],
            "memory alone": [row["memory_bytes"] / tokens for row, tokens in zip(rows, stored, strict=True)],
        }
        _panel(axes[1, 1], rows, held, "Memory state per stored token", "bytes")
        for axis in axes.flat:
            axis.legend(fontsize=8)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=110)
        return png.getvalue()
    finally:
        plt.close(figure)


def _lengths(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    return [row["tokens"] for row in rows]


def _accuracy_panel(axis: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    _panel(axis, rows, {}, "Accuracy, with 95 % intervals", "%")
    accuracy = np.array([row["accuracy"] for row in rows])
    ends = np.array([[row["ci_low"] for row in rows], [row["ci_high"] for row in rows]])
    errors = 100 * np.maximum(0, np.abs(ends - accuracy))
    style = {"marker": "o", "capsize": 3, "color": "#1a73e8", "label": "all questions"}
    axis.errorbar(_lengths(rows), 100 * accuracy, yerr=errors, **style)
    axis.set_ylim(0, 102)


def _panel(
    axis: Axes, rows: Sequence[Mapping[str, Any]], lines: Mapping[str, Sequence[float]], title: str, unit: str
) -> None:
    for label, values in lines.items():
        axis.plot(_lengths(rows), values, marker="o", label=label)
    axis.set_xscale("log")
    axis.set_xticks(_lengths(rows), [short(tokens) for tokens in _lengths(rows)])
    axis.minorticks_off()
    if lines:
        axis.set_ylim(bottom=0)
    axis.set_title(title, fontsize=11)
    axis.set_xlabel("tokens of the stream")
    axis.set_ylabel(unit)
    axis.grid(alpha=0.3)
