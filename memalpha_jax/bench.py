"""Measures generation, training, or one whole step of reinforcement learning, against what the device can do.

    python -m memalpha_jax.bench decode  --size=10m --batch=16 --prompt=256 --new=128 --peer=hf
    python -m memalpha_jax.bench prefill --size=qwen3-0.6b --batch=4 --prompt=1024
    python -m memalpha_jax.bench train   --size=10m --batch=8 --prompt=256 --new=128 --json=train.json
    python -m memalpha_jax.bench step    --size=10m --batch=16 --group=8 --chunks=3

Prints work, time, and which share of the device's copy bandwidth and matmul rate, measured in the same call, was
reached; the fastest repeat counts, with weights and contexts at random. --peer=hf runs transformers on the same shapes
and weights in turns with ours, and prints our time over its time (it needs the test extra: torch and transformers).

One GPU with 140 GB takes the published shapes, which a CPU is too slow for:

    python -m memalpha_jax.bench decode --size=qwen3-4b --dtype=bfloat16 --batch=128 --prompt=1920 --new=256
    python -m memalpha_jax.bench train  --size=qwen3-4b --dtype=bfloat16 --batch=4 --prompt=3072 --new=1024 \\
        --block_rows=1 --remat=layer --logprob_slice=256
    python -m memalpha_jax.bench step   --size=qwen3-4b --dtype=bfloat16 --batch=32 --group=8 --prompt=2048 --new=512 \\
        --block_rows=1 --remat=layer --logprob_slice=256
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sys
from collections.abc import Sequence

import jax
from absl import flags

from memalpha_jax.benchmarks.generation import bench_decode, bench_prefill
from memalpha_jax.benchmarks.peer import Peer, load_torch
from memalpha_jax.benchmarks.report import Result, as_json, as_text
from memalpha_jax.benchmarks.sizes import SIZES, random_params, sized
from memalpha_jax.benchmarks.step import StepSettings, bench_step
from memalpha_jax.benchmarks.timing import Device
from memalpha_jax.benchmarks.training import TrainSettings, bench_train
from memalpha_jax.benchmarks.work import parameter_count
from memalpha_jax.errors import UserError, run_main
from memalpha_jax.policy.config import DTYPES, REMATS, PolicyConfig
from memalpha_jax.policy.model import Params
from memalpha_jax.policy.policy import load_policy
from memalpha_jax.workdir import atomic_write

COMMANDS = ("decode", "prefill", "train", "step")
PEERS = ("", "hf")
FLAGS = flags.FLAGS


def check(command: str) -> None:
    """Raises UserError for options that cannot be, before anything is compiled."""
    if command not in COMMANDS:
        raise UserError(f"which benchmark? {command!r} is none; give one of {', '.join(COMMANDS)} first")
    for name in ("batch", "prompt", "repeats", "group", "chunks"):
        if getattr(FLAGS, name) < 1:
            raise UserError(f"--{name}={getattr(FLAGS, name)}: it must be at least 1")
    least = 2 if command in ("decode", "step") else 1
    if FLAGS.new < least:
        raise UserError(f"--new={FLAGS.new}: it must be at least {least}, for the first token comes from the prefill")
    if FLAGS.block_rows < 0 or (FLAGS.block_rows and FLAGS.batch % FLAGS.block_rows):
        raise UserError(f"--block_rows={FLAGS.block_rows} must divide --batch={FLAGS.batch}; 0 takes all rows")
    if FLAGS.path and command == "step":
        raise UserError("step runs on random weights, with a tokenizer of its own: give --size instead of --path")
    if FLAGS.peer and command == "step":
        raise UserError("transformers has no such step: leave --peer out")


def policy_to_measure(dtype: str) -> tuple[PolicyConfig, Params]:
    """The network of --path or --size, its weights in `dtype`, computed in --dtype."""
    if FLAGS.path:
        policy = load_policy(FLAGS.path, dtype=dtype)
        return dataclasses.replace(policy.config, dtype=FLAGS.dtype), policy.params
    config = sized(FLAGS.size, FLAGS.dtype)
    return config, random_params(config, jax.random.key(0), dtype)


def run(command: str, device: Device) -> tuple[Result, PolicyConfig]:
    """The benchmark of that name with the options of the command line."""
    train = TrainSettings(FLAGS.block_rows, FLAGS.logprob_slice, FLAGS.remat)
    if command == "step":
        config = sized(FLAGS.size, FLAGS.dtype)
        settings = StepSettings(FLAGS.batch, FLAGS.group, FLAGS.chunks, FLAGS.prompt, FLAGS.new, train)
        return bench_step(config, settings, device, FLAGS.repeats), config
    dtype = "float32" if command == "train" else FLAGS.dtype  # weights that are trained are float32
    config, params = policy_to_measure(dtype)
    if 0 < config.max_positions < FLAGS.prompt + FLAGS.new:
        raise UserError(f"--prompt and --new together are longer than the context of {config.max_positions} tokens")
    peer = Peer(config, params, dtype) if FLAGS.peer else None
    shared = (config, params, peer, device, FLAGS.batch, FLAGS.prompt)
    if command == "decode":
        return bench_decode(*shared, FLAGS.new, FLAGS.repeats), config
    if command == "prefill":
        return bench_prefill(*shared, FLAGS.repeats), config
    return bench_train(*shared, FLAGS.new, train, FLAGS.repeats), config


OPTIONS = ("size", "path", "batch", "prompt", "new", "dtype", "repeats", "peer")
TRAIN_OPTIONS = ("block_rows", "logprob_slice", "remat")
STEP_OPTIONS = ("group", "chunks")


def used_options(command: str) -> list[str]:
    """The options that a command heeds, besides --json."""
    return [
        *(name for name in OPTIONS if command != "prefill" or name != "new"),
        *(TRAIN_OPTIONS if command in ("train", "step") else ()),
        *(STEP_OPTIONS if command == "step" else ()),
    ]


def main(argv: Sequence[str], command: str) -> None:
    del argv
    check(command)
    if FLAGS.peer:
        # Two libraries share the memory of a GPU only if JAX does not take it in advance.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        load_torch()
    device = Device(FLAGS.dtype)
    result, config = run(command, device)
    options = {name: getattr(FLAGS, name) for name in used_options(command)}
    settings = {"command": command, **options, "parameters": parameter_count(config)}
    print(f"{command}: {parameter_count(config) / 1e6:.1f} million parameters, ", end="")
    print(", ".join(f"{name} {value}" for name, value in options.items() if value != ""))
    print(as_text(result, device))
    if FLAGS.json:
        atomic_write(FLAGS.json, json.dumps(as_json(result, device, settings), indent=1) + "\n")
        print(f"figures: {FLAGS.json}")


def define_bench_flags() -> None:
    flags.DEFINE_string("size", "10m", f"Network with random weights: {', '.join(SIZES)}.")
    flags.DEFINE_string("path", "", "Folder of a policy or of a Hugging Face model, instead of --size.")
    flags.DEFINE_integer("batch", 16, "Rows; in step, trajectories.")
    flags.DEFINE_integer("prompt", 256, "Tokens of every prompt; in step, the budget of a chunk's prompt.")
    flags.DEFINE_integer("new", 128, "Tokens of every reply.")
    flags.DEFINE_enum("dtype", "float32", list(DTYPES), "What is computed in; weights that are trained are float32.")
    flags.DEFINE_integer("repeats", 5, "How often everything is timed, after compilation.")
    flags.DEFINE_enum("peer", "", list(PEERS), "hf: transformers on the same shapes and weights, in turns.")
    flags.DEFINE_string("json", "", "File for all figures, besides the table.")
    flags.DEFINE_integer("block_rows", 0, "train, step: rows of one forward and backward pass; 0 takes all.")
    flags.DEFINE_integer("logprob_slice", 0, "train, step: reply tokens with logits at a time; 0 takes all.")
    flags.DEFINE_enum("remat", "none", list(REMATS), "train, step: what the backward pass computes again.")
    flags.DEFINE_integer("group", 8, "step: trajectories per episode.")
    flags.DEFINE_integer("chunks", 3, "step: chunks per episode.")


def command_of(argv: list[str]) -> str:
    """Takes the command out of the command line; "" where none is there."""
    return argv.pop(1) if len(argv) > 1 and not argv[1].startswith("-") else ""


if __name__ == "__main__":
    define_bench_flags()
    run_main(functools.partial(main, command=command_of(sys.argv)))
