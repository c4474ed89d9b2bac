"""A step of training on many devices: what is sliced over them stays sliced, and is compiled once."""

from __future__ import annotations

import jax
import mini

from memalpha_jax.policy.sharding import tree_shardings
from memalpha_jax.train import Trainer
from memalpha_jax.workdir import Workdir

ON_EIGHT_DEVICES = {"mesh.fsdp": 4, "grpo.group": 4, "run.trace_every": 0}


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
