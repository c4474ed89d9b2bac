"""`report.html` of a comparison, from what its workdir holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memalpha_jax.errors import UserError
from memalpha_jax.leaderboard.config import LeaderboardConfig
from memalpha_jax.leaderboard.run import Cell
from memalpha_jax.leaderboard.store import Store
from memalpha_jax.metrics_log import read_metrics
from memalpha_jax.report.html import page
from memalpha_jax.report.packing import Trace, TracedEpisode
from memalpha_jax.workdir import Workdir, atomic_write

LENGTH_FIELDS = (
    "length_tokens", "accuracy", "ci_low", "ci_high", "memory_tokens", "seconds_per_chunk", "bytes_per_token",
)  # fmt: skip


def write_page(config: LeaderboardConfig, cells: Sequence[Cell], store: Store, results: Mapping[str, Any]) -> Path:
    """Writes the report beside the results. Raises UserError for a damaged record, or `length.json`."""
    metrics = Workdir(Path(config.policy.path)).metrics_file
    text = page(
        results,
        traced_episodes(cells, store, config.report.traces),
        facts=_facts(config, results),
        lengths=read_lengths(store.root / "length.json"),
        metrics=read_metrics(metrics) if metrics.is_file() else (),
    )
    return atomic_write(store.root / "report.html", text)


def traced_episodes(cells: Sequence[Cell], store: Store, episodes: int) -> list[TracedEpisode]:
    """The first `episodes` of each source, each with what every method made of it."""
    found = []
    for source in dict.fromkeys(cell.source for cell in cells):
        own = [cell for cell in cells if cell.source == source]
        for i, episode in enumerate(own[0].episodes[:episodes]):
            traces = [
                Trace(
                    cell.method,
                    store.read_memory(cell.memories[i]),
                    store.all_answers(cell.answers[i], len(episode.questions)),
                )
                for cell in own
            ]
            found.append(TracedEpisode(source, episode, traces))
    return found


def read_lengths(path: Path) -> list[dict[str, Any]]:
    """The length study that lies at `path`, shortest stream first; nothing where there is none."""
    if not path.is_file():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        found = [{name: entry[name] for name in LENGTH_FIELDS} for entry in entries]
    except KeyError as error:
        raise UserError(f"{path}: an entry has no field {error}; run the length study again") from error
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"cannot read {path}: {error}; run the length study again") from error
    return sorted(found, key=lambda entry: entry["length_tokens"])


def _facts(config: LeaderboardConfig, results: Mapping[str, Any]) -> dict[str, str]:
    """What was the same for every method."""
    return {
        "reader": results["reader"],
        "graded, where no rule scores, by": results["grader"],
        "shown to the reader": f"at most {config.reader.budget:,} tokens",
        "scoring": "published rules, quirks included" if config.published else "one rule per source, see README",
        "intervals": f"95 %, bootstrap over questions, {config.bootstrap:,} resamples",
    }
