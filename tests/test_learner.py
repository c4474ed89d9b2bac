"""A step equals one plain gradient of the whole batch, however it is cut; bad gradients change nothing."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_policy import SIZES, random_params

from memalpha_jax.errors import UserError
from memalpha_jax.grpo.learner import GRPOConfig, accumulate, init_state, to_blocks, update
from memalpha_jax.grpo.loss import ObjectiveConfig, policy_loss, token_weights
from memalpha_jax.memory.state import MemoryConfig, empty_memory
from memalpha_jax.policy.config import LoraConfig
from memalpha_jax.policy.generate import generate
from memalpha_jax.policy.model import Qwen3, init_params
from memalpha_jax.policy.optimizer import OptimizerConfig, make_optimizer
from memalpha_jax.policy.sampling import SamplingConfig
from memalpha_jax.rollout.trajectory import Trajectory
from memalpha_jax.tools.calls import empty_call_batch
from memalpha_jax.trainer import split_params

POLICY = dataclasses.replace(SIZES, layers=1)
N, T, P, R, K = 8, 2, 7, 6, 3
TEMPERATURE = 0.8
SGD = optax.sgd(0.1)
OBJECTIVE = ObjectiveConfig(clip_low=0.1, clip_high=0.2, kl_coef=0.2)
RNG = np.random.default_rng(0)
ADVANTAGE_NT = RNG.normal(size=(N, T)).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    return random_params(POLICY)


@pytest.fixture(scope="module")
def reference():
    return random_params(POLICY, seed=5)


@pytest.fixture(scope="module")
def on_policy(params) -> Trajectory:
    """Replies sampled from `params`, of unequal lengths; one episode ends early, one chunk is not read."""
    prompt_len = RNG.integers(1, P + 1, (N, T))
    prompts = np.where(np.arange(P) < prompt_len[..., None], RNG.integers(1, POLICY.vocab_size, (N, T, P)), 0)
    active = np.ones((N, T), bool)
    active[3, 1] = active[6, 1] = False
    sampling = SamplingConfig(R, TEMPERATURE, eos_id=int(prompts.max()))
    keys = jax.random.split(jax.random.key(1), N * T)
    flat = (prompts.reshape(-1, P), prompt_len.reshape(-1), keys, active.reshape(-1))
    replies = jax.jit(lambda p: generate(POLICY, p, *flat, sampling))(params)
    length = np.minimum(np.asarray(replies.length_N).reshape(N, T), RNG.integers(1, R + 1, (N, T)))
    real = np.arange(R) < length[..., None]
    return Trajectory(
        prompt_NTP=prompts.astype(np.int32),
        prompt_len_NT=prompt_len.astype(np.int32),
        reply_NTR=np.where(real, np.asarray(replies.tokens_NR).reshape(N, T, R), 0),
        reply_len_NT=length.astype(np.int32),
        finished_NT=np.ones((N, T), bool),
        logprobs_NTR=np.where(real, np.asarray(replies.logprobs_NR).reshape(N, T, R), 0),
        subaction_NTR=np.where(real, RNG.integers(0, K + 1, (N, T, R)), -1).astype(np.int32),
        calls=empty_call_batch(K, R, (N, T)),
        statuses_NTK=np.full((N, T, K), -1, np.int32),
        active_NT=active,
        memory_tokens_NT=np.zeros((N, T), np.int32),
        memory=empty_memory(MemoryConfig(items=1, arena_tokens=1, core_tokens=1), (N,)),
    )


@pytest.fixture(scope="module")
def off_policy(on_policy) -> Trajectory:
    """The same with other old log-probs, so that ratios are away from 1."""
    noise = RNG.normal(0, 0.2, (N, T, R)).astype(np.float32)
    return dataclasses.replace(on_policy, logprobs_NTR=on_policy.logprobs_NTR + noise)


def take(trajectory: Trajectory, rows: np.ndarray) -> Trajectory:
    return jax.tree.map(lambda x: np.asarray(x)[rows], trajectory)


@functools.cache
def jitted_update(config: GRPOConfig, optimizer: optax.GradientTransformation):
    static = {"policy": POLICY, "config": config, "temperature": TEMPERATURE, "optimizer": optimizer}
    return jax.jit(functools.partial(update, **static))


def run(state, reference, trajectory, advantage_NT=ADVANTAGE_NT, optimizer=SGD, **config):
    config = GRPOConfig(**{"objective": OBJECTIVE, **config})
    return jitted_update(config, optimizer)(state, {}, reference, trajectory, advantage_NT)


def without_gaps(t: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """Every prompt with its reply right behind it, [n * T, P + R], and the lengths of the prompts."""
    prompt_len = np.asarray(t.prompt_len_NT).reshape(-1)
    tokens = np.zeros((len(prompt_len), P + R), np.int32)
    tokens[:, :P] = t.prompt_NTP.reshape(-1, P)
    for row, start, reply in zip(tokens, prompt_len, np.asarray(t.reply_NTR).reshape(-1, R), strict=True):
        row[start : start + R] = reply
    return tokens, prompt_len


@jax.jit
def plain_logprobs(params, tokens, prompt_len) -> jax.Array:
    """Of the replies in `tokens`, [n * T, R], by the full forward pass."""
    logits = Qwen3(POLICY).apply({"params": params}, tokens) / TEMPERATURE
    logp = jnp.take_along_axis(jax.nn.log_softmax(logits)[:, :-1], tokens[:, 1:, None], axis=2)[..., 0]
    return jnp.take_along_axis(logp, (prompt_len - 1)[:, None] + np.arange(R), axis=1)


@functools.partial(jax.jit, static_argnums=0)
def plain_gradient(objective, params, reference, tokens, prompt_len, old, advantage, w):
    def loss(p):
        fixed = plain_logprobs(reference, tokens, prompt_len)
        return policy_loss(objective, plain_logprobs(p, tokens, prompt_len), old, advantage, w, fixed)[0]

    return jax.value_and_grad(loss)(params)


def plain_update(params, reference, t: Trajectory, advantage_NT, objective=OBJECTIVE) -> tuple[dict, float]:
    """One step of SGD on the loss of all replies at once."""
    w = token_weights(objective.averaging, t.subaction_NTR, t.reply_len_NT, t.active_NT, K + 1)
    rows = (t.logprobs_NTR.reshape(-1, R), advantage_NT.reshape(-1), w.reshape(-1, R))
    value, gradient = plain_gradient(objective, params, reference, *without_gaps(t), *rows)
    updates, _ = SGD.update(gradient, SGD.init(params))
    return optax.apply_updates(params, updates), float(value)


def assert_close(found, expected, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=1e-5), found, expected)


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.fixture(scope="module")
def whole(params, reference, off_policy):
    """State and metrics of one step on one big block."""
    return run(init_state(params, SGD), reference, off_policy)


def test_a_step_equals_the_plain_gradient_of_the_whole_batch(params, reference, off_policy, whole):
    state, metrics = whole
    expected, loss = plain_update(params, reference, off_policy, ADVANTAGE_NT)
    assert max(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.abs(a - b).max(), params, expected))) > 1e-3
    assert_close(state.params, expected)
    assert metrics["loss"] == pytest.approx(loss, abs=1e-5)
    assert 0 < metrics["clip_fraction"] < 1
    assert (int(state.step), int(state.skipped)) == (1, 0)


@pytest.mark.parametrize("cut", [{"block_rows": 1}, {"block_rows": 4, "logprob_slice": 2}])
def test_blocks_of_any_size_give_the_same_step(params, reference, off_policy, whole, cut):
    state, metrics = run(init_state(params, SGD), reference, off_policy, **cut)
    assert_close(state.params, whole[0].params)
    assert metrics.pop("padding") <= whole[1]["padding"]  # a block of rows that ended is left out
    assert_close(metrics, {name: value for name, value in whole[1].items() if name != "padding"})


def test_buckets_give_the_same_step_with_less_padding(params, reference, off_policy, whole):
    plain, wide = run(init_state(params, SGD), reference, off_policy, block_rows=2)
    state, metrics = run(init_state(params, SGD), reference, off_policy, block_rows=2, buckets=4)
    narrow, tokens = (
        metrics.pop("padding"),
        np.sum((off_policy.prompt_len_NT + off_policy.reply_len_NT)[off_policy.active_NT]),
    )
    assert_close(state.params, whole[0].params)
    assert_close(metrics, {name: value for name, value in whole[1].items() if name != "padding"})
    assert wide["padding"] == pytest.approx(1 - tokens / (N * T * (P + R)), abs=1e-5)
    assert 0 <= narrow < wide["padding"] - 0.1
    assert_close(plain.params, state.params)


LORA = dataclasses.replace(POLICY, lora=LoraConfig(rank=2, alpha=3.0, targets=("q", "v", "down")))


def test_adapters_alone_are_trained_and_their_gradient_is_that_of_the_merged_weights(params, off_policy):
    """d/dA and d/dB of f(W + alpha/r A B) by the chain rule from the gradient of W."""
    rng = np.random.default_rng(3)
    base = {name: value for name, value in params.items() if "_lora_" not in name}
    shapes = jax.eval_shape(lambda: init_params(LORA, jax.random.key(0)))
    adapters = {n: jnp.asarray(rng.normal(0, 0.1, s.shape), jnp.float32) for n, s in shapes.items() if "_lora_" in n}
    assert sorted(adapters) == sorted(f"{n}_lora_{part}" for n in ("q", "v", "down") for part in "ab")
    scale = 3.0 / 2
    merged = dict(base)
    for name in LORA.lora.targets:
        merged[name] = base[name] + scale * adapters[f"{name}_lora_a"] @ adapters[f"{name}_lora_b"]
    objective = dataclasses.replace(OBJECTIVE, kl_coef=0.3)
    config = GRPOConfig(objective=objective, block_rows=4)
    blocks = jax.tree.map(lambda x: x[0], to_blocks(off_policy, ADVANTAGE_NT, config))
    take = lambda p, b, policy: jax.jit(lambda p: accumulate(p, b, base, blocks, policy, config, TEMPERATURE))(p)
    found, sums = take(adapters, base, LORA)
    of_weights, expected = take(merged, {}, POLICY)
    assert_close(sums, expected)
    assert sums["reference_kl"] > 0  # the reference is the base without adapters
    for name in LORA.lora.targets:
        a, b = adapters[f"{name}_lora_a"], adapters[f"{name}_lora_b"]
        assert_close(found[f"{name}_lora_a"], scale * of_weights[name] @ b.swapaxes(1, 2))
        assert_close(found[f"{name}_lora_b"], scale * a.swapaxes(1, 2) @ of_weights[name])


def test_fresh_adapters_change_nothing(params):
    trained, base = split_params(LORA, params, seed=1)
    assert all("_lora_" in name for name in trained)
    tokens = RNG.integers(1, POLICY.vocab_size, (2, 9))
    logits = lambda policy, params: jax.jit(Qwen3(policy).apply)({"params": params}, tokens)
    np.testing.assert_array_equal(logits(LORA, {**base, **trained}), logits(POLICY, params))


def test_half_precision_has_float32_masters_and_nearly_the_same_gradient(params, off_policy):
    half = dataclasses.replace(POLICY, dtype="bfloat16")
    config = GRPOConfig(objective=ObjectiveConfig(), block_rows=4)
    blocks = jax.tree.map(lambda x: x[0], to_blocks(off_policy, ADVANTAGE_NT, config))
    one, other = (
        jax.jit(lambda p, policy=policy: accumulate(p, {}, None, blocks, policy, config, TEMPERATURE)[0])(params)
        for policy in (POLICY, half)
    )
    assert {x.dtype for x in jax.tree.leaves(other)} == {jnp.dtype("float32")}
    flat, rough = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(g)]) for g in (one, other))
    assert 0 < np.linalg.norm(flat - rough) < 0.05 * np.linalg.norm(flat)


def test_the_first_moment_may_be_in_half_precision(params):
    optimizer = make_optimizer(OptimizerConfig(moment_dtype="bfloat16"), 10)
    state = jax.jit(optimizer.init)(params)
    moments = optax.tree.get(state, "mu"), optax.tree.get(state, "nu")
    assert [{x.dtype.name for x in jax.tree.leaves(m)} for m in moments] == [{"bfloat16"}, {"float32"}]
    updates, _ = jax.jit(optimizer.update)(params, state, params)
    assert {x.dtype.name for x in jax.tree.leaves(updates)} == {"float32"}


BY_TOKEN = dataclasses.replace(OBJECTIVE, averaging="token")
HALVES = {"objective": BY_TOKEN, "minibatches": 2, "block_rows": 2}


def test_minibatches_are_steps_on_parts_of_the_batch(params, reference, off_policy):
    """Rows are dealt out like cards, and every minibatch is averaged over its own rows."""
    found, metrics = run(init_state(params, SGD), reference, off_policy, **HALVES)
    expected, losses = params, []
    for rows in np.arange(0, N, 2), np.arange(1, N, 2):
        part = take(off_policy, rows)
        expected, loss = plain_update(expected, reference, part, ADVANTAGE_NT[rows], BY_TOKEN)
        losses.append(loss)
    assert_close(found.params, expected)
    assert metrics["loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert int(found.step) == 1


def test_cuts_that_do_not_divide_are_told(params, off_policy):
    for cut, named in ({"minibatches": 3}, "grpo.minibatches=3"), ({"block_rows": 3}, "grpo.block_rows=3"):
        with pytest.raises(UserError, match=rf"8 trajectories.*{named}"):
            run(init_state(params, SGD), None, off_policy, objective=ObjectiveConfig(), **cut)


ADAMW = make_optimizer(OptimizerConfig(lr=1e-3), 10)


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted(params, off_policy):
    step = functools.partial(run, optimizer=ADAMW, objective=ObjectiveConfig())
    bad_advantage = ADVANTAGE_NT.copy()
    bad_advantage[2, 0] = np.nan
    bad_logprobs = off_policy.logprobs_NTR.copy()
    bad_logprobs[2, 0, 0] = -1e30  # the ratio overflows
    overflowing = dataclasses.replace(off_policy, logprobs_NTR=bad_logprobs)
    first, _ = step(init_state(params, ADAMW), None, off_policy)
    second, _ = step(first, None, off_policy, bad_advantage)
    third, _ = step(second, None, overflowing, -np.abs(ADVANTAGE_NT))
    for state in (second, third):
        assert_same((state.params, state.opt_state), (first.params, first.opt_state))
    assert [int(s.skipped) for s in (first, second, third)] == [0, 1, 2]
    assert [int(s.skipped_in_a_row) for s in (first, second, third)] == [0, 1, 2]
    fourth, metrics = step(third, None, off_policy)
    expected, _ = step(first, None, off_policy)
    assert_same((fourth.params, fourth.opt_state), (expected.params, expected.opt_state))
    assert (int(fourth.skipped), int(fourth.skipped_in_a_row), int(fourth.step)) == (2, 0, 4)
    assert np.isfinite(list(metrics.values())).all()


def test_a_bad_minibatch_does_not_stop_the_others(params, reference, off_policy):
    bad = ADVANTAGE_NT.copy()
    bad[0] = np.inf
    state, _ = run(init_state(params, SGD), reference, off_policy, bad, **HALVES)
    rows = np.arange(1, N, 2)
    expected, _ = plain_update(params, reference, take(off_policy, rows), ADVANTAGE_NT[rows], BY_TOKEN)
    assert_close(state.params, expected)
    assert (int(state.skipped), int(state.skipped_in_a_row)) == (1, 0)


def test_a_chunk_that_was_not_read_adds_nothing(params, reference, off_policy):
    """Its prompt is longer than there is room for, and its reply is empty."""
    lengths = off_policy.reply_len_NT.copy()
    lengths[4, 0] = 0
    empty = dataclasses.replace(off_policy, reply_len_NT=lengths)
    prompt_lengths = off_policy.prompt_len_NT.copy()
    prompt_lengths[4, 0] = P + R + 3
    unread = dataclasses.replace(empty, prompt_len_NT=prompt_lengths)
    expected, wanted = run(init_state(params, SGD), reference, empty)
    state, metrics = run(init_state(params, SGD), reference, unread)
    assert int(state.skipped) == 0
    assert_close((state.params, metrics), (expected.params, wanted))


def test_without_kl_no_reference_is_needed_and_with_it_none_but_the_reference_counts(params, on_policy):
    start = init_state(params, SGD)
    plain, metrics = run(start, None, on_policy, objective=ObjectiveConfig())
    assert "reference_kl" not in metrics
    to_itself, metrics = run(start, params, on_policy, objective=ObjectiveConfig(kl_coef=0.5))
    assert metrics["reference_kl"] == pytest.approx(0, abs=1e-6)
    assert_close(to_itself.params, plain.params)
    with pytest.raises(AssertionError, match="reference policy is needed"):
        run(start, None, on_policy, objective=ObjectiveConfig(kl_coef=0.1))


def test_the_first_step_on_own_samples_has_ratio_one_and_goes_uphill(params, on_policy):
    state, metrics = run(init_state(params, SGD), None, on_policy, objective=ObjectiveConfig())
    assert metrics["clip_fraction"] == 0
    assert metrics["old_kl"] == pytest.approx(0, abs=1e-6)
    w = token_weights("subaction", on_policy.subaction_NTR, on_policy.reply_len_NT, on_policy.active_NT, K + 1)
    weighted_A = np.asarray(w).reshape(-1, R) * ADVANTAGE_NT.reshape(-1, 1)
    before, after = (plain_logprobs(p, *without_gaps(on_policy)) for p in (params, state.params))
    assert np.sum(weighted_A * (after - before)) > 0.01
    assert metrics["loss"] == pytest.approx(-weighted_A.sum(), abs=1e-5)
