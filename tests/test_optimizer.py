"""AdamW as its paper has it, Muon on the matrices only, and a learning rate that never starts at zero."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_policy import SIZES, random_params

from memalpha_jax.errors import UserError
from memalpha_jax.policy.optimizer import MATRICES, OptimizerConfig, learning_rate, make_optimizer


@pytest.fixture(scope="module")
def params():
    return random_params(SIZES)


def gradients(params, count: int, size: float = 1.0) -> list[dict]:
    rng = np.random.default_rng(0)
    return [
        {name: jnp.asarray(size * rng.normal(size=value.shape), jnp.float32) for name, value in params.items()}
        for _ in range(count)
    ]


def steps(optimizer, params, gradient_list) -> list[dict]:
    """Parameters after every step."""
    state, found = optimizer.init(params), []
    apply = jax.jit(lambda g, s, p: optimizer.update(g, s, p))
    for gradient in gradient_list:
        updates, state = apply(gradient, state, params)
        params = optax.apply_updates(params, updates)
        found.append(params)
    return found


def adamw_in_numpy(config: OptimizerConfig, params, gradient_list, total) -> list[dict]:
    """Decoupled weight decay (Loshchilov and Hutter, algorithm 2) after clipping by the global norm."""
    params = {name: np.asarray(value, np.float64) for name, value in params.items()}
    m, v, found = dict.fromkeys(params, 0.0), dict.fromkeys(params, 0.0), []
    schedule = learning_rate(config, total)
    for i, gradient in enumerate(gradient_list):
        norm = np.sqrt(sum(float(jnp.sum(g**2)) for g in gradient.values()))
        scale = min(1.0, config.clip_norm / norm) if config.clip_norm else 1.0
        for name, g in gradient.items():
            g = scale * np.asarray(g, np.float64)
            m[name] = config.b1 * m[name] + (1 - config.b1) * g
            v[name] = config.b2 * v[name] + (1 - config.b2) * g**2
            step = m[name] / (1 - config.b1 ** (i + 1)) / (np.sqrt(v[name] / (1 - config.b2 ** (i + 1))) + 1e-8)
            decay = config.weight_decay * params[name] if name in MATRICES else 0.0
            params[name] = params[name] - float(schedule(i)) * (step + decay)
        found.append(dict(params))
    return found


@pytest.mark.parametrize("clip_norm", [0.5, 0.0, 1e6])
def test_adamw_equals_numpy_and_decays_matrices_only(params, clip_norm):
    config = OptimizerConfig(lr=0.01, warmup=0.5, weight_decay=0.3, b2=0.98, clip_norm=clip_norm)
    gradient_list = gradients(params, 4)
    found = steps(make_optimizer(config, 6), params, gradient_list)
    expected = adamw_in_numpy(config, params, gradient_list, 6)
    for ours, theirs in zip(found, expected, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), ours, theirs)


def test_what_decays_without_a_gradient(params):
    config = OptimizerConfig(lr=0.1, warmup=0.0, weight_decay=0.5)
    after = steps(make_optimizer(config, 4), params, gradients(params, 1, size=0.0))[0]
    for name, value in params.items():
        factor = 1 - 0.1 * 0.5 if name in MATRICES else 1.0
        np.testing.assert_allclose(after[name], factor * value, rtol=1e-5)


def test_muon_makes_matrix_updates_orthogonal_and_leaves_the_rest_to_adam(params):
    config = OptimizerConfig(name="muon", lr=0.01, warmup=0.0, weight_decay=0.0, adam_share=0.3)
    gradient = gradients(params, 1)
    after = steps(make_optimizer(config, 10), params, gradient)[0]
    for name, value in params.items():
        moved = np.asarray(after[name] - value, np.float64)
        if name not in MATRICES:
            nesterov = 1 + config.b1 / (1 + config.b1)  # the first step of Adam looks ahead, as Muon's does
            expected = -0.01 * 0.3 * nesterov * np.sign(gradient[0][name])
            np.testing.assert_allclose(moved, expected, rtol=0.01, atol=1e-6)
            continue
        for layer, own in zip(moved, np.asarray(gradient[0][name]), strict=True):
            size = 0.01 * 0.2 * np.sqrt(max(layer.shape))  # as large as an update of Adam, by its mean square
            singular = np.linalg.svd(layer, compute_uv=False) / size
            assert (singular > 0.6).mean() > 0.9  # five iterations leave the smallest ones behind
            assert singular.max() < 1.3
            u, _, vt = np.linalg.svd(own, full_matrices=False)
            assert np.sum(layer * -(u @ vt)) / (np.linalg.norm(layer) * np.linalg.norm(u @ vt)) > 0.95


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.sampled_from([0.0, 0.05, 0.3]), st.sampled_from([0.0, 0.2, 0.7]), st.floats(0, 1))
def test_learning_rate_rises_stays_and_falls(total, warmup, decay, final):
    config = OptimizerConfig(lr=2.0, warmup=warmup, decay=decay, final_lr_share=final)
    schedule = learning_rate(config, total)
    rate = np.array([float(schedule(step)) for step in range(total + 1)])
    warm, fall = round(warmup * total), round(decay * total)
    assert rate[0] == pytest.approx(2.0 / (warm + 1), rel=1e-5)
    assert (rate[:-1] > 0).all()
    for step in range(total):
        if step < warm:
            expected = 2.0 * (step + 1) / (warm + 1)  # the next line of the ladder to lr, which `warm` reaches
            low, high = 2.0 / (warm + 1), 2.0
            expected = low + (high - low) * step / warm
        elif step < total - fall:
            expected = 2.0
        else:
            expected = 2.0 * (1 - (1 - final) * (step - max(warm, total - fall)) / fall)
        assert rate[step] == pytest.approx(expected, rel=1e-4)


def test_an_unknown_name_is_told():
    with pytest.raises(UserError, match=r"'sgd'.*'adamw', 'muon'"):
        make_optimizer(OptimizerConfig(name="sgd"), 10)
