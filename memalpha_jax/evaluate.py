"""Evaluates a workdir's policies on held-out episodes, against scripted writers and plain retrieval.

    python -m memalpha_jax.evaluate --workdir=runs/tiny
    python -m memalpha_jax.evaluate --workdir=runs/tiny --also=published=runs/published
    python -m memalpha_jax.evaluate --workdir=runs/tiny --config=experiments/tiny.py --config.episodes.seed=1

Reads WORKDIR/warm_start and WORKDIR/checkpoints; writes results.json, results.md, curves.png and example.txt
there. Takes about a minute for the tiny policy on two CPU cores. Results of other data sources, from an
earlier call on the same workdir, are kept; a source that is not the workdir's own gets curves-SOURCE.png.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging
from ml_collections import config_flags

from memalpha_jax.command_line import define_flags
from memalpha_jax.comparison import SECTIONS, compare, held_out_episodes
from memalpha_jax.config import build
from memalpha_jax.errors import UserError, run_main
from memalpha_jax.experiment import Config
from memalpha_jax.leaderboard.evaluate import evaluate_methods
from memalpha_jax.leaderboard.length import evaluate_lengths
from memalpha_jax.metrics_log import read_metrics
from memalpha_jax.policy.hugging_face import holds_model
from memalpha_jax.policy.policy import Policy, load_policy
from memalpha_jax.report.plots import draw_curves
from memalpha_jax.report.tables import ALL, Row, results_markdown
from memalpha_jax.workdir import Workdir, atomic_write, read_config


def find_policies(workdir: Path, also: Sequence[str], start: str = "") -> dict[str, Policy]:
    """The policies of a workdir by name, and those named on the command line as NAME=PATH.

    `start`: where training started, by the run's config; used where there is no WORKDIR/warm_start. The warm start
    gets the trained policy's budgets, as it had in training: it may have been made with others.

    Raises:
      UserError: there is none, or a NAME=PATH that is not one.
    """
    places = {"warm_start": workdir / "warm_start", "trained": workdir / "checkpoints"}
    if start and not places["warm_start"].is_dir():
        places["warm_start"] = Path(start)
    found = {name: place for name, place in places.items() if place.is_dir()}
    for entry in also:
        name, equals, place = entry.partition("=")
        if not (name and equals and place) or name in places:
            raise UserError(f"--also={entry}: expected NAME=PATH, with a name other than {' and '.join(places)}")
        found[name] = Path(place)
    if not found:
        raise UserError(f"{workdir} holds neither warm_start nor checkpoints; run warmstart or train on it first")
    policies = {name: load_policy(place) for name, place in found.items()}
    if policies.keys() >= places.keys():
        memory, rollout = policies["trained"].memory, policies["trained"].rollout
        policies["warm_start"] = dataclasses.replace(policies["warm_start"], memory=memory, rollout=rollout)
    return policies


def merge_results(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`new`, and whatever `old` has about data sources that `new` does not cover."""
    covered = {row["source"] for row in new["rows"]}
    kept = {key: [e for e in old.get(key, []) if e["source"] not in covered] for key in SECTIONS}
    return {**new, **{key: new[key] + kept[key] for key in SECTIONS}}


def read_results(path: Path) -> dict[str, Any]:
    """An earlier results file; an unreadable one counts as none, it is about to be replaced."""
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        return old if all(isinstance(e["source"], str) for key in SECTIONS for e in old.get(key, [])) else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        logging.warning("%s could not be read and is replaced", path)
        return {}


def write_report(workdir: Workdir, results: dict[str, Any], source: str, suffix: str) -> str:
    """Writes results.json, results.md and the picture of `source`; returns the Markdown."""
    markdown = results_markdown(results)
    metrics = read_metrics(workdir.metrics_file) if workdir.metrics_file.exists() else []
    rows = [Row(**row) for row in results["rows"]]
    atomic_write(workdir.root / "results.json", json.dumps(results, indent=1) + "\n")
    atomic_write(workdir.root / "results.md", markdown)
    atomic_write(workdir.root / f"curves{suffix}.png", draw_curves(metrics, rows, source))
    return markdown


