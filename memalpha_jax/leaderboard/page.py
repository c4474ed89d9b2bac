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

SAME_IN_STUDY = ("accuracy", "ci_low", "ci_high", "memory_tokens")


def write_page(config: LeaderboardConfig, cells: Sequence[Cell], store: Store, results: Mapping[str, Any]) -> Path:
    """Writes the report beside the results. Raises UserError for a damaged record or length study."""
    metrics = Workdir(Path(config.policy.path)).metrics_file
    text = page(
        results,
        traced_episodes(cells, store, config.report.traces),
        facts=_facts(config, results),
        lengths=read_lengths(Path(config.report.length_study)) if config.report.length_study else (),
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


def read_lengths(workdir: Path) -> list[dict[str, Any]]:
    """The rows of the length study in a workdir, as the page takes them; UserError where there is none."""
    path = workdir / "length.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        return [
            {
                "length_tokens": row["stream_tokens"],
                "seconds_per_chunk": row["seconds"]["median"],
                "bytes_per_token": row["bytes_per_token"] or 0.0,  # none where nothing is stored
                **{name: row[name] for name in SAME_IN_STUDY},
            }
            for row in rows
        ]
    except KeyError as error:
        raise UserError(f"{path} has no field {error}; run the length study again") from error
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"cannot read {path}: {error}; set config.report.length_study to the workdir of a finished length study"
        ) from error


def _facts(config: LeaderboardConfig, results: Mapping[str, Any]) -> dict[str, str]:
    """What was the same for every method."""
    return {
        "reader": results["reader"],
        "graded, where no rule scores, by": results["grader"],
        "shown to the reader": f"at most {config.reader.budget:,} tokens",
        "scoring": "published rules, quirks included" if config.published else "one rule per source, see README",
        "intervals": f"95 %, bootstrap over questions, {config.bootstrap:,} resamples",
    }
