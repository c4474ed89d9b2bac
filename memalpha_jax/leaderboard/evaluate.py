"""`python -m memalpha_jax.evaluate` for a config that names methods: runs them all, and writes the table."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from absl import logging

from memalpha_jax.chat.config import HOW_ASKED
from memalpha_jax.chat.make import CACHE, ChatModels
from memalpha_jax.config import build, to_dict
from memalpha_jax.errors import UserError
from memalpha_jax.leaderboard import episodes, run, summary
from memalpha_jax.leaderboard.config import LeaderboardConfig
from memalpha_jax.leaderboard.page import write_page
from memalpha_jax.leaderboard.policy import chosen_policy, world_of
from memalpha_jax.leaderboard.store import Store
from memalpha_jax.leaderboard.tables import results_markdown
from memalpha_jax.methods import registry
from memalpha_jax.methods.retrieval import make_retrieval
from memalpha_jax.rewards.make import make_grader, make_reader
from memalpha_jax.rewards.metrics import score
from memalpha_jax.workdir import atomic_write, exclusive, open_workdir

MAY_CHANGE = (
    *("methods", "sources", "episodes.episodes", "episodes.data", "bootstrap", "report"),
    *(f"{section}.{name}" for section in ("chat", "reader.chat", "grader.chat") for name in HOW_ASKED),
)
"""What a workdir may be continued with: stored results stay what they are."""


def evaluate_methods(values: Any, path: str) -> None:
    """Goes on where an earlier call on the same workdir stopped.

    Raises:
      UserError: a wrong setting, files that are not there, a model that does not answer.
    """
    config = build(LeaderboardConfig, values)
    if not config.policy.path:
        raise UserError(
            "set config.policy.path: a workdir, a checkpoint or a Hugging Face model, whose tokenizer counts"
        )
    logging.set_verbosity(logging.INFO)
    workdir = open_workdir(path, to_dict(config), may_change=MAY_CHANGE)
    with exclusive(workdir):
        parts, models = make_parts(config, workdir.root / CACHE)
        store = Store(workdir.root)
        try:
            cells = run.run(config, parts, store)
        finally:
            for usage in models.usage():
                logging.info("%s", usage)
        results = summary.summarise(cells, store, parts.count_tokens, config.bootstrap)
        results["about"] = {method.name: method.about for method in parts.methods.values()}
        results |= {"reader": parts.reader_name.about, "grader": parts.grader_name.about}
        timings = summary.timings(cells, store)
        markdown = results_markdown(results, timings)
        atomic_write(workdir.root / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        atomic_write(workdir.root / "timings.json", json.dumps(timings, indent=1) + "\n")
        atomic_write(workdir.root / "results.md", markdown)
        report = write_page(config, cells, store, results)
    print(markdown)
    print(f"tables  {workdir.root / 'results.md'}, {workdir.root / 'results.json'}")
    print(f"report  {report}")


def make_parts(config: LeaderboardConfig, cache: Path | None = None) -> tuple[run.Parts, ChatModels]:
    """Everything a run needs, from its settings; no model is loaded that nothing asks for.

    `cache`: folder for the replies of servers.
    """
    policy = chosen_policy(config.policy)

    @functools.cache
    def count_tokens(text: str) -> int:
        return len(policy.tokenizer.encode(text))

    retrieval = make_retrieval(config.retrieval)
    models = ChatModels(lambda: policy, count_tokens, cache)
    made = registry.Parts(config.method, lambda: policy, lambda: models.get(config.chat), count_tokens, retrieval)
    world = world_of(policy)
    reader, reader_name = make_reader(config.reader, models, one_value=True)
    grader, grader_name = make_grader(config.grader, models)
    parts = run.Parts(
        methods={name: registry.make(name, made) for name in config.methods},
        episodes={s: episodes.load(s, config.episodes, world, count_tokens) for s in config.sources},
        reader=reader,
        reader_name=reader_name,
        count_tokens=count_tokens,
        grader=grader,
        grader_name=grader_name,
        check=models.check,
    )
    for source in {episode.data_source for found in parts.episodes.values() for episode in found}:
        score(source, "", "any", verdict="no" if grader else None)  # a source that cannot be scored is told now
    return parts, models
