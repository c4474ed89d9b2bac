"""The picture of a run: what training did, and what it was good for."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display; must come before pyplot
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from memalpha_jax.report.curves import accuracy_series, reward_series, smooth
from memalpha_jax.report.tables import ALL, Row, ordered

COLOURS = {
    "warm_start": "#9aa0a6",
    "trained": "#1a73e8",
    "random_chooser": "#f9ab00",
    "oracle": "#188038",
    "bm25_rag": "#c5221f",
}


def draw_curves(metrics: Sequence[Mapping[str, Any]], rows: Sequence[Row], source: str) -> bytes:
    """A PNG of four panels: reward and accuracy by training step, accuracy by kind of question and by length.

    Args:
      metrics: lines of `metrics.jsonl`; may be empty. rows: those of `source` are drawn.
    """
    own = [row for row in rows if row.source == source]
    figure, axes = plt.subplots(2, 2, figsize=(13, 9), constrained_layout=True)
    try:
        _reward_panel(axes[0, 0], metrics)
        _accuracy_panel(axes[0, 1], metrics, own)
        _kinds_panel(axes[1, 0], own)
        _length_panel(axes[1, 1], own)
        figure.suptitle(f"Training and held-out evaluation: {source} episodes", fontsize=14)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=110)
        return png.getvalue()
    finally:
        plt.close(figure)


def _reward_panel(axis: Axes, metrics: Sequence[Mapping[str, Any]]) -> None:
    for label, (steps, values) in reward_series(metrics).items():
        (line,) = axis.plot(steps, smooth(values), label=label, linewidth=2)
        axis.plot(steps, values, color=line.get_color(), alpha=0.25, linewidth=1)
    _finish(axis, "Reward while training, smoothed; components before weighting", "GRPO step", "reward")


def _accuracy_panel(axis: Axes, metrics: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> None:
    for i, (key, (steps, values)) in enumerate(accuracy_series(metrics).items()):
        colour = COLOURS["trained"] if i == 0 else None
        axis.plot(steps, [100 * v for v in values], marker="o", color=colour, label=f"{key}, while training")
    lengths = _lengths(rows)
    for row in rows:
        if row.kind == ALL and row.length == lengths[0]:
            style = {"color": COLOURS.get(row.policy), "linestyle": "--", "linewidth": 1.2}
            axis.axhline(100 * row.accuracy, label=f"{row.policy} {100 * row.accuracy:.1f}", **style)
    axis.set_ylim(0, 102)
    _finish(axis, "Held-out question accuracy (dashed: final, 1x)", "GRPO step", "accuracy in %")


def _kinds_panel(axis: Axes, rows: Sequence[Row]) -> None:
    lengths = _lengths(rows)
    first = [row for row in rows if lengths and row.length == lengths[0]]
    kinds, policies = list(dict.fromkeys(row.kind for row in first)), ordered([row.policy for row in first])
    width = 0.85 / max(1, len(policies))
    for i, policy in enumerate(policies):
        own = {row.kind: row for row in first if row.policy == policy}
        places = [k + (i - (len(policies) - 1) / 2) * width for k, kind in enumerate(kinds) if kind in own]
        shown = [own[kind] for kind in kinds if kind in own]
        style = {"color": COLOURS.get(policy), "label": policy}
        axis.bar(places, [100 * r.accuracy for r in shown], width, yerr=_errors(shown), capsize=1.5, **style)
    axis.set_xticks(range(len(kinds)), [kind.replace("_", "\n") for kind in kinds], fontsize=7.5)
    axis.set_ylim(0, 116)  # room for the legend above the bars
    axis.set_yticks(range(0, 101, 20))
    _finish(axis, "Accuracy by question kind at 1x, with 95 % intervals", "", "accuracy in %", columns=5)


def _length_panel(axis: Axes, rows: Sequence[Row]) -> None:
    lengths = _lengths(rows)
    overall = [row for row in rows if row.kind == ALL]
    for policy in ordered([row.policy for row in overall]):
        own = {row.length: row for row in overall if row.policy == policy}
        shown = [own[length] for length in lengths if length in own]
        places = [lengths.index(row.length) for row in shown]
        style = {"marker": "o", "capsize": 3, "color": COLOURS.get(policy), "label": policy}
        axis.errorbar(places, [100 * row.accuracy for row in shown], yerr=_errors(shown), **style)
    axis.set_xticks(range(len(lengths)), lengths)
    axis.set_xlim(-0.3, max(1, len(lengths)) - 0.7)
    axis.set_ylim(0, 102)
    _finish(
        axis,
        "Accuracy by episode length, with 95 % intervals",
        "multiple of the training length",
        "accuracy in %",
    )


def _errors(rows: Sequence[Row]) -> list[list[float]]:
    below = [100 * max(0.0, row.accuracy - row.ci_low) for row in rows]
    return [below, [100 * max(0.0, row.ci_high - row.accuracy) for row in rows]]


def _lengths(rows: Sequence[Row]) -> list[str]:
    return sorted({row.length for row in rows}, key=lambda length: int(length.rstrip("x")))


def _finish(axis: Axes, title: str, x: str, y: str, columns: int = 1) -> None:
    axis.set_title(title, fontsize=11)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[1]:
        place = "best" if columns == 1 else "upper center"
        axis.legend(fontsize=8, loc=place, ncol=columns, framealpha=0.85, columnspacing=1.0)
    else:
        axis.text(0.5, 0.5, "nothing was logged", ha="center", va="center", transform=axis.transAxes)
