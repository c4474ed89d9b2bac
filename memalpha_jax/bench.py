"""Measures generation, training, a step of reinforcement learning, feeding it, or retrieval, against what can be had.

    python -m memalpha_jax.bench decode  --size=10m --batch=16 --prompt=256 --new=128 --peer=hf
    python -m memalpha_jax.bench prefill --size=qwen3-0.6b --batch=4 --prompt=1024
    python -m memalpha_jax.bench train   --size=10m --batch=8 --prompt=256 --new=128 --json=train.json
    python -m memalpha_jax.bench step    --size=10m --batch=16 --group=8 --chunks=3
    python -m memalpha_jax.bench feed    --batch=16 --chunks=10 --tokenizer=Qwen3-4B --data=EPISODES
    python -m memalpha_jax.bench retrieval --items=10000

Prints work, time, and which share of the device's copy bandwidth and matmul rate, measured in the same call, was
reached; the fastest repeat counts, with weights and contexts at random. --peer=hf runs transformers on the same shapes
and weights in turns with ours, and prints our time over its time (it needs the test extra: torch and transformers).
feed has no network: it draws and tokenises episodes, as fast as the trainer's threads can, on the processor. Nor has
retrieval: it measures BM25 queries and updates beside rank_bm25 (of the test extra), on the processor.

The published shapes are for one GPU with 140 GB; a CPU is too slow for them:

    python -m memalpha_jax.bench decode --size=qwen3-4b --dtype=bfloat16 --batch=128 --prompt=1920 --new=256
    python -m memalpha_jax.bench train  --size=qwen3-4b --dtype=bfloat16 --batch=4 --prompt=3072 --new=1024 \\
        --block_rows=1 --remat=layer --logprob_slice=256
    python -m memalpha_jax.bench step   --size=qwen3-4b --dtype=bfloat16 --batch=32 --group=8 --prompt=2048 --new=512 \\
        --block_rows=1 --remat=layer --logprob_slice=256
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Sequence

import jax
from absl import flags, logging

from memalpha_jax.benchmarks.feed import FeedSettings, bench_feed
from memalpha_jax.benchmarks.generation import bench_decode, bench_prefill
from memalpha_jax.benchmarks.peer import Peer, load_torch
from memalpha_jax.benchmarks.report import Result, as_json, as_text
from memalpha_jax.benchmarks.retrieval import bench_retrieval
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

COMMANDS = ("decode", "prefill", "train", "step", "feed", "retrieval")
PEERS = ("", "hf")


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of the command line, as `define_bench_flags` describes them."""

    size: str = "10m"
    path: str = ""
    batch: int = 16
    prompt: int = 256
    new: int = 128
    dtype: str = "float32"
    repeats: int = 5
    peer: str = ""
    block_rows: int = 0
    logprob_slice: int = 0
    remat: str = "none"
    group: int = 8
    chunks: int = 3
    tokenizer: str = ""
    data: str = ""
    items: int = 10_000

    @property
    def train(self) -> TrainSettings:
        return TrainSettings(self.block_rows, self.logprob_slice, self.remat)

    def heeded(self, command: str) -> dict[str, int | str]:
        """The options that make a difference to `command`."""
        if command == "feed":
            return {name: getattr(self, name) for name in ("batch", "chunks", "tokenizer", "data", "repeats")}
        if command == "retrieval":
            return {"items": self.items, "repeats": self.repeats}
        unused = {"path", "peer"} if command == "step" else {"group", "chunks"}
        unused |= {"tokenizer", "data", "items"}
        if command in ("decode", "prefill"):
            unused |= {"block_rows", "logprob_slice", "remat"}
        if command == "prefill":
            unused |= {"new"}
        unused |= {"size"} if self.path else {"path"}
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in unused}


def check(command: str, options: Options) -> None:
    """Raises UserError for what cannot be measured, before anything is compiled."""
    o = options
    if command not in COMMANDS:
        raise UserError(f"which benchmark? {command!r} is none; give one of {', '.join(COMMANDS)} first")
    for name in ("batch", "prompt", "repeats", "group", "chunks", "items"):
        if getattr(o, name) < 1:
            raise UserError(f"--{name}={getattr(o, name)}: it must be at least 1")
    least = 2 if command in ("decode", "step") else 1
    if o.new < least:
        raise UserError(f"--new={o.new}: it must be at least {least}; the first token comes from the prefill")
    if o.block_rows < 0 or (o.block_rows and o.batch % o.block_rows):
        raise UserError(f"--block_rows={o.block_rows} must divide --batch={o.batch}; 0 takes all rows")
    if o.logprob_slice < 0 or (o.logprob_slice and o.new % o.logprob_slice):
        raise UserError(f"--logprob_slice={o.logprob_slice} must divide --new={o.new}; 0 takes all tokens")
    if command == "step" and o.path:
        raise UserError("step runs on random weights, with a tokenizer of its own: give --size instead of --path")
    if command in ("step", "feed", "retrieval") and o.peer:
        raise UserError(f"transformers has no such {command}: leave --peer out")
    if command == "feed" and o.data and not o.tokenizer:
        raise UserError("--data is read with the tokenizer of --tokenizer: give both, or neither")
    if command != "feed" and (o.tokenizer or o.data):
        raise UserError(f"--tokenizer and --data are for feed: leave them out for {command}")


