"""The table and the JSON of one benchmark."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from memalpha_jax.benchmarks.timing import Device, Timing
from memalpha_jax.benchmarks.work import Work
from memalpha_jax.report.tables import markdown_table, percent

OURS, PEER, BM25_PEER = "memalpha_jax", "transformers", "rank_bm25"
HEADER = ["part", "by", "tokens", "GFLOP", "GB", "s, min", "s, median", "tokens/s", "% of copy", "% of matmul"]


@dataclasses.dataclass(frozen=True)
class Measured:
    """One part of the work, by one implementation. work: None where there is nothing to count."""

    part: str
    by: str
    timing: Timing
    work: Work | None


@dataclasses.dataclass(frozen=True)
class Result:
    """What a benchmark found.

    Attributes:
      measured: its parts. checks: what shows that both implementations did the same, and notes, by name.
      peer: the other implementation.
    """

    measured: list[Measured]
    checks: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    peer: str = PEER


def fractions(one: Measured, device: Device) -> tuple[float | None, float | None]:
    """Shares of the copy bandwidth and of the matmul rate that the fastest repeat reached; None: not bound by it."""
    if one.work is None or one.timing.min <= 0:
        return None, None
    copied = one.work.moved / device.copy_bandwidth / one.timing.min
    multiplied = one.work.flops / device.matmul_rate / one.timing.min
    return copied or None, multiplied or None


def ratios(result: Result) -> dict[str, dict[str, float]]:
    """Our time over the peer's for every part that both were timed at, of the minima and of the medians."""
    timing = {(one.part, one.by): one.timing for one in result.measured}
    found = {}
    for (part, by), ours in timing.items():
        if by == OURS and (theirs := timing.get((part, result.peer))):
            found[part] = {"min": ours.min / theirs.min, "median": ours.median / theirs.median}
    return found


def as_text(result: Result, device: Device) -> str:
    """The table and the lines below it."""
    body = []
    for one in result.measured:
        work, (copied, multiplied) = one.work, fractions(one, device)
        counted = ["-"] * 4
        if work is not None:
            counted = [f"{work.tokens}", f"{work.flops / 1e9:.1f}", f"{work.moved / 1e9:.2f}" if work.moved else "-"]
            counted.append(f"{work.tokens / one.timing.min:.0f}" if work.tokens and one.timing.min > 0 else "-")
        times = [f"{one.timing.min:.3f}", f"{one.timing.median:.3f}"]
        body.append([one.part, one.by, *counted[:3], *times, counted[3], percent(copied), percent(multiplied)])
    lines = [
        markdown_table(HEADER, body),
        "",
        f"device: {device.name} ({device.platform}); in the same call it copied {device.copy_bandwidth / 1e9:.1f} GB/s "
        f"(read and written) and multiplied matrices at {device.matmul_rate / 1e12:.3f} TFLOP/s",
    ]
    if device.peak_bytes is not None:
        lines.append(f"memory of the device that {OURS} had in use at most: {device.peak_bytes / 2**30:.1f} GiB")
    lines += [
        f"{OURS} / {result.peer}, {part}: {ratio['min']:.2f} (minima), {ratio['median']:.2f} (medians)"
        for part, ratio in ratios(result).items()
    ]
    return "\n".join([*lines, *(f"{name}: {value}" for name, value in result.checks.items())])


def as_json(result: Result, device: Device, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same figures in seconds, bytes, operations and shares."""
    rows = []
    for one in result.measured:
        copied, multiplied = fractions(one, device)
        counted = one.work._asdict() if one.work else {}
        shares = {"share_of_copy_bandwidth": copied, "share_of_matmul_rate": multiplied}
        rows.append({"part": one.part, "by": one.by, **dataclasses.asdict(one.timing), **counted, **shares})
    return {
        "settings": dict(settings),
        "device": {
            "name": device.name,
            "platform": device.platform,
            "copy_bytes_per_second": device.copy_bandwidth,
            "matmul_flops_per_second": device.matmul_rate,
            "peak_bytes_in_use": device.peak_bytes,
        },
        "measured": rows,
        "ratios": ratios(result),
        "checks": dict(result.checks),
    }
