"""Result rows and the Markdown tables made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

POLICIES = ("warm_start", "trained", "random_chooser", "oracle", "bm25_rag")
"""The order of rows; others, if any, come after."""
ALL = "all"
NO_SCRIPTS = (
    "No random_chooser and no oracle for {source}: they choose among the sentences of a chunk, and only "
    "generated episodes record which of those are asked about."
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One accuracy.

    Attributes:
      policy: who wrote the memory. source: data source of the episodes. kind: question kind, or "all".
      length: "1x", "3x", ...: multiple of the training length.
      n: episodes where kind is "all", questions elsewhere.
      accuracy: in [0, 1]. Kind "all": mean over episodes of the mean over questions; else over questions.
      ci_low, ci_high: 95 % bootstrap interval over episodes.
      memory_tokens: mean length of the final memories.
    """

    policy: str
    source: str
    kind: str
    length: str
    n: int
    accuracy: float
    ci_low: float
    ci_high: float
    memory_tokens: float


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up as plain text, too; all but the first are right-aligned."""
    rows = [list(header), *[list(row) for row in body]]
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join([line(rows[0]), line(rule), *[line(row) for row in rows[1:]]])


def percent(value: float | None) -> str:
    """A share as per cent, "-" for none."""
    return "-" if value is None else f"{100 * value:.1f}"


def interval(low: float, high: float) -> str:
    return f"{100 * low:.1f} to {100 * high:.1f}"


def accuracy_table(rows: Sequence[Row], length: str) -> str:
    """Policies down; `all` with its interval, then every question kind across. Rows of one source."""
    chosen = [row for row in rows if row.length == length]
    by_policy: dict[str, dict[str, Row]] = {}
    for row in chosen:
        by_policy.setdefault(row.policy, {})[row.kind] = row
    kinds = [kind for kind in dict.fromkeys(row.kind for row in chosen) if kind != ALL]
    header = ["policy", ALL, "95 % interval", *kinds, "memory tokens"]
    body = []
    for policy in ordered(by_policy):
        cells = by_policy[policy]
        overall = cells[ALL]
        values = [percent(cells[kind].accuracy) if kind in cells else "-" for kind in kinds]
        shown = [percent(overall.accuracy), interval(overall.ci_low, overall.ci_high)]
        body.append([policy, *shown, *values, f"{overall.memory_tokens:.0f}"])
    return markdown_table(header, body)


def calls_table(calls: Sequence[Mapping[str, Any]]) -> str:
    """What the writers did; one line per policy and length."""
    header = [
        "policy", "length", "calls/chunk", "successful", "exact copies", "repeats", "updates", "right list",
        "useful items", "memory/stream",
    ]  # fmt: skip
    shares = ("success_share", "exact_copy_share", "near_duplicate_share")
    body = [
        [
            c["policy"],
            c["length"],
            f"{c['calls_per_chunk']:.2f}",
            *(percent(c[name]) for name in shares),
            str(c["update_calls"]),
            *(percent(c[name]) for name in ("right_list_share", "useful_share", "memory_share")),
        ]
        for c in calls
    ]
    return markdown_table(header, body)


def choices_table(choices: Sequence[Mapping[str, Any]]) -> str:
    """Kinds of sentence down, policies across: per cent of the sentences that were stored. Entries of one length."""
    share = {(c["policy"], c["kind"]): c["stored_share"] for c in choices}
    count = {c["kind"]: c["n"] for c in choices}
    policies = ordered([c["policy"] for c in choices])
    body = [[kind, str(n), *(percent(share.get((policy, kind))) for policy in policies)] for kind, n in count.items()]
    return markdown_table(["sentences", "n", *policies], body)


def differences_table(differences: Sequence[Mapping[str, Any]]) -> str:
    """Paired differences in points of accuracy."""
    header = ["difference", "length", "points", "95 % interval"]
    body = [
        [
            f"{d['policy']} - {d['baseline']}",
            d["length"],
            f"{100 * d['difference']:+.1f}",
            f"{100 * d['ci_low']:+.1f} to {100 * d['ci_high']:+.1f}",
        ]
        for d in differences
    ]
    return markdown_table(header, body)


def losses_table(losses: Sequence[Mapping[str, Any]]) -> str:
    """Points of accuracy lost from the shortest length to each longer one."""
    header = ["length", "trained loses", "oracle loses", "trained loses more by", "95 % interval"]
    body = [
        [
            d["length"],
            f"{100 * d['trained_loss']:.1f}",
            f"{100 * d['oracle_loss']:.1f}",
            f"{100 * d['extra_loss']:+.1f}",
            f"{100 * d['ci_low']:+.1f} to {100 * d['ci_high']:+.1f}",
        ]
        for d in losses
    ]
    return markdown_table(header, body)


def ordered(policies: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Policies in the order of `POLICIES`, others last."""
    names = list(dict.fromkeys(policies))
    return [p for p in POLICIES if p in names] + [p for p in names if p not in POLICIES]


def results_markdown(results: Mapping[str, Any]) -> str:
    """The whole report of `results.json` as Markdown."""
    rows = [Row(**row) for row in results["rows"]]
    parts = ["# Results", *[f"- {key}: {text}" for key, text in results["about"].items()]]
    for source in dict.fromkeys(row.source for row in rows):
        own = [row for row in rows if row.source == source]
        for length in dict.fromkeys(row.length for row in own):
            parts += ["", f"## {source}, length {length}: accuracy in %", "", accuracy_table(own, length)]
        calls = [c for c in results["calls"] if c["source"] == source]
        parts += ["", f"## {source}: what the writers did (shares in %)", "", calls_table(calls)]
        choices = [c for c in results["choices"] if c["source"] == source]
        if choices:
            length = choices[0]["length"]
            chosen = [c for c in choices if c["length"] == length]
            parts += ["", f"## {source}, length {length}: sentences stored, in %", "", choices_table(chosen)]
        differences = [d for d in results["differences"] if d["source"] == source]
        if differences:
            parts += ["", f"## {source}: paired differences", "", differences_table(differences)]
        losses = [d for d in results["length_losses"] if d["source"] == source]
        if losses:
            parts += ["", f"## {source}: points lost with length", "", losses_table(losses)]
        if not any(row.policy == "oracle" for row in own):
            parts += ["", NO_SCRIPTS.format(source=source)]
    return "\n".join(parts) + "\n"
