"""One HTML file that shows a comparison: it needs nothing from the network, and runs nothing that came with the data.

Numbers are decided here and by `leaderboard.summary`; the scripts of `page/` draw them. Data lie in elements that no
browser executes, with `<` escaped, and get into the page as text nodes alone. A content security policy with the hash
of the one script and of the style forbids everything else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from memalpha_jax.report.curves import accuracy_series, reward_series, smooth
from memalpha_jax.report.packing import TracedEpisode, pack
from memalpha_jax.report.pareto import trade_offs
from memalpha_jax.report.published import beside_published

SCRIPTS = (
    "dom.js",
    "tables.js",
    "chart.js",
    "rows.js",
    "tradeoff.js",
    "curves.js",
    "diff.js",
    "memory.js",
    "pager.js",
    "trace.js",
    "questions.js",
    "app.js",
)
"""In the order in which they are joined."""


def page(
    results: Mapping[str, Any],
    traced: Sequence[TracedEpisode] = (),
    *,
    facts: Mapping[str, str] | None = None,
    lengths: Sequence[Mapping[str, Any]] = (),
    metrics: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The page.

    Args:
      results: as `results.json` has them. traced: episodes to step through.
      facts: what else was the same for all methods, by name.
      lengths: one entry per length of stream: length_tokens, accuracy, ci_low, ci_high in [0, 1], memory_tokens,
        seconds_per_chunk, bytes_per_token.
      metrics: lines of the `metrics.jsonl` of the run that trained the policy.
    """
    content = {
        "about": results["about"],
        "rows": results["rows"],
        "averages": results["averages"],
        "differences": results["differences"],
        "facts": dict(facts or {}),
        "published": beside_published(results),
        "trade_offs": trade_offs(results["rows"]),
        "lengths": list(lengths),
        "training": _training(metrics),
        "traces": _index(results["episodes"], traced),
    }
    style, script = _file("style.css"), "".join(_file(name) for name in SCRIPTS)
    parts = {
        "policy": _policy(style, script),
        "style": style,
        "script": script,
        "data": json_for_html(content),
        "traces": "\n".join(_block(i, one) for i, one in enumerate(traced)),
    }
    # One pass: what is filled in may itself look like a place to fill.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match.group(1)], _file("index.html"))


def json_for_html(value: Any) -> str:
    """JSON in ASCII without `<`, so that it ends no element and starts no comment; parses back to `value`."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _file(name: str) -> str:
    return (resources.files(__package__) / "page" / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Allows the one script and the one style by their hashes: no network, no handlers in attributes, no forms."""

    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    rules = {
        "default-src": "'none'",
        "script-src": source(script),
        "style-src": source(style),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _block(number: int, traced: TracedEpisode) -> str:
    return f'<script type="application/gzip;base64" id="trace-{number}">{pack(traced)}</script>'


def _training(metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Charts of a training run: the reward with its components, and the accuracies that were measured meanwhile."""
    found = []
    for title, unit, curves in (
        ("Reward and its components before weighting", "reward", reward_series(metrics)),
        ("Held-out accuracy while training", "accuracy", accuracy_series(metrics)),
    ):
        if curves:
            drawn = [
                {"name": name, "steps": steps, "values": values, "smooth": smooth(values)}
                for name, (steps, values) in curves.items()
            ]
            found.append({"title": title, "unit": unit, "curves": drawn})
    return found


def _index(episodes: Sequence[Mapping[str, Any]], traced: Sequence[TracedEpisode]) -> list[dict[str, Any]]:
    """Every episode of every method: the number of its block in this page, if it is there, and its file."""
    blocks = {
        (one.source, one.episode.instance_id, trace.method): number
        for number, one in enumerate(traced)
        for trace in one.traces
    }
    return [
        {
            "method": e["method"],
            "source": e["source"],
            "episode": e["instance_id"],
            "file": f"memories/{e['memory']}.json",
            "block": blocks.get((e["source"], e["instance_id"], e["method"])),
        }
        for e in episodes
    ]