def write_example(workdir: Workdir, config: Config, policy: Policy, suffix: str) -> str:
    """Writes a held-out episode as a text file; returns the command that tries the agent on it."""
    episode = held_out_episodes(config, 1, 1, policy)[0]
    text = workdir.root / f"example{suffix}.txt"
    atomic_write(text, "\n\n".join(episode.chunks) + "\n")
    python = os.path.relpath(sys.executable)
    python = python if not python.startswith("..") else "python"
    questions = [f"--ask={question.question}" for question in episode.questions[:3]]
    command = [
        python,
        "-m",
        "memalpha_jax.agent",
        f"--checkpoint={workdir.root}",
        f"--input={text}",
        *questions,
    ]
    return shlex.join(command)


def headline(results: dict[str, Any], source: str) -> str:
    """Warm start, trained and lift, as far as they were evaluated, at the shortest length."""
    rows = {r["policy"]: r for r in reversed(results["rows"]) if r["kind"] == ALL and r["source"] == source}
    lines = []
    for name, words in (("warm_start", "warm start accuracy"), ("trained", "trained accuracy")):
        if name in rows:
            r = rows[name]
            ends = f"95 % interval {100 * r['ci_low']:.1f} to {100 * r['ci_high']:.1f}"
            lines.append(f"{words:<20} {100 * r['accuracy']:5.1f} %  ({ends}, {r['n']} episodes)")
    for d in results["differences"]:
        if d["source"] == source and d["baseline"] == "warm_start":
            ends = f"95 % interval {100 * d['ci_low']:+.1f} to {100 * d['ci_high']:+.1f}"
            lines.append(f"{'lift':<20} {100 * d['difference']:+5.1f} points  ({ends}, paired)")
            break
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    del argv
    config = flags.FLAGS.config
    if config is not None and "methods" in config:
        evaluate_methods(config, flags.FLAGS.workdir)
    elif config is not None and "lengths" in config:
        evaluate_lengths(config, flags.FLAGS.workdir)
    else:
        evaluate_run()


def evaluate_run() -> None:
    """The policies of one workdir, on the kind of episodes that it was trained on."""
    workdir = Workdir(Path(flags.FLAGS.workdir))
    if holds_model(workdir.root):
        raise UserError(
            f"--workdir={workdir.root} is a Hugging Face model, not the workdir of a run; give that, and the model "
            f"beside it as --also=NAME={workdir.root}"
        )
    stored = read_config(workdir.root)
    config = build(Config, stored if flags.FLAGS.config is None else flags.FLAGS.config)
    start = stored.get("policy", {}).get("path", "")
    policies = find_policies(workdir.root, flags.FLAGS.also, start)
    results = compare(policies, config)
    source = results["rows"][0]["source"]
    # Another source than the workdir's own gets files of its own.
    own = config.episodes.source == stored.get("episodes", {}).get("source")
    suffix = "" if own else f"-{re.sub('[^A-Za-z0-9]+', '-', source)}"
    everything = merge_results(read_results(workdir.root / "results.json"), results)
    print(write_report(workdir, everything, source, suffix))
    print(headline(results, source))
    print(f"{'pictures':<20} {workdir.root / f'curves{suffix}.png'}")
    print(f"{'tables':<20} {workdir.root / 'results.md'}, {workdir.root / 'results.json'}")
    best = policies.get("trained") or next(iter(policies.values()))
    print(f"{'try next':<20} {write_example(workdir, config, best, suffix)}")


if __name__ == "__main__":
    define_flags(config=False)
    config_flags.DEFINE_config_file(
        "config",
        help_string="Python file whose get_config() says what episodes to evaluate on and how; by default "
        "what the workdir was made with. Keys are set by --config.KEY=VALUE after it.",
        lock_config=True,
    )
    flags.DEFINE_multi_string("also", [], "NAME=PATH of a further policy to compare with.")
    run_main(main)
