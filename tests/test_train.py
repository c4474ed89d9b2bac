"""The trainer: what is sliced over devices stays sliced and is compiled once; the schedule spans every update."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import mini
import numpy as np

from memalpha_jax.policy.sharding import tree_shardings
from memalpha_jax.trainer import Trainer
from memalpha_jax.workdir import Workdir

ON_EIGHT_DEVICES = {"mesh.fsdp": 4, "grpo.group": 4, "grpo.block_rows": 0, "run.trace_every": 0}


def test_parameters_keep_their_places_and_the_update_its_code(tmp_path_factory, tmp_path):
    start = mini.finished_run(tmp_path_factory)
    config = mini.config({**ON_EIGHT_DEVICES, "policy.path": str(start)})
    trainer = Trainer(config, Workdir(tmp_path))
    for step in (1, 3):  # the parts of step 2 are timed, which compiles them
        trainer.step(step)
        wanted = tree_shardings(trainer.state, trainer.mesh)
        assert jax.tree.map(lambda x: x.sharding, trainer.state) == wanted
    assert sum(not sharding.is_fully_replicated for sharding in jax.tree.leaves(wanted)) > 8
    assert trainer.update._cache_size() == 1


def test_the_learning_rate_falls_over_all_updates_of_all_minibatches(tmp_path_factory, tmp_path):
    falling = {"warmup": 0.0, "decay": 1.0, "final_lr_share": 0.0, "weight_decay": 0.0}
    changes = {f"grpo.optimizer.{name}": value for name, value in falling.items()}
    start = mini.finished_run(tmp_path_factory)
    rows = {"grpo.group": 8, "grpo.block_rows": 0, "grpo.minibatches": 2}
    config = mini.config({**changes, **rows, "policy.path": str(start)})
    optimizer = Trainer(config, Workdir(tmp_path)).optimizer
    one = {"embed": jnp.ones(1)}
    state, sizes = optimizer.init(one), []
    for _ in range(2 * mini.STEPS):
        update, state = optimizer.update(one, state, one)
        sizes.append(-float(update["embed"][0]) / config.grpo.optimizer.lr)
    np.testing.assert_allclose(sizes, 1 - np.arange(2 * mini.STEPS) / (2 * mini.STEPS), rtol=1e-4)
