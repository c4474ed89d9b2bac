"""Small runs to plan for, and what XLA makes of their steps."""

from __future__ import annotations

import dataclasses

import jax

from memalpha_jax.config import build
from memalpha_jax.experiment import Config
from memalpha_jax.planning.estimate import UPDATE, Estimator
from memalpha_jax.planning.steps import compile_rollout, compile_update
from memalpha_jax.planning.topologies import GIB, Topology
from memalpha_jax.policy.config import PolicyConfig

SMALL = PolicyConfig(
    vocab_size=512, width=64, layers=2, heads=4, kv_heads=2, head_dim=16, ff=192, remat="layer", scan_layers=True
)

WIDE = dataclasses.replace(SMALL, width=128, head_dim=32, ff=384)


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


def machine(devices: int, gib: float, platform: str = "cpu") -> Topology:
    size = int(gib * GIB)
    return Topology("test", platform, devices, size, size, "", True, "made up")


LIKE_OTHERS = {
    "xla_cpu_experimental_ynn_fusion_type": "",
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
}
"""XLA without what only its CPU backend has: kernels of a library, for which operands are copied, and an order of work
that is breadth first, so that cores have work beside each other, whatever that takes.
"""


def compiled_total(estimator: Estimator, name: str) -> int:
    """Bytes per device by XLA's analysis, what the step is not given included."""
    compile_step = compile_update if name == UPDATE else compile_rollout
    devices = jax.devices()[: estimator.topology.devices]
    made = compile_step(estimator.config, estimator.policy, devices, estimator.layout, LIKE_OTHERS)
    return made.total + estimator.phase(name).not_given
