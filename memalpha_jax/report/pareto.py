"""Accuracy against the length of the memory: which methods no other one beats at both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

ALL_SOURCES = "mean of all sources"


def on_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Of each (memory tokens, accuracy): whether no other point is at least as good at both and better at one."""

    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one[0] <= other[0] and one[1] >= other[1] and one != other

    return [not any(beats(one, other) for one in points) for other in points]


def trade_offs(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For all sources together and for each one: every method's point, and whether it is on the front.

    Args:
      rows: of `leaderboard.summary`. A method without an accuracy for one of the sources is in no mean of all.
    """
    sources = list(dict.fromkeys(row["source"] for row in rows))
    scored = [row for row in rows if row["accuracy"] is not None]
    panels = [(source, [row for row in scored if row["source"] == source]) for source in sources]
    if len(sources) > 1:
        panels.insert(0, (ALL_SOURCES, _means(scored, len(sources))))
    return [{"source": source, "points": _marked(points)} for source, points in panels if points]


def _means(rows: Sequence[Mapping[str, Any]], sources: int) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        if len(own) == sources:
            means = {key: float(np.mean([row[key] for row in own])) for key in ("memory_tokens", "accuracy")}
            found.append({"method": method, **means, "ci_low": None, "ci_high": None})
    return found


def _marked(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    front = on_front([(row["memory_tokens"], row["accuracy"]) for row in rows])
    keys = ("method", "memory_tokens", "accuracy", "ci_low", "ci_high")
    return [{**{key: row[key] for key in keys}, "front": marked} for row, marked in zip(rows, front, strict=True)]
