"""Advantages, token weights, loss and gradient against what their definitions say, in plain Python."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memalpha_jax.errors import UserError
from memalpha_jax.grpo.advantages import EPSILON, GROUPINGS, group_advantages, group_ids
from memalpha_jax.grpo.loss import AVERAGINGS, ObjectiveConfig, policy_loss, token_weights

N, T, R, K = 6, 3, 9, 4
EPISODE_N = np.array([7, 7, 7, 2, 2, 2])
SOURCE_N = np.array([0, 0, 0, 1, 1, 1])
CHUNKS_N = np.array([3, 3, 3, 2, 2, 2])
ACTIVE_NT = np.arange(T) < CHUNKS_N[:, None]
LENGTH_NT = np.array([[9, 1, 4], [2, 5, 0], [3, 9, 7], [6, 2, 0], [1, 1, 0], [8, 4, 0]])
OBJECTIVES = {
    "plain": {},
    "asymmetric": {"clip_low": 0.1, "clip_high": 0.35},
    "dual": {"dual_clip": 1.5, "clip_low": 0.3},
    "kl": {"kl_coef": 0.3, "dual_clip": 1.2},
}


def subactions_of(rng: np.random.Generator, length_NT: np.ndarray) -> np.ndarray:
    """Tokens of a few calls in order, prose among them (it gets the number of calls), -1 for padding."""
    subaction = np.full((*length_NT.shape, R), -1, np.int32)
    for n, t in np.ndindex(*length_NT.shape):
        length = length_NT[n, t]
        calls = int(rng.integers(0, min(K, length) + 1))
        owner = np.sort(rng.choice(calls, length)) if calls else np.zeros(length, int)
        _, owner = np.unique(owner, return_inverse=True)
        calls = owner.max(initial=-1) + 1 if calls else 0
        prose = rng.random(length) < 0.3
        subaction[n, t, :length] = np.where(prose, calls, owner)
    return subaction


def batch(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    old = rng.normal(-1, 0.5, (N, T, R)).astype(np.float32)
    new = old + rng.normal(0, 0.35, (N, T, R)).astype(np.float32)
    return {
        "old": old,
        "new": new,
        "reference": new + rng.normal(0, 0.5, (N, T, R)).astype(np.float32),
        "reward": rng.normal(0.5, 0.4, (N, T)),
        "subaction": subactions_of(rng, LENGTH_NT),
    }


# ---------------------------------------------------------------------------------------------- advantages


def advantages_by_loop(reward_NT, active_NT, group_of) -> np.ndarray:
    """A = (R - mean) / (std + eps) with the unbiased std over the active steps of a group."""
    found = np.zeros(reward_NT.shape)
    for n, t in zip(*np.nonzero(active_NT), strict=True):
        group = [
            reward_NT[m, s] for m, s in zip(*np.nonzero(active_NT), strict=True) if group_of(m, s) == group_of(n, t)
        ]
        mean = sum(group) / len(group)
        variance = sum((r - mean) ** 2 for r in group) / max(len(group) - 1, 1)
        found[n, t] = (reward_NT[n, t] - mean) / (math.sqrt(variance) + EPSILON)
    return found


GROUP_OF = {
    "episode": lambda n, t: EPISODE_N[n],
    "chunk": lambda n, t: (EPISODE_N[n], t),
    "source": lambda n, t: SOURCE_N[n],
}


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_advantages_equal_a_loop_over_groups(grouping):
    reward = batch(0)["reward"]
    group_NT = group_ids(grouping, EPISODE_N, SOURCE_N, T)
    found = group_advantages(np.where(ACTIVE_NT, reward, np.nan), ACTIVE_NT, group_NT)
    np.testing.assert_allclose(found, advantages_by_loop(reward, ACTIVE_NT, GROUP_OF[grouping]), atol=1e-5)
    assert (found[~ACTIVE_NT] == 0).all()
    assert found.dtype == np.float32


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 4))
def test_any_grouping_of_any_active_steps_equals_the_loop(seed, rows, steps):
    rng = np.random.default_rng(seed)
    group_NT = rng.integers(-2, 4, (rows, steps))
    active_NT = rng.random((rows, steps)) < 0.7
    reward_NT = rng.normal(3, 1, (rows, steps)).round(1)  # equal rewards occur
    found = group_advantages(reward_NT, active_NT, group_NT)
    expected = advantages_by_loop(reward_NT, active_NT, lambda n, t: group_NT[n, t])
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_group_of_one_and_a_group_of_equals_have_no_advantage():
    reward = np.array([[5.0, 1.0], [5.0, 0.25], [5.0, 0.25]])
    group = np.array([[0, 1], [0, 2], [0, 3]])
    assert (group_advantages(reward, np.ones((3, 2), bool), group) == 0).all()
    assert (group_advantages(reward, np.zeros((3, 2), bool), group) == 0).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 4))
def test_one_scale_for_the_batch_keeps_the_differences_between_groups(seed, rows, steps):
    rng = np.random.default_rng(seed)
    group_NT, active_NT = rng.integers(-2, 4, (rows, steps)), rng.random((rows, steps)) < 0.7
    reward_NT = rng.normal(3, 1, (rows, steps)).round(1)
    members = [(n, t) for n, t in np.ndindex(rows, steps) if active_NT[n, t]]
    centred = np.zeros((rows, steps))
    for n, t in members:
        own = [reward_NT[at] for at in members if group_NT[at] == group_NT[n, t]]
        centred[n, t] = reward_NT[n, t] - sum(own) / len(own)
    size = (sum(centred[at] ** 2 for at in members) / max(1, len(members))) ** 0.5
    found = group_advantages(reward_NT, active_NT, group_NT, "batch")
    np.testing.assert_allclose(found, centred / (size + EPSILON), atol=1e-4)


def test_unknown_choices_are_told():
    with pytest.raises(UserError, match=r"grpo\.scale is 'token'.*group, batch"):
        group_advantages(np.zeros((1, 1)), np.ones((1, 1), bool), np.zeros((1, 1)), "token")
    with pytest.raises(UserError, match=r"'batch'.*episode, chunk, source"):
        group_ids("batch", EPISODE_N, SOURCE_N, T)
    with pytest.raises(UserError, match=r"'word'.*subaction, token, sequence, constant"):
        token_weights("word", batch(0)["subaction"], LENGTH_NT, ACTIVE_NT, K + 1)


# ------------------------------------------------------------------------------------------------- weights


def weights(averaging: str, subaction, length_NT=LENGTH_NT, active_NT=ACTIVE_NT) -> np.ndarray:
    arrays = (jnp.asarray(x) for x in (subaction, length_NT, active_NT))
    return np.asarray(token_weights(averaging, *arrays, K + 1))


def replies() -> list[tuple[int, int]]:
    return [(n, t) for n, t in np.ndindex(N, T) if ACTIVE_NT[n, t] and LENGTH_NT[n, t] > 0]


def test_weights_of_a_reply_sum_to_its_share():
    subaction = batch(1)["subaction"]
    found = {averaging: weights(averaging, subaction) for averaging in AVERAGINGS}
    count = len(replies())
    for n, t in np.ndindex(N, T):
        written = (n, t) in replies()
        share = {name: w[n, t].sum() for name, w in found.items()}
        assert share["subaction"] == pytest.approx(written / N, rel=1e-5)
        assert share["token"] == pytest.approx(written / count, rel=1e-5)
        assert share["sequence"] == pytest.approx(written / count, rel=1e-5)
        assert share["constant"] == pytest.approx(written * LENGTH_NT[n, t] / R / count, rel=1e-5)
        for w in found.values():
            assert ((w[n, t] > 0) == (written & (np.arange(R) < LENGTH_NT[n, t]))).all()


def test_every_subaction_of_a_reply_weighs_the_same():
    subaction = batch(2)["subaction"]
    found = weights("subaction", subaction)
    for n, t in replies():
        own = subaction[n, t, : LENGTH_NT[n, t]]
        per_subaction = [found[n, t, : len(own)][own == k].sum() for k in np.unique(own)]
        np.testing.assert_allclose(per_subaction, 1 / N / len(per_subaction), rtol=1e-5)


def test_inactive_steps_weigh_nothing_and_an_empty_batch_is_finite():
    subaction = np.zeros((N, T, R), np.int32)
    for averaging in AVERAGINGS:
        found = weights(averaging, subaction, np.full((N, T), R))
        assert (found[~ACTIVE_NT] == 0).all()
        assert (weights(averaging, subaction, np.full((N, T), R), np.zeros((N, T), bool)) == 0).all()


# ------------------------------------------------------------------------------------------ loss, gradient


def token_term(config: ObjectiveConfig, ratio: float, A: float) -> tuple[float, float]:
    """Clipped objective of one ratio and its derivative by the logarithm of the ratio."""
    clipped = min(max(ratio, 1 - config.clip_low), 1 + config.clip_high)
    value, slope = (ratio * A, ratio * A) if ratio * A <= clipped * A else (clipped * A, 0.0)
    if config.dual_clip > 0 and A < 0 and value < config.dual_clip * A:
        value, slope = config.dual_clip * A, 0.0
    return value, slope


def averaging_shares(averaging: str, own: list[int], count: int) -> list[float]:
    """How much each token of one reply counts in the objective; `own` holds their sub-actions."""
    if averaging == "constant":
        return [1 / R / count] * len(own)
    if averaging in ("token", "sequence"):
        return [1 / len(own) / count] * len(own)
    parts = set(own)
    return [1 / own.count(k) / len(parts) / N for k in own]


def loss_by_definition(config: ObjectiveConfig, data, advantage_NT) -> tuple[float, np.ndarray]:
    """The loss of the batch and its gradient by the log-probs, token by token."""
    loss, gradient = 0.0, np.zeros((N, T, R))
    for n, t in replies():
        length, A = LENGTH_NT[n, t], float(advantage_NT[n, t])
        log_ratio = [float(data["new"][n, t, r]) - float(data["old"][n, t, r]) for r in range(length)]
        shares = averaging_shares(config.averaging, data["subaction"][n, t, :length].tolist(), len(replies()))
        if config.averaging == "sequence":
            value, slope = token_term(config, math.exp(sum(log_ratio) / length), A)
            loss -= sum(shares) * value
            gradient[n, t, :length] -= sum(shares) * slope / length
        else:
            for r in range(length):
                value, slope = token_term(config, math.exp(log_ratio[r]), A)
                loss -= shares[r] * value
                gradient[n, t, r] -= shares[r] * slope
        for r in range(length):
            delta = float(data["reference"][n, t, r]) - float(data["new"][n, t, r])
            loss += config.kl_coef * shares[r] * (math.exp(delta) - 1 - delta)
            gradient[n, t, r] += config.kl_coef * shares[r] * (1 - math.exp(delta))
    return loss, gradient


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("grouping", "averaging"), itertools.product(GROUPINGS, AVERAGINGS))
def test_loss_and_gradient_equal_their_definition(grouping, averaging, objective):
    config = ObjectiveConfig(averaging=averaging, **OBJECTIVES[objective])
    data = batch(3)
    advantage_NT = group_advantages(data["reward"], ACTIVE_NT, group_ids(grouping, EPISODE_N, SOURCE_N, T))
    w = weights(averaging, data["subaction"]).reshape(N * T, R)
    reference = data["reference"].reshape(N * T, R) if config.kl_coef else None

    def loss(new):
        return policy_loss(config, new, data["old"].reshape(N * T, R), advantage_NT.reshape(-1), w, reference)

    (value, sums), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(data["new"]).reshape(N * T, R))
    expected, expected_gradient = loss_by_definition(config, data, advantage_NT)
    assert value == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(gradient.reshape(N, T, R), expected_gradient, atol=1e-6)
    assert np.abs(expected_gradient).max() > 1e-3
    assert sums["weight"] == pytest.approx(w.sum(), rel=1e-5)
    assert 0 < sums["clip_fraction"] < sums["weight"]
    assert ("reference_kl" in sums) == (config.kl_coef != 0)


def test_clips_bite_where_they_should():
    """One token of weight 1: its gradient is -ratio * A inside the bounds and 0 beyond them."""
    config = ObjectiveConfig(averaging="token", clip_low=0.1, clip_high=0.3, dual_clip=2.0)

    def gradient(ratio: float, A: float) -> float:
        one = jnp.zeros((1, 1))
        loss = lambda new: policy_loss(config, new, one, jnp.array([A]), one + 1)[0]
        return float(jax.grad(loss)(one + math.log(ratio))[0, 0])

    for ratio, A, free in (
        (1.0, 1.0, True), (1.29, 1.0, True), (1.31, 1.0, False), (0.5, 1.0, True),
        (1.0, -1.0, True), (0.91, -1.0, True), (0.89, -1.0, False), (1.9, -1.0, True), (2.1, -1.0, False),
    ):  # fmt: skip
        assert gradient(ratio, A) == pytest.approx(-ratio * A if free else 0.0, abs=1e-6)


def test_padding_may_hold_anything():
    data = batch(4)
    config = ObjectiveConfig(kl_coef=0.1)
    w = weights("subaction", data["subaction"]).reshape(N * T, R)
    A = jnp.asarray(np.random.default_rng(0).normal(size=N * T), jnp.float32)

    def value_and_gradient(new):
        loss = lambda x: policy_loss(config, x, data["old"].reshape(N * T, R), A, w, x * 0.9)[0]
        return jax.value_and_grad(loss)(new)

    new = data["new"].reshape(N * T, R)
    expected = value_and_gradient(new)
    for junk in (1e30, -1e30, np.inf):
        value, gradient = value_and_gradient(np.where(w > 0, new, junk).astype(np.float32))
        np.testing.assert_array_equal(value, expected[0])
        np.testing.assert_array_equal(gradient, expected[1])
