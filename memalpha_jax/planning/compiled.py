"""Compiling the real steps of a run for a machine that need not be there."""

from __future__ import annotations

import importlib.util
from typing import Any

import jax
from absl import logging

from memalpha_jax.planning.estimate import ROLLOUT, UPDATE, Estimator
from memalpha_jax.planning.steps import Compiled, compile_rollout, compile_update


def abstract_devices(estimator: Estimator) -> tuple[list[Any], str]:
    """The devices to compile for, and why there are none where there are none."""
    top = estimator.topology
    if top.platform == "cpu":
        return jax.devices("cpu")[: top.devices], ""
    if top.platform == "gpu":
        return [], "not compiled: XLA compiles for a GPU only where there is one"
    if estimator.has_fused_attention():
        return [], "not compiled: splash attention can be lowered only on a TPU"
    if importlib.util.find_spec("libtpu") is None:
        return [], "not compiled: libtpu is not installed (pip install libtpu)"
    from jax.experimental import topologies  # it loads libtpu

    return list(topologies.get_topology_desc(top.slice, "tpu").devices), ""


def compile_steps(estimator: Estimator) -> tuple[dict[str, Compiled], str]:
    """The analyses of both compiled steps by phase, or none and a sentence that says why."""
    devices, why = abstract_devices(estimator)
    if not devices:
        return {}, why
    arguments = estimator.config, estimator.policy, devices, estimator.layout
    compiled = {}
    for name, compile_step in ((ROLLOUT, compile_rollout), (UPDATE, compile_update)):
        logging.info("compiling the %s for %s", name, estimator.topology.name)
        compiled[name] = compile_step(*arguments)
    return compiled, "compiled on this machine, without arrays"
