"""GRPO: a policy learns, from the answers its memory supports, what to write into that memory.

    python -m memalpha_jax.train --config=experiments/tiny.py --workdir=runs/tiny
    python -m memalpha_jax.train --config=experiments/tiny.py --workdir=runs/lr --config.grpo.optimizer.lr=3e-4 \\
        --config.policy.path=runs/tiny/warm_start

Starts from --config.policy.path, by default WORKDIR/warm_start. A step is: draw episodes, roll out, score, normalise
the rewards within groups, update. Everything the run writes is in WORKDIR (config.json, metrics.jsonl, timings.jsonl,
tensorboard/, traces/, checkpoints/). The same command goes on where it was stopped or killed, to the same result.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import logging

from memalpha_jax import distributed
from memalpha_jax.checkpoints import Checkpoints
from memalpha_jax.command_line import define_flags, load_config_flag
from memalpha_jax.distributed import all_or_none, gather, say
from memalpha_jax.errors import run_main
from memalpha_jax.experiment import Config, open_run
from memalpha_jax.metrics_log import MetricsLog
from memalpha_jax.stop_signal import StopSignal
from memalpha_jax.trainer import Trainer, is_due, is_watched
from memalpha_jax.workdir import Workdir, exclusive


def log_cost(timings: dict[str, float], padding: float) -> None:
    """One line with what each part of a step takes, from the step whose parts were timed; `padding`: of the update."""
    parts = {name.removeprefix("part/"): value for name, value in timings.items() if name != "rollout"}
    step = sum(timings[name] for name in ("feed", "rollout", "reward", "update"))
    host = sum(parts[name] for name in ("render", "parse", "apply", "reward"))
    shown = "  ".join(f"{name} {1000 * value:.0f}" for name, value in parts.items())
    logging.info(
        "cost of a step in ms: %s; memory and reward together %.1f %% of %.2f s; padding %.1f %% of the update",
        shown,
        100 * host / step,
        step,
        100 * padding,
    )


def log_step(step: int, total: int, metrics: dict[str, float], timings: dict[str, float]) -> None:
    evaluated = f"  held-out {100 * metrics['eval/accuracy']:.1f} %" if "eval/accuracy" in metrics else ""
    logging.info(
        "step %4d/%d  reward %.3f  r1 %.3f  calls %.2f  repeats %.1f %%  %.2f s%s",
        step,
        total,
        metrics["reward/all/total"],
        metrics["reward/all/r1"],
        metrics["rollout/calls_per_chunk"],
        100 * metrics["reward/all/near_duplicate_rate"],
        sum(timings[name] for name in ("feed", "rollout", "reward", "update")),
        evaluated,
    )


def train(config: Config, workdir: Workdir) -> None:
    """Runs, or continues, one training run to its last step or until asked to stop."""
    total = config.grpo.steps
    with Checkpoints(workdir.checkpoints, config.run.keep) as checkpoints, StopSignal() as stop:
        trainer = Trainer(config, workdir)
        done = trainer.restore(checkpoints)
        with MetricsLog(workdir, done) as log:
            for step in range((done or 0) + 1, total + 1):
                metrics, timings = trainer.step(step)
                if is_watched(step, config.run.evaluate_every, total):
                    metrics |= trainer.evaluate()
                log.log(step, metrics, timings)
                log_step(step, total, metrics, timings)
                if step == config.run.cost_step:
                    log_cost(timings, metrics["update/padding"])
                stopped_by = "".join(dict.fromkeys(gather(stop.name)))  # all processes leave at the same step
                if stopped_by or is_due(step, config.run.save_every, total):
                    trainer.save(checkpoints, step)
                if stopped_by or step == total:
                    for usage in trainer.models.usage():
                        logging.info("%s", usage)
                if stopped_by:
                    say(f"{stopped_by}: saved step {step} of {total}; the same command goes on from there")
                    return
    say(f"training finished: {workdir.checkpoints}")


def main(argv: Sequence[str]) -> None:
    del argv
    config = load_config_flag(Config)
    distributed.initialize()
    with all_or_none():
        workdir = open_run(config)
        with exclusive(workdir):
            train(config, workdir)


if __name__ == "__main__":
    define_flags()
    distributed.define_flags()
    run_main(main)
