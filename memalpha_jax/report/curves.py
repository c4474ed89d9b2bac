"""Lines of a run's metrics as curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

REWARDS = {
    "total": "total",
    "r1": "r1 answers",
    "r2": "r2 calls succeed",
    "r3": "r3 compression",
    "r4": "r4 right list",
}
"""The reward and its components, before weighting."""


def series(metrics: Sequence[Mapping[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """Steps and finite values of one key."""
    points = [(m["step"], m[key]) for m in metrics if isinstance(m.get(key), (int, float))]
    points = [(step, value) for step, value in points if math.isfinite(value)]
    return [step for step, _ in points], [value for _, value in points]


def smooth(values: Sequence[float], keep: float = 0.8) -> list[float]:
    """Exponential moving average, unbiased at the start."""
    smoothed, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        smoothed.append(total / weight)
    return smoothed


def reward_series(metrics: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[int], list[float]]]:
    """By label, the curves of `REWARDS` that were logged; those over all sources where there are several."""
    found = {}
    for name, label in REWARDS.items():
        keys = [key for key in (f"reward/{name}", f"reward/all/{name}") if any(key in m for m in metrics)]
        steps, values = series(metrics, keys[0]) if keys else ([], [])
        if steps:
            found[label] = steps, values
    return found


def accuracy_series(metrics: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[int], list[float]]]:
    """By key, the accuracies that were measured while training."""
    keys = sorted({key for m in metrics for key in m if key.startswith("eval/") and key.endswith("accuracy")})
    curves = {key: series(metrics, key) for key in keys}
    return {key: curve for key, curve in curves.items() if curve[0]}
