"""Warm start: a small policy learns, from nothing, to copy text into well-formed memory calls.

    python -m memalpha_jax.warmstart --config=experiments/tiny.py --workdir=runs/tiny

Trains a tokenizer, then the policy by supervision: first on copying random text, then on demonstrations whose format
is right but whose choice of what to store is random, so that what to store is left to reinforcement learning.
Writes WORKDIR/warm_start. The same command goes on where it was stopped, and does nothing when it is done.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

from memalpha_jax.checkpoints import Checkpoints, abstract
from memalpha_jax.command_line import define_flags, load_config_flag
from memalpha_jax.config import to_dict
from memalpha_jax.episodes.generated import vocabulary_texts
from memalpha_jax.errors import UserError, run_main
from memalpha_jax.experiment import Config, WarmStartConfig, open_run
from memalpha_jax.grpo.learner import TrainState, apply_gradient, init_state
from memalpha_jax.policy.buckets import sorted_by_length, sum_over_blocks, widths
from memalpha_jax.policy.config import LoraConfig, PolicyConfig
from memalpha_jax.policy.logprobs import reply_logprobs
from memalpha_jax.policy.model import init_params
from memalpha_jax.policy.optimizer import make_optimizer
from memalpha_jax.policy.tokenizer import SentencePieceTokenizer, Tokenizer
from memalpha_jax.rollout.engine import make_engine
from memalpha_jax.rollout.rollout import Engine
from memalpha_jax.rollout.steps import Steps
from memalpha_jax.stop_signal import StopSignal
from memalpha_jax.tools.prompts import load_template
from memalpha_jax.tools.wire import call_frames
from memalpha_jax.warmstart_copying import copying_rows
from memalpha_jax.warmstart_data import LessonConfig, Rows, demonstrations
from memalpha_jax.workdir import Workdir, exclusive

TEMPLATE_WEIGHT = 50


def train_tokenizer(config: Config) -> SentencePieceTokenizer:
    """A SentencePiece model of the generated world and the prompt template, with the wire's frames."""
    template = load_template(config.rollout.template)
    texts = [*vocabulary_texts(), *[template] * TEMPLATE_WEIGHT]
    pieces = config.warmstart.tokenizer_pieces
    return SentencePieceTokenizer.train(texts, pieces, call_frames(config.rollout.wire))


def lessons(config: Config) -> list[tuple[str, LessonConfig]]:
    """The lessons in order, by name."""
    w = config.warmstart
    return [
        ("copy_short", w.copy_short),
        ("copy_long", w.copy_long),
        ("revise_short", w.revise_short),
        ("revise_long", w.revise_long),
        ("correct", w.correct),
        ("demonstrate", w.demonstrate),
    ]


