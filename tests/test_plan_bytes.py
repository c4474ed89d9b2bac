"""Bytes worked out from shapes against XLA's analysis of the compiled steps: within a tenth, at every size."""

from __future__ import annotations

import dataclasses

import jax
import pytest
from small_plans import SMALL, WIDE, compiled_total, config, machine

from memalpha_jax.experiment import Config
from memalpha_jax.planning.abstract import abstract_arguments
from memalpha_jax.planning.estimate import ROLLOUT, UPDATE, Estimator
from memalpha_jax.planning.liveness import nbytes
from memalpha_jax.policy.config import LoraConfig, PolicyConfig

ROWS = {"short": (64, 16, 8), "middle": (256, 32, 8), "long": (1024, 64, 2)}
"""Tokens of a row, a quarter of them reply; those of which logits exist at once; rows of a block. Attention is plain
XLA, in eight blocks of queries for long rows, in four for middle ones, and in one for short ones."""


def run(policy: PolicyConfig, length: str, fsdp: int = 1, tensor: int = 1) -> tuple[Config, int]:
    """A run and its number of devices."""
    tokens, logits, rows = ROWS[length]
    sizes = {"rollout.prompt_tokens": tokens - tokens // 4, "rollout.reply_tokens": tokens // 4}
    sizes |= {"grpo.logprob_slice": logits, "grpo.block_rows": max(rows, fsdp)}
    return config(policy, **sizes, **{"mesh.fsdp": fsdp, "mesh.tensor": tensor}), fsdp * tensor


def adapted(policy: PolicyConfig) -> PolicyConfig:
    return dataclasses.replace(policy, lora=LoraConfig(rank=8))


def half(policy: PolicyConfig) -> PolicyConfig:
    return dataclasses.replace(policy, dtype="bfloat16")


def keeping(policy: PolicyConfig, remat: str, scan_layers: bool = True) -> PolicyConfig:
    return dataclasses.replace(policy, remat=remat, scan_layers=scan_layers)


UPDATES = {
    "all": (SMALL, "short"),
    "long": (SMALL, "long"),
    "adapters": (adapted(WIDE), "middle"),
    "bfloat16": (half(WIDE), "short"),
    "bfloat16, adapters": (half(adapted(SMALL)), "short"),
    "dots kept": (keeping(SMALL, "dots"), "short"),
    "all but scores kept": (keeping(SMALL, "attention"), "middle"),
    "all kept, unrolled": (keeping(SMALL, "none", scan_layers=False), "short"),
    "fsdp 2": (WIDE, "short", 2),
    "fsdp 4": (SMALL, "middle", 4),
    "tensor 2, adapters": (adapted(WIDE), "middle", 1, 2),
}
ROLLOUTS = {
    "long": (SMALL, "long"),
    "bfloat16": (half(SMALL), "middle"),
    "adapters": (adapted(WIDE), "short"),
    "fsdp 4": (SMALL, "middle", 4),
    "tensor 2": (SMALL, "middle", 1, 2),
}
"""Policy, length of rows, fsdp and tensor."""


SCORES_ONCE_MORE = pytest.mark.xfail(
    jax.__version_info__ >= (0, 11),
    reason="since JAX 0.11 a CPU holds the scores of attention once more: the estimate is 11 % below",
)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=SCORES_ONCE_MORE) if case == "dots kept" else case for case in UPDATES]
)
def test_updates_are_within_a_tenth_of_the_compiled_analysis(case):
    what, devices = run(*UPDATES[case])
    estimator = Estimator(what, what.policy, machine(devices, 16))
    phase = estimator.phase(UPDATE)
    assert phase.parts["activations"] > 0.3 * phase.total  # the part that is hard to tell
    assert phase.total == pytest.approx(compiled_total(estimator, UPDATE), rel=0.1)


@pytest.mark.parametrize("case", ROLLOUTS)
def test_rollouts_are_within_a_tenth_of_the_compiled_analysis(case):
    what, devices = run(*ROLLOUTS[case])
    estimator = Estimator(what, what.policy, machine(devices, 16))
    assert estimator.phase(ROLLOUT).total == pytest.approx(compiled_total(estimator, ROLLOUT), rel=0.1)


def test_the_cache_is_that_of_all_layers_and_rows():
    what, devices = run(WIDE, "short")
    parts = Estimator(what, WIDE, machine(devices, 16)).phase(ROLLOUT).parts
    assert parts["KV cache"] == 2 * 2 * 2 * 32 * 64 * 4 * 8


FEW_TOKENS = {
    "rollout.prompt_tokens": 24,
    "rollout.reply_tokens": 8,
    "grpo.logprob_slice": 4,
    "grpo.block_rows": 1,
}
LARGE = {
    "embedding": dataclasses.replace(SMALL, vocab_size=20_000, width=128),
    "layers": dataclasses.replace(SMALL, width=128, ff=12_000),
}


@pytest.mark.parametrize("case", LARGE)
def test_where_parameters_dominate_every_part_is_the_array_it_names(case):
    policy = LARGE[case]
    what = config(policy, **FEW_TOKENS)
    estimator = Estimator(what, policy, machine(1, 16))
    phase = estimator.phase(UPDATE)
    state = abstract_arguments(what, policy, 8).state
    assert phase.parts["weights"] == nbytes(state.params)
    assert phase.parts["optimizer"] == nbytes(state.opt_state)
    if case == "embedding":
        # The sum and that of a block; of a tied embedding a block has one as input and one as output.
        gradients = 2 * nbytes(state.params) + nbytes(state.params["embed"])
        assert phase.parts["gradients"] == pytest.approx(gradients, rel=0.02)
    # In the end there are the sum of gradients, and all of the old state and the new.
    held = phase.parts["trajectories"] + 3 * nbytes(state.params) + 2 * nbytes(state.opt_state)
    assert phase.total == pytest.approx(held, rel=0.02)
    assert phase.total == pytest.approx(compiled_total(estimator, UPDATE), rel=0.02)


def test_rows_are_split_over_eight_devices():
    one = config(SMALL, grpo__block_rows=1, grpo__episodes=1, grpo__group=1)
    eight = config(SMALL, grpo__block_rows=8)
    alone = Estimator(
        dataclasses.replace(one, grpo=dataclasses.replace(one.grpo, episodes=1, group=1)), SMALL, machine(1, 1)
    )
    shared = Estimator(eight, SMALL, machine(8, 1))
    assert shared.phase(UPDATE) == alone.phase(UPDATE)
    assert shared.phase(UPDATE).total == pytest.approx(compiled_total(shared, UPDATE), rel=0.1)
