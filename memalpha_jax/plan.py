"""Will it fit? Bytes per device of a run on a machine that need not be there.

    python -m memalpha_jax.plan --config=experiments/grpo.py --topology=1xh200
    python -m memalpha_jax.plan --config=experiments/grpo.py --topology=v5p-32 --config.mesh.fsdp=16 --json=plan.json

Prints a table for the rollout and for the update, whether each fits, with how many rows it would, and which key to
change if it does not. Sizes are worked out from the real steps, traced without arrays. For `cpu` the steps are compiled
as well, and for a TPU the update, where libtpu is installed and attention is plain XLA; the verdict then goes by XLA's
own analysis. --nocompile leaves that out: it takes minutes for large models. Exits with 0 whether the run fits or not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import jax
from absl import flags, logging

from memalpha_jax.command_line import define_flags, load_config_flag
from memalpha_jax.errors import run_main
from memalpha_jax.experiment import Config
from memalpha_jax.planning.abstract import layout
from memalpha_jax.planning.compiled import compile_steps
from memalpha_jax.planning.estimate import Estimator
from memalpha_jax.planning.plan import Plan, as_dict, make_plan, resolved_policy, table
from memalpha_jax.planning.topologies import topology
from memalpha_jax.workdir import atomic_write

FLAGS = flags.FLAGS


def plan(config: Config, machine: str, compile_them: bool) -> Plan:
    """The plan of a run; UserError for a machine or a layout that cannot be, before anything is traced."""
    top = topology(machine)
    layout(config, top.devices)
    policy, where = resolved_policy(config)
    estimator = Estimator(config, policy, top)
    compiled, why = compile_steps(estimator) if compile_them else ({}, "not compiled: --nocompile")
    return make_plan(config, policy, top, compiled, (why, where))


def main(argv: Sequence[str]) -> None:
    del argv
    logging.set_verbosity(logging.INFO)
    jax.config.update("jax_platforms", "cpu")  # the machine that is planned for is another one
    config = load_config_flag(Config)
    made = plan(config, FLAGS.topology, FLAGS.compile)
    print(table(made))
    if FLAGS.json:
        atomic_write(FLAGS.json, json.dumps(as_dict(made), indent=2) + "\n")


if __name__ == "__main__":
    define_flags(workdir=False)
    flags.DEFINE_string("topology", None, "The machine: 1xh200, 8xh100, v5p-8, v6e-8, t4, cpu and the like.")
    flags.DEFINE_boolean("compile", True, "Compile the steps where this machine can, besides working out sizes.")
    flags.DEFINE_string("json", "", "Also write the plan to this file, as JSON with whole bytes.")
    flags.mark_flag_as_required("topology")
    run_main(main)