def make_rows(config: Config, steps: Steps, tokenizer: Tokenizer, lesson: LessonConfig, number: int) -> Rows:
    """Round `number` of a lesson's rows."""
    count = config.warmstart.round_rows
    if not lesson.demonstrate:
        return copying_rows(steps, tokenizer, lesson, count, config.seed, number)
    episodes = max(1, count // lesson.chunks)
    return demonstrations(steps, tokenizer, lesson, episodes, config.seed, number * episodes)


def batches(config: Config, engine: Engine, tokenizer: Tokenizer, start: int) -> Iterator[tuple[int, str, Rows]]:
    """(step, lesson, rows of one batch) from step `start` to the end; a function of config and start alone."""
    step, size, steps = 0, config.warmstart.batch, Steps(engine)
    for name, lesson in lessons(config):
        end, number = step + lesson.steps, 0
        if end <= start:
            step = end
        while step < end:
            rows = make_rows(config, steps, tokenizer, lesson, number)
            number += 1
            if len(rows.prompt_len_M) < size:
                raise UserError(
                    f"lesson {name}: a round gives {len(rows.prompt_len_M)} rows, a batch needs {size}; raise "
                    "config.warmstart.round_rows, or the tokens of config.rollout if rows do not fit them"
                )
            for i in range(len(rows.prompt_len_M) // size):
                if step >= end:
                    break
                if step >= start:
                    yield step, name, rows.take(np.arange(i * size, (i + 1) * size))
                step += 1


def supervised_update(
    state: TrainState,
    rows: Rows,
    *,
    policy: PolicyConfig,
    config: WarmStartConfig,
    optimizer: optax.GradientTransformation,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step on the mean negative log-likelihood of the reply tokens; gradients are sums over blocks of rows."""

    def loss(params, block: Rows, width: int):
        logp, _ = reply_logprobs(policy, params, *dataclasses.astuple(block), width=width)
        real = jnp.arange(logp.shape[1]) < block.reply_len_M[:, None]
        return -jnp.sum(jnp.where(real, logp, 0.0)) / jnp.sum(rows.reply_len_M)

    count = len(rows.reply_len_M)
    block_rows = min(config.block_rows, count) or count
    blocks = jax.tree.map(lambda x: x.reshape(-1, block_rows, *x.shape[1:]), rows)
    blocks = sorted_by_length(blocks, blocks.prompt_len_M + blocks.reply_len_M)
    value, gradient = sum_over_blocks(
        lambda block, width: jax.value_and_grad(loss)(state.params, block, width),
        blocks,
        blocks.prompt_len_M + blocks.reply_len_M,
        widths(rows.prompt_MP.shape[1] + rows.reply_MR.shape[1], config.buckets),
    )
    state, metrics = apply_gradient(state, gradient, optimizer)
    return dataclasses.replace(state, step=state.step + 1), {"loss": value} | metrics


def warm_start(config: Config, workdir: Workdir) -> None:
    """Runs the lessons, saving as it goes; returns early, after saving, when asked to stop."""
    tokenizer = train_tokenizer(config)
    policy = dataclasses.replace(config.policy, lora=LoraConfig())  # from nothing, there is nothing to adapt
    engine = make_engine(policy, config.memory, config.rollout, tokenizer)
    total = sum(lesson.steps for _, lesson in lessons(config))
    optimizer = make_optimizer(config.warmstart.optimizer, total)
    params = init_params(engine.policy, jax.random.key(config.seed))
    state = init_state(params, optimizer)
    meta = {"config": to_dict(config), "tokenizer": tokenizer.files()}
    update = jax.jit(
        functools.partial(
            supervised_update,
            policy=engine.policy,
            config=config.warmstart,
            optimizer=optimizer,
        ),
        donate_argnums=0,
    )
    with Checkpoints(workdir.root / "warm_start", keep=1) as checkpoints, StopSignal() as stop:
        restored = checkpoints.restore(abstract(state))
        if restored is not None:
            state = restored.state
            logging.info("warm start: continuing at step %d of %d", restored.step, total)
        begin, shown = time.monotonic(), ""
        for step, name, rows in batches(config, engine, tokenizer, int(state.step)):
            state, metrics = update(state, rows)
            if name != shown or (step + 1) % 50 == 0:
                shown, loss = name, float(metrics["loss"])
                seconds = time.monotonic() - begin
                logging.info("warm start %4d/%d  %-11s  loss %.3f  %4.0f s", step + 1, total, name, loss, seconds)
            if stop.requested or ((step + 1) % SAVE_EVERY == 0 and step + 1 < total):
                checkpoints.save(step + 1, state, meta)
            if stop.requested:
                print(f"{stop.name}: warm start saved at step {step + 1}; the same command goes on from there")
                return
        if restored is None or restored.step < total:
            checkpoints.save(total, state, meta)
    print(f"warm start finished: {workdir.root / 'warm_start'}")


SAVE_EVERY = 200


def main(argv: Sequence[str]) -> None:
    del argv
    config = load_config_flag(Config)
    workdir = open_run(config)
    with exclusive(workdir):
        warm_start(config, workdir)


if __name__ == "__main__":
    define_flags()
    run_main(main)
