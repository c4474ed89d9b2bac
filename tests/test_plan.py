"""What `plan` says: counts against arrays and compilers, what fits, what it refuses."""

from __future__ import annotations

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import mini
import pytest

from memalpha_jax.config import build
from memalpha_jax.errors import UserError
from memalpha_jax.experiment import Config
from memalpha_jax.planning.abstract import abstract_arguments, layout
from memalpha_jax.planning.estimate import ROLLOUT, UPDATE, Estimator
from memalpha_jax.planning.liveness import nbytes, peak_bytes
from memalpha_jax.planning.plan import as_dict, make_plan, resolved_policy, table
from memalpha_jax.planning.steps import compile_rollout, compile_update
from memalpha_jax.planning.topologies import GIB, Topology, topology
from memalpha_jax.policy.config import LoraConfig, PolicyConfig

QWEN3_4B = PolicyConfig(
    vocab_size=151_936,
    width=2560,
    layers=36,
    heads=32,
    kv_heads=8,
    head_dim=128,
    ff=9728,
    rope_theta=1e6,
    max_positions=40_960,
    dtype="bfloat16",
    remat="layer",
    scan_layers=True,
)
PARAMETERS_4B = 4_022_468_096
SMALL = PolicyConfig(
    vocab_size=512, width=64, layers=2, heads=4, kv_heads=2, head_dim=16, ff=192, remat="layer", scan_layers=True
)


def config(policy: PolicyConfig, **settings) -> Config:
    """A run of 8 trajectories of two chunks, with keys set by their dotted names (`__` for the dot)."""
    flat = {
        "rollout.prompt_tokens": 192,
        "rollout.reply_tokens": 64,
        "rollout.max_calls": 2,
        "rollout.template": "compact",
        "episodes.chunks": 2,
        "grpo.episodes": 4,
        "grpo.group": 2,
        "grpo.block_rows": 4,
        "grpo.logprob_slice": 32,
    }
    flat |= {name.replace("__", "."): value for name, value in settings.items()}
    nested: dict = {"policy": policy}
    for key, value in flat.items():
        section = nested
        *path, last = key.split(".")
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
    return build(Config, nested)


def published(**settings) -> Config:
    sizes = {"rollout.prompt_tokens": 6144, "rollout.reply_tokens": 2048, "rollout.max_calls": 32}
    sizes |= {"episodes.chunks": 10, "grpo.episodes": 32, "grpo.group": 8, "grpo.block_rows": 8}
    sizes |= {"grpo.logprob_slice": 128, "rollout.template": "qwen_agent"}
    return config(QWEN3_4B, **{**sizes, **{k.replace("__", "."): v for k, v in settings.items()}})


def peak(function, *shapes, donated=None) -> int:
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return peak_bytes(jax.make_jaxpr(function)(*arguments).jaxpr, donated)
