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
    """The analyses of the compiled steps by phase, and a sentence on what was compiled and why no more."""
    devices, why = abstract_devices(estimator)
    if not devices:
        return {}, why
    arguments = estimator.config, estimator.policy, devices, estimator.layout
    logging.info("compiling the update for %s", estimator.topology.name)
    compiled = {UPDATE: compile_update(*arguments)}
    if estimator.topology.platform == "tpu":
        return compiled, "the update was compiled; the rollout calls the host, which only a TPU that is there allows"
    logging.info("compiling the rollout for %s", estimator.topology.name)
    return compiled | {ROLLOUT: compile_rollout(*arguments)}, "both steps were compiled, without arrays"
