"""One optimizer update of the learner on random rows, each of a prompt and a reply without padding."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from memalpha_jax.benchmarks.report import OURS, PEER, Measured, Result
from memalpha_jax.benchmarks.timing import Device, alternate
from memalpha_jax.benchmarks.work import train_work
from memalpha_jax.grpo.learner import GRPOConfig, TrainState, init_state, update
from memalpha_jax.grpo.loss import ObjectiveConfig
from memalpha_jax.memory.state import MemoryConfig, empty_memory
from memalpha_jax.policy.config import PolicyConfig
from memalpha_jax.policy.logprobs import reply_logprobs
from memalpha_jax.policy.model import Params, cast
from memalpha_jax.policy.optimizer import OptimizerConfig, make_optimizer
from memalpha_jax.rollout.trajectory import Trajectory
from memalpha_jax.tools.calls import empty_call_batch

if TYPE_CHECKING:
    from memalpha_jax.benchmarks.peer import Peer


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """How the update is done. Every reply token weighs the same, as with averaging "constant"."""

    block_rows: int = 0
    logprob_slice: int = 0
    remat: str = "none"
    objective: ObjectiveConfig = ObjectiveConfig(averaging="constant")
    optimizer: OptimizerConfig = OptimizerConfig(warmup=0.0)


class Batch(NamedTuple):
    """prompt_NP, reply_NR int32; logprobs_NR float32 under the first policy; advantage_N float32."""

    prompt_NP: np.ndarray
    reply_NR: np.ndarray
    logprobs_NR: np.ndarray
    advantage_N: np.ndarray


def random_batch(
    config: PolicyConfig, params: Params, rows: int, prompt: int, reply: int, settings: TrainSettings
) -> Batch:
    """Random tokens, scored by the policy itself, so that ratios start at 1."""
    rng = np.random.default_rng(0)
    prompt_NP = rng.integers(1, config.vocab_size, (rows, prompt)).astype(np.int32)
    reply_NR = rng.integers(1, config.vocab_size, (rows, reply)).astype(np.int32)
    score = jax.jit(functools.partial(reply_logprobs, config, slice_tokens=settings.logprob_slice))
    size, scored = settings.block_rows or rows, []
    for start in range(0, rows, size):
        block = slice(start, start + size)
        lengths = [np.full(len(prompt_NP[block]), length, np.int32) for length in (prompt, reply)]
        computed = cast(params, config.dtype)
        scored.append(np.asarray(score(computed, prompt_NP[block], lengths[0], reply_NR[block], lengths[1])[0]))
    advantage_N = np.where(np.arange(rows) % 2, -0.5, 1.0).astype(np.float32)
    return Batch(prompt_NP, reply_NR, np.concatenate(scored), advantage_N)


def as_trajectory(batch: Batch) -> Trajectory:
    """One chunk step of N trajectories, without calls."""
    N, P = batch.prompt_NP.shape
    R = batch.reply_NR.shape[1]
    return Trajectory(
        prompt_NTP=batch.prompt_NP[:, None],
        prompt_len_NT=np.full((N, 1), P, np.int32),
        reply_NTR=batch.reply_NR[:, None],
        reply_len_NT=np.full((N, 1), R, np.int32),
        finished_NT=np.zeros((N, 1), bool),
        logprobs_NTR=batch.logprobs_NR[:, None],
        subaction_NTR=np.zeros((N, 1, R), np.int32),
        calls=empty_call_batch(1, 1, (N, 1)),
        statuses_NTK=np.full((N, 1, 1), -1, np.int32),
        active_NT=np.ones((N, 1), bool),
        memory_tokens_NT=np.zeros((N, 1), np.int32),
        memory=empty_memory(MemoryConfig(items=1, arena_tokens=1, core_tokens=1), (N,)),
    )


def trainer(config: PolicyConfig, params: Params, batch: Batch, settings: TrainSettings) -> Callable[[], float]:
    """A function that does one update, from where the last one ended, and returns the norm of its gradient.

    `params` are float32 and are used up: the state that they become part of is donated.
    """
    grpo = GRPOConfig(
        block_rows=settings.block_rows,
        logprob_slice=settings.logprob_slice,
        objective=settings.objective,
        optimizer=settings.optimizer,
    )
    optimizer = make_optimizer(settings.optimizer, total_steps=1)
    policy = dataclasses.replace(config, remat=settings.remat)
    options = {"policy": policy, "config": grpo, "temperature": 1.0, "optimizer": optimizer}
    step = jax.jit(functools.partial(update, **options), donate_argnums=0)
    trajectory, advantage_NT = jax.device_put((as_trajectory(batch), batch.advantage_N[:, None]))
    state: TrainState = init_state(params, optimizer)

    def one() -> float:
        nonlocal state
        state, metrics = step(state, {}, None, trajectory, advantage_NT)
        return float(metrics["grad_norm"])

    return one


def bench_train(
    config: PolicyConfig,
    params: Params,
    peer: Peer | None,
    device: Device,
    rows: int,
    prompt: int,
    reply: int,
    settings: TrainSettings,
    repeats: int,
) -> Result:
    """Updates on one batch: forward and backward pass, clipping, AdamW. `params` (float32) are used up."""
    batch = random_batch(config, params, rows, prompt, reply, settings)
    runs = {OURS: trainer(config, params, batch, settings)}
    checks: dict[str, Any] = {}
    if peer is not None:
        runs[PEER] = peer.trainer(batch, settings, config.dtype)
        # Both start from the same weights, so their first gradients must agree.
        checks["norm of the first gradient"] = " and ".join(f"{run():.6g}" for run in runs.values())
        peer.choose(runs[PEER])
        checks["transformers ran with"] = peer.settings
    else:
        runs[OURS]()
    timings = alternate(runs, repeats, device.sample)
    work = train_work(config, rows, prompt, reply)
    return Result([Measured("update", by, timing, work) for by, timing in timings.items()], checks)
