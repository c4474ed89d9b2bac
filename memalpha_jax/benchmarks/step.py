"""One whole step of reinforcement learning on generated episodes, by the trainer itself, timed by part.

The policy is random, so its replies take all their tokens and hardly ever store anything: rollout and update cost what
they do in training at these sizes, while applying calls, reading and judging see nearly empty memories.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from memalpha_jax.benchmarks.report import OURS, Measured, Result
from memalpha_jax.benchmarks.sizes import random_params
from memalpha_jax.benchmarks.timing import Device, Timing
from memalpha_jax.benchmarks.training import TrainSettings
from memalpha_jax.benchmarks.work import Work, decode_work, prefill_work, train_work
from memalpha_jax.episodes.feed import Drawn
from memalpha_jax.episodes.generated import WorldConfig
from memalpha_jax.episodes.sources import EpisodesConfig
from memalpha_jax.errors import UserError
from memalpha_jax.experiment import Config, RunConfig, WarmStartConfig
from memalpha_jax.grpo.learner import GRPOConfig
from memalpha_jax.memory.state import MemoryConfig
from memalpha_jax.policy.config import PolicyConfig
from memalpha_jax.policy.policy import Policy
from memalpha_jax.policy.tokenizer import SentencePieceTokenizer
from memalpha_jax.rollout.rollout import RolloutConfig
from memalpha_jax.rollout.trajectory import Trajectory
from memalpha_jax.trainer import Trainer
from memalpha_jax.warmstart import train_tokenizer
from memalpha_jax.workdir import Workdir

FIRST_TIMED = 2
"""The first step without compilation."""
PIECES = 1000
TEMPLATE_TOKENS, SENTENCE_TOKENS = 96, 20
"""About what the prompt takes besides the chunk, and what a sentence takes at most."""
SAID = {"rollout": "rollout", "parse": "  of which parsing", "reward": "reward", "update": "update"}


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """rows: N, trajectories of the step, `group` of each episode. chunks: T. prompt, new: P and R of every chunk."""

    rows: int
    group: int
    chunks: int
    prompt: int
    new: int
    train: TrainSettings


def step_config(policy: PolicyConfig, settings: StepSettings, steps: int) -> Config:
    """The run whose steps are timed; UserError where the settings do not fit together."""
    if settings.rows % settings.group:
        raise UserError(f"--batch={settings.rows} is not a multiple of --group={settings.group}; change either")
    sentences = (settings.prompt - TEMPLATE_TOKENS) // SENTENCE_TOKENS
    if sentences < 1:
        raise UserError(f"--prompt={settings.prompt} has no room for a chunk; give at least 128")
    world = WorldConfig(sentences_min=sentences, sentences_max=sentences)
    episodes = settings.rows // settings.group
    return Config(
        episodes=EpisodesConfig(num_train=2 * episodes, num_eval=1, chunks=settings.chunks, world=world),
        memory=MemoryConfig(core_tokens=32, items=32, arena_tokens=512, shown_items=1),
        policy=dataclasses.replace(policy, remat=settings.train.remat),
        rollout=RolloutConfig(settings.prompt, settings.new, max_calls=4, template="compact"),
        grpo=GRPOConfig(
            episodes=episodes,
            group=settings.group,
            steps=steps,
            block_rows=settings.train.block_rows,
            logprob_slice=settings.train.logprob_slice,
            optimizer=settings.train.optimizer,
        ),
        warmstart=WarmStartConfig(tokenizer_pieces=min(PIECES, policy.vocab_size // 2)),
        run=RunConfig(trace_every=0, evaluate_every=0, cost_step=steps),
    )


def filled_tokenizer(config: Config) -> SentencePieceTokenizer:
    """A tokenizer of the generated world, filled up to the policy's vocabulary, for a random policy draws any token."""
    trained = train_tokenizer(config)
    missing = config.policy.vocab_size - trained.vocab_size
    if missing < 0:
        raise UserError(f"the vocabulary of {config.policy.vocab_size} tokens is too small for generated episodes")
    return SentencePieceTokenizer(trained.model, (*trained.frames, *(f"<|unused_{i}|>" for i in range(missing))))


def random_trainer(config: Config) -> Trainer:
    """A trainer that starts from random weights; nothing is read from or written to its workdir."""
    params = random_params(config.policy, jax.random.key(0), "float32")
    start = Policy(config.policy, params, filled_tokenizer(config), config.memory, config.rollout)
    return Trainer(config, Workdir(Path(tempfile.gettempdir())), start)


def bench_step(policy: PolicyConfig, settings: StepSettings, device: Device, repeats: int) -> Result:
    """Steps 2 to `repeats` + 1; the first one compiles. The parts of a rollout are timed alone, after the last."""
    trainer = random_trainer(step_config(policy, settings, repeats + 1))
    collect, lengths = trainer.collect, []

    def collect_and_note(params: Any, step: int, drawn: Drawn) -> Trajectory:
        trajectory = collect(params, step, drawn)
        lengths.append((trajectory.prompt_len_NT, trajectory.reply_len_NT))
        return trajectory

    trainer.collect = collect_and_note
    timings = []
    for step in range(1, repeats + 2):
        metrics, seconds = trainer.step(step)
        logging.info("step %d of %d: %s", step, repeats + 1, ", ".join(f"{k} {v:.1f} s" for k, v in seconds.items()))
        if device.peak_bytes is not None:
            logging.info("memory of the device in use at most: %.1f GiB", device.peak_bytes / 2**30)
        device.sample()
        if metrics["rollout/unread"] > 0:
            raise UserError(f"--prompt={settings.prompt} is too short for the generated chunks; give more")
        if step >= FIRST_TIMED:
            timings.append(seconds)
    prompt, reply = (round(float(np.mean(jax.device_get(part)))) for part in zip(*lengths, strict=True))
    work = work_of_step(policy, settings, prompt, reply)
    measured = []
    for name, said in SAID.items():
        own = [seconds[name] for seconds in timings]
        measured.append(Measured(said, OURS, Timing(min(own), statistics.median(own)), work.get(name)))
    whole = [seconds["rollout"] + seconds["reward"] + seconds["update"] for seconds in timings]
    measured.append(Measured("step", OURS, Timing(min(whole), statistics.median(whole)), None))
    for name, value in timings[-1].items():
        if name.startswith("part/"):
            part = name.removeprefix("part/")
            measured.append(Measured(f"{part} alone", OURS, Timing(value, value), work.get(part)))
    checks = {
        "trajectories x chunks": f"{settings.rows} x {settings.chunks}",
        "mean tokens of a prompt": f"{prompt} of {settings.prompt}",
        "mean tokens of a reply": f"{reply} of {settings.new}",
        "calls per chunk": f"{metrics['rollout/calls_per_chunk']:.2f}",
    }
    return Result(measured, checks)


def work_of_step(policy: PolicyConfig, settings: StepSettings, prompt: int, reply: int) -> dict[str, Work]:
    """What prompts and replies of mean length take, over all chunks, by part."""
    item, rows = jnp.dtype(policy.dtype).itemsize, settings.rows
    parts = {
        "prefill": prefill_work(policy, rows, prompt, item),
        "decode": decode_work(policy, rows, prompt, reply, item),
        "update": train_work(policy, rows, prompt, reply),
    }
    parts |= {"rollout": parts["prefill"] + parts["decode"]}
    return {name: work.times(settings.chunks) for name, work in parts.items()}
