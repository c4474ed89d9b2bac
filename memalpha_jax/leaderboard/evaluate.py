"""`python -m memalpha_jax.evaluate` for a config that names methods: runs them all, and writes the table."""

from __future__ import annotations

import functools
import json
from typing import Any

from absl import logging

from memalpha_jax.config import build, to_dict
from memalpha_jax.errors import UserError
from memalpha_jax.leaderboard import episodes, run, summary
from memalpha_jax.leaderboard.config import LeaderboardConfig
from memalpha_jax.leaderboard.store import Store
from memalpha_jax.leaderboard.tables import results_markdown
from memalpha_jax.methods import registry
from memalpha_jax.policy.policy import Policy, load_policy
from memalpha_jax.rewards.reader import ExtractiveReader
from memalpha_jax.workdir import atomic_write, exclusive, open_workdir

MAY_CHANGE = ("methods", "sources", "episodes.episodes", "bootstrap")
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
        parts = make_parts(config)
        store = Store(workdir.root)
        cells = run.run(config, parts, store)
        results = summary.summarise(cells, store, parts.count_tokens, config.bootstrap)
        results["about"] = {method.name: method.about for method in parts.methods.values()}
        markdown = results_markdown(results)
        atomic_write(workdir.root / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        atomic_write(workdir.root / "results.md", markdown)
    print(markdown)
    print(f"tables  {workdir.root / 'results.md'}, {workdir.root / 'results.json'}")


def make_parts(config: LeaderboardConfig) -> run.Parts:
    """Everything a run needs, from its settings; no model is loaded that no method asks for."""
    policy = load_policy(config.policy.path)

    @functools.cache
    def count_tokens(text: str) -> int:
        return len(policy.tokenizer.encode(text))

    made = registry.Parts(config.method, lambda: policy, lambda: _chat(config, policy), count_tokens)
    world = episodes.world_of(policy)
    return run.Parts(
        methods={name: registry.METHODS[name](made) for name in config.methods},
        episodes={s: episodes.load(s, config.episodes, world, count_tokens) for s in config.sources},
        reader=ExtractiveReader(one_value=True),
        reader_identity="extractive",
        count_tokens=count_tokens,
    )


def _chat(config: LeaderboardConfig, policy: Policy) -> Any:
    raise UserError("not yet")
