"""The decoder: causal, blind to padding, the same with scan and remat, equal to another implementation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from small_policy import SIZES, jitted_init, random_params

from memalpha_jax.errors import UserError
from memalpha_jax.policy.attention import Causal, attend
from memalpha_jax.policy.config import REMATS, YarnConfig
from memalpha_jax.policy.model import COPYING_EMBED, COPYING_OUT, Qwen3, copying_init, init_params, product, rotary

N, T = 3, 14
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(1, SIZES.vocab_size, (N, T))
COPYING = dataclasses.replace(SIZES, width=256, vocab_size=64, init="copying")


@pytest.fixture(scope="module")
def params():
    return random_params(SIZES)


def logits(config, params, tokens_NT) -> np.ndarray:
    run = jax.jit(lambda p, t: Qwen3(config).apply({"params": p}, t))
    return np.asarray(run(params, tokens_NT))


def hidden(params, tokens_T) -> jax.Array:
    size = len(tokens_T)
    arguments = (tokens_T[None], jnp.arange(size)[None], jnp.tri(size, dtype=bool)[None])
    return Qwen3(SIZES).apply({"params": params}, *arguments, method="hidden")[0][0]


def test_no_gradient_flows_from_an_output_to_later_inputs(params):
    direction_D = jnp.asarray(RNG.normal(size=SIZES.width), jnp.float32)
    tokens_T = jnp.arange(T)  # all different, so row s of the embedding is exactly the input at s

    def outputs(embed):
        return hidden({**params, "embed": embed}, tokens_T) @ direction_D

    size_TS = np.linalg.norm(jax.jit(jax.jacrev(outputs))(params["embed"])[:, :T], axis=-1)
    later = np.triu(np.ones((T, T), bool), k=1)
    assert (size_TS[later] == 0).all()
    assert (size_TS[~later] > 1e-6).all()


def test_later_tokens_leave_earlier_logits_unchanged(params):
    before = logits(SIZES, params, TOKENS)
    for t in (1, 7, T - 1):
        changed = TOKENS.copy()
        changed[:, t:] = RNG.integers(1, SIZES.vocab_size, (N, T - t))
        after = logits(SIZES, params, changed)
        np.testing.assert_array_equal(after[:, :t], before[:, :t])
        assert np.abs(after[:, t:] - before[:, t:]).max() > 0.1


def test_padding_is_never_looked_at(params):
    lengths = np.array([T, 1, 9])
    together = logits(SIZES, params, np.where(np.arange(T) < lengths[:, None], TOKENS, 5))
    for n, length in enumerate(lengths):
        alone = logits(SIZES, params, TOKENS[n : n + 1, :length])[0]
        np.testing.assert_allclose(together[n, :length], alone, atol=1e-5)


def value_and_gradient(config, params):
    weights = np.random.default_rng(1).normal(size=(N, T, SIZES.vocab_size))

    def total(p):
        return jnp.sum(weights * Qwen3(config).apply({"params": p}, TOKENS))

    return jax.jit(jax.value_and_grad(total))(params)


@pytest.fixture(scope="module")
def plain(params):
    return value_and_gradient(SIZES, params)


@pytest.mark.parametrize(
    "change",
    [
        *({"remat": remat} for remat in REMATS),
        {"scan_layers": True},
        {"scan_layers": True, "remat": "layer"},
    ],
)
def test_scan_and_remat_change_neither_value_nor_gradient(params, plain, change):
    other = value_and_gradient(dataclasses.replace(SIZES, **change), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), plain, other)


@pytest.mark.parametrize(
    "change", [{}, {"remat": "layer"}, {"scan_layers": True}, {"attention": "splash", "head_dim": 128, "layers": 1}]
)
def test_states_that_are_read_are_those_of_all_in_value_and_gradient(change):
    config = dataclasses.replace(SIZES, **change)
    params = random_params(config)
    rng = np.random.default_rng(2)
    read_NR = rng.integers(0, T, (N, 4))  # in any order, and some of them twice
    weights = rng.normal(size=(N, 4, SIZES.width))

    def total(p, spare: bool):
        run = functools.partial(Qwen3(config).apply, {"params": p}, TOKENS, range(T), Causal(), method="hidden")
        if spare:
            return jnp.sum(weights * run(read_NR=jnp.asarray(read_NR))[0])
        return sum(jnp.sum(weights[n] * run()[0][n, read_NR[n]]) for n in range(N))

    found, expected = (jax.jit(jax.value_and_grad(functools.partial(total, spare=s)))(params) for s in (True, False))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected)


@pytest.mark.parametrize("yarn", [YarnConfig(), YarnConfig(factor=4.0, original_positions=64)])
def test_a_range_of_positions_turns_as_an_array_of_them(yarn):
    config, positions = dataclasses.replace(SIZES, yarn=yarn), range(40_000, 40_000 + T)
    of_array = jax.jit(functools.partial(rotary, config=config))(np.broadcast_to(positions, (N, T)))
    for constant, computed in zip(rotary(positions, config), of_array, strict=True):
        np.testing.assert_allclose(np.broadcast_to(constant, computed.shape), computed, atol=2e-6)


def torch_model(config, params) -> torch.nn.Module:
    """transformers' Qwen3 with our parameters."""
    sizes = transformers.Qwen3Config(
        vocab_size=config.vocab_size,
        hidden_size=config.width,
        intermediate_size=config.ff,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        head_dim=config.head_dim,
        rms_norm_eps=config.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=True,
        attention_bias=False,
        attn_implementation="eager",
    )
    model = transformers.Qwen3ForCausalLM(sizes).eval()
    projections = {
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "o": "self_attn.o_proj",
    }
    projections |= {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
    gains = {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}
    gains |= {"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
    weights = {
        "model.embed_tokens": params["embed"],
        "lm_head": params["embed"],
        "model.norm": params["norm"],
    }
    for i in range(config.layers):
        weights |= {f"model.layers.{i}.{theirs}": params[ours][i].T for ours, theirs in projections.items()}
        weights |= {f"model.layers.{i}.{theirs}": params[ours][i] for ours, theirs in gains.items()}
    model.load_state_dict({f"{name}.weight": torch.tensor(np.array(value)) for name, value in weights.items()})
    return model


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"rope_theta": 1e6, "norm_eps": 1e-3, "kv_heads": 1},
        {"layers": 3, "kv_heads": 4, "scan_layers": True},
    ],
)
def test_agrees_with_the_torch_qwen3(change):
    config = dataclasses.replace(SIZES, **change)
    params = random_params(config, seed=1)
    lengths = np.array([T, 4, 13])
    real = np.arange(T) < lengths[:, None]
    ours = logits(config, params, TOKENS)
    with torch.no_grad():
        theirs = torch_model(config, params)(torch.tensor(TOKENS), attention_mask=torch.tensor(real)).logits.numpy()
    assert np.abs(theirs[real]).max() > 1
    np.testing.assert_allclose(ours[real], theirs[real], atol=1e-5)