def network(options: Options, dtype: str) -> tuple[PolicyConfig, Params]:
    """The network of --path or --size, computed in --dtype, and its weights in `dtype`."""
    if options.path:
        policy = load_policy(options.path, dtype=dtype)
        return dataclasses.replace(policy.config, dtype=options.dtype), policy.params
    config = sized(options.size, options.dtype)
    return config, random_params(config, jax.random.key(0), dtype)


def run(command: str, options: Options, device: Device) -> tuple[Result, PolicyConfig | None]:
    """The benchmark of that name, and the network that it ran, if any."""
    o = options
    if command == "feed":
        return bench_feed(FeedSettings(o.batch, o.chunks, o.tokenizer, o.data), device, o.repeats), None
    if command == "retrieval":
        return bench_retrieval(o.items, device, o.repeats), None
    if command == "step":
        config = sized(o.size, o.dtype)
        return bench_step(
            config, StepSettings(o.batch, o.group, o.chunks, o.prompt, o.new, o.train), device, o.repeats
        ), config
    dtype = "float32" if command == "train" else o.dtype  # weights that are trained are float32
    config, params = network(o, dtype)
    if 0 < config.max_positions < o.prompt + o.new:
        raise UserError(
            f"--prompt={o.prompt} and --new={o.new} are longer than the policy's context, {config.max_positions} "
            "tokens; lower either"
        )
    peer = Peer(config, params, dtype) if o.peer else None
    shared = (config, params, peer, device, o.batch, o.prompt)
    if command == "decode":
        return bench_decode(*shared, o.new, o.repeats), config
    if command == "prefill":
        return bench_prefill(*shared, o.repeats), config
    return bench_train(*shared, o.new, o.train, o.repeats), config


def bench(command: str, options: Options, json_file: str = "") -> None:
    """Runs a benchmark, prints its table and writes its figures."""
    check(command, options)
    logging.set_verbosity(logging.INFO)
    if options.peer:
        # Two libraries share the memory of a GPU only if JAX does not take it in advance.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        load_torch()
    device = Device(options.dtype)
    result, config = run(command, options, device)
    count, heeded = parameter_count(config) if config else 0, options.heeded(command)
    shown = f"{count / 1e6:.1f} million parameters; " if config else ""
    print(f"{command}: {shown}{', '.join(f'{k} {v}' for k, v in heeded.items() if v)}\n")
    print(as_text(result, device))
    if json_file:
        settings = {"command": command, **heeded, "parameters": count}
        atomic_write(json_file, json.dumps(as_json(result, device, settings), indent=1) + "\n")
        print(f"figures: {json_file}")


def define_bench_flags() -> None:
    o = Options()
    flags.DEFINE_string("size", o.size, f"Network with random weights: {', '.join(SIZES)}.")
    flags.DEFINE_string("path", o.path, "A policy, or a folder in Hugging Face's format, instead of --size.")
    flags.DEFINE_integer("batch", o.batch, "Rows; in step, trajectories; in feed, episodes.")
    flags.DEFINE_integer("prompt", o.prompt, "Tokens of every prompt; in step, the budget of a chunk's prompt.")
    flags.DEFINE_integer("new", o.new, "Tokens of every reply.")
    flags.DEFINE_enum("dtype", o.dtype, list(DTYPES), "What is computed in; weights that are trained are float32.")
    flags.DEFINE_integer("repeats", o.repeats, "How often everything is timed, after compilation.")
    flags.DEFINE_enum("peer", o.peer, list(PEERS), "hf: transformers on the same shapes and weights, in turns.")
    flags.DEFINE_integer("block_rows", o.block_rows, "train, step: rows of one pass; 0 takes all.")
    flags.DEFINE_integer("logprob_slice", o.logprob_slice, "train, step: reply tokens with logits at a time; 0: all.")
    flags.DEFINE_enum("remat", o.remat, list(REMATS), "train, step: what the backward pass computes again.")
    flags.DEFINE_integer("group", o.group, "step: trajectories per episode.")
    flags.DEFINE_integer("chunks", o.chunks, "step, feed: chunks per episode.")
    flags.DEFINE_string("tokenizer", o.tokenizer, "feed: folder of a tokenizer to measure besides the tiny one.")
    flags.DEFINE_string("data", o.data, "feed: prepared episodes for it, instead of generated ones.")
    flags.DEFINE_integer("items", o.items, "retrieval: items of the index.")
    flags.DEFINE_string("json", "", "File for all figures, besides the table.")


def command_of(argv: list[str]) -> str:
    """Takes the command out of the command line; "" where none is there."""
    return argv.pop(1) if len(argv) > 1 and not argv[1].startswith("-") else ""


COMMAND = ""


def main(argv: Sequence[str]) -> None:
    del argv
    given = {field.name: getattr(flags.FLAGS, field.name) for field in dataclasses.fields(Options)}
    bench(COMMAND, Options(**given), flags.FLAGS.json)


if __name__ == "__main__":
    define_bench_flags()
    COMMAND = command_of(sys.argv)
    run_main(main)