def test_attention_equals_a_loop_over_heads_and_queries():
    H, K, S, D = 6, 2, 7, 4
    q, k, v = (RNG.normal(size=(2, heads, size, D)) for heads, size in ((H, 5), (K, S), (K, S)))
    mask = RNG.random((2, 5, S)) < 0.6
    mask[..., 0] = True
    expected = np.zeros((2, H, 5, D))
    for n, h, t in np.ndindex(2, H, 5):
        seen = np.flatnonzero(mask[n, t])
        scores = np.array([q[n, h, t] @ k[n, h // (H // K), s] / np.sqrt(D) for s in seen])
        probs = np.exp(scores - scores.max())
        expected[n, h, t] = probs / probs.sum() @ v[n, h // (H // K), seen]
    found = attend(*(jnp.asarray(x, jnp.float32) for x in (q, k.swapaxes(2, 3), v)), jnp.asarray(mask))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_copying_init_has_the_documented_structure():
    key = jax.random.key(3)
    plain = jitted_init(dataclasses.replace(COPYING, init="qwen3"), key)
    moved = copying_init(COPYING, plain, jax.random.key(4))
    assert moved.keys() == plain.keys()
    size, group = COPYING.head_dim, COPYING.heads // COPYING.kv_heads
    for layer in range(COPYING.layers):
        for kv in range(COPYING.kv_heads):
            readers = range(kv * group, (kv + 1) * group)
            block = slice(kv * size, (kv + 1) * size)
            queries = [np.asarray(plain["q"])[layer, :, h * size : (h + 1) * size] for h in readers]
            key_of = np.asarray(moved["k"])[layer, :, block]
            np.testing.assert_allclose(key_of, np.sqrt(group) * np.mean(queries, axis=0), rtol=1e-5, atol=1e-6)
            value = np.asarray(plain["v"])[layer, :, block]
            for h in readers:
                out = np.asarray(moved["o"])[layer, h * size : (h + 1) * size]
                np.testing.assert_allclose(out, COPYING_OUT * value.T, rtol=1e-5)
    np.testing.assert_allclose(moved["down"], COPYING_OUT * plain["down"], rtol=1e-6)
    for name in ("q", "v", "gate", "up", "norm", "attn_norm", "q_norm", "k_norm", "mlp_norm"):
        np.testing.assert_array_equal(moved[name], plain[name])


def test_copying_init_makes_equal_contents_attract_and_embeddings_share_a_direction():
    params = jitted_init(COPYING, jax.random.key(0))
    embed = np.asarray(params["embed"])
    unit = embed / np.linalg.norm(embed, axis=1, keepdims=True)
    other = ~np.eye(len(unit), dtype=bool)
    assert (unit @ unit.T)[other].mean() == pytest.approx(0.5, abs=0.1)  # shared and own part have one size
    assert embed.std() == pytest.approx(np.sqrt(2) * COPYING_EMBED, rel=0.1)
    own = embed - embed.mean(axis=0)
    q = (own @ np.asarray(params["q"][0])).reshape(len(own), COPYING.heads, COPYING.head_dim)
    k = (own @ np.asarray(params["k"][0])).reshape(len(own), COPYING.kv_heads, COPYING.head_dim)
    score = np.einsum("xhd,yhd->xy", q, np.repeat(k, COPYING.heads // COPYING.kv_heads, axis=1))
    assert (score.argmax(axis=1) == np.arange(len(own))).mean() > 0.95


def test_qk_norm_gain_and_unknown_init():
    gains = jitted_init(dataclasses.replace(SIZES, qk_norm_init=1.3), jax.random.key(0))
    assert np.allclose(gains["q_norm"], 1.3)
    assert np.allclose(gains["k_norm"], 1.3)
    with pytest.raises(UserError, match=r"'orthogonal'.*qwen3, copying"):
        init_params(dataclasses.replace(SIZES, init="orthogonal"), jax.random.key(0))


@pytest.mark.parametrize(("D", "F"), [(12, 5), (5, 12), (7, 7)])
def test_product_has_the_value_and_the_gradients_of_torch(D, F):
    rng = np.random.default_rng(D)
    x, w, g = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 3, D), (D, F), (2, 3, F)))
    y, back = jax.vjp(product, x, w)
    x_torch, w_torch = (torch.tensor(a, requires_grad=True) for a in (x, w))
    y_torch = x_torch @ w_torch
    y_torch.backward(torch.tensor(g))
    for found, expected in zip((y, *back(g)), (y_torch, x_torch.grad, w_torch.grad), strict=True):
        np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-5, atol=1e-5)
