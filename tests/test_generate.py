"""Generation equals the full forward pass and a loop in Python, and its log-probs are the training ones."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_policy import SIZES, random_params

from memalpha_jax.errors import UserError
from memalpha_jax.policy import generate as generate_module
from memalpha_jax.policy.generate import decode_step, generate, prefill
from memalpha_jax.policy.logprobs import reply_logprobs
from memalpha_jax.policy.model import Qwen3
from memalpha_jax.policy.sampling import SamplingConfig

N, P, R = 4, 9, 8
LENGTHS = np.array([9, 1, 5, 7])
NO_EOS = SamplingConfig(reply_tokens=R, temperature=1.0, eos_id=-1)
RNG = np.random.default_rng(0)
PROMPTS = np.where(np.arange(P) < LENGTHS[:, None], RNG.integers(1, SIZES.vocab_size, (N, P)), 0)
KEYS = jax.random.split(jax.random.key(7), N)


@pytest.fixture(scope="module")
def params():
    return random_params(SIZES)


@functools.partial(jax.jit, static_argnames="sampling")
def replies_to(params, prompts, lengths, keys, active, sampling):
    return generate(SIZES, params, prompts, lengths, keys, active, sampling)


def run(params, sampling, rows=slice(None), active=True):
    lengths = LENGTHS[rows]
    active = np.broadcast_to(active, lengths.shape)
    return jax.device_get(replies_to(params, PROMPTS[rows], lengths, KEYS[rows], active, sampling))


@jax.jit
def plain_logits(params, tokens_T):
    """The model over one sequence without gap, padding behind it or cache: [T, V]."""
    return Qwen3(SIZES).apply({"params": params}, tokens_T[None])[0]


def next_logits(params, prompt: list[int], reply: list[int]) -> np.ndarray:
    """Logits [len(reply) + 1, V] of what follows the prompt, by the full forward pass."""
    tokens = np.zeros(P + R, np.int64)
    tokens[: len(prompt) + len(reply)] = [*prompt, *reply]
    return np.asarray(plain_logits(params, tokens))[len(prompt) - 1 : len(prompt) + len(reply)]


def written_in_python(params, n: int, temperature: float) -> list[int]:
    """The reply to prompt n: one full forward pass and one draw per token."""
    prompt, reply = PROMPTS[n, : LENGTHS[n]].tolist(), []
    while len(reply) < R:
        last = next_logits(params, prompt, reply)[-1]
        if temperature == 0:
            reply.append(int(last.argmax()))
        else:
            key = jax.random.fold_in(KEYS[n], len(reply))
            reply.append(int(jax.random.categorical(key, jnp.asarray(last / temperature))))
    return reply


def test_prefill_and_decode_equal_the_full_forward_pass(params):
    replies = RNG.integers(1, SIZES.vocab_size, (N, R))
    logits, cache = jax.jit(lambda p: prefill(SIZES, p, PROMPTS, LENGTHS, R))(params)
    decode = jax.jit(lambda p, token, cache, step: decode_step(SIZES, p, token, cache, LENGTHS, step, P))
    found = [logits]
    for step in range(R):
        logits, cache = decode(params, replies[:, step], cache, step)
        found.append(logits)
    found = np.stack(found, axis=1)
    for n in range(N):
        expected = next_logits(params, PROMPTS[n, : LENGTHS[n]].tolist(), replies[n].tolist())
        np.testing.assert_allclose(found[n], expected, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.6])
def test_replies_equal_a_loop_in_python(params, temperature):
    found = run(params, dataclasses.replace(NO_EOS, temperature=temperature))
    expected = [written_in_python(params, n, temperature) for n in range(N)]
    assert found.tokens_NR.tolist() == expected
    assert (found.length_N == R).all()
    assert not found.finished_N.any()


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 1.7])
def test_sampler_logprobs_are_those_of_the_training_forward(params, temperature):
    found = run(params, dataclasses.replace(NO_EOS, temperature=temperature))
    score = jax.jit(functools.partial(reply_logprobs, SIZES, temperature=temperature))
    logprobs, entropy = score(params, PROMPTS, LENGTHS, found.tokens_NR, found.length_N)
    np.testing.assert_allclose(found.logprobs_NR, logprobs, atol=1e-5)
    for n in range(N):
        reply = found.tokens_NR[n].tolist()
        logits = next_logits(params, PROMPTS[n, : LENGTHS[n]].tolist(), reply)[:-1].astype(np.float64)
        expected = logits / (temperature or 1.0)
        expected -= np.log(np.exp(expected).sum(axis=-1, keepdims=True))
        np.testing.assert_allclose(logprobs[n], expected[np.arange(R), reply], atol=1e-5)
        np.testing.assert_allclose(entropy[n], -(np.exp(expected) * expected).sum(axis=-1), atol=1e-5)


def test_a_reply_does_not_depend_on_its_batch(params):
    together = run(params, NO_EOS)
    for rows in np.array([2]), np.array([3, 0, 2, 1]), np.array([1, 1, 3, 1]):
        other = run(params, NO_EOS, rows)
        np.testing.assert_array_equal(other.tokens_NR, together.tokens_NR[rows])
        np.testing.assert_allclose(other.logprobs_NR, together.logprobs_NR[rows], atol=1e-5)


def test_keys_decide_and_differ_by_row_and_step(params):
    same = replies_to(params, PROMPTS[[0, 0]], LENGTHS[[0, 0]], KEYS[:2], np.ones(2, bool), NO_EOS)
    assert (np.asarray(same.tokens_NR[0]) != np.asarray(same.tokens_NR[1])).any()
    flat = {**params, "embed": params["embed"] * 0}  # every token equally likely: only the keys are left
    drawn = run(flat, NO_EOS).tokens_NR
    assert len(set(drawn.flat)) > N * R / 3
    np.testing.assert_allclose(run(flat, NO_EOS).logprobs_NR, -np.log(SIZES.vocab_size), rtol=1e-6)


def test_the_end_token_ends_a_reply_and_counts(params):
    free = run(params, NO_EOS)
    eos_id = int(free.tokens_NR[2, 3])
    found = run(params, dataclasses.replace(NO_EOS, eos_id=eos_id))
    ended = 0
    for n in range(N):
        reply = free.tokens_NR[n].tolist()
        length = reply.index(eos_id) + 1 if eos_id in reply else R
        ended += eos_id in reply
        assert found.length_N[n] == length
        assert found.finished_N[n] == (eos_id in reply)
        assert found.tokens_NR[n].tolist() == reply[:length] + [0] * (R - length)
        np.testing.assert_allclose(found.logprobs_NR[n, :length], free.logprobs_NR[n, :length], atol=1e-5)
        assert (found.logprobs_NR[n, length:] == 0).all()
    assert 0 < ended < N


def test_inactive_rows_stay_empty_and_change_no_other_row(params):
    free = run(params, NO_EOS)
    active = np.array([True, False, True, False])
    found = run(params, NO_EOS, active=active)
    assert found.length_N.tolist() == [R, 0, R, 0]
    assert found.finished_N.tolist() == [False, True, False, True]
    np.testing.assert_array_equal(found.tokens_NR, np.where(active[:, None], free.tokens_NR, 0))
    assert (found.logprobs_NR[~active] == 0).all()


def test_decoding_stops_with_the_longest_reply(params, monkeypatch):
    free = run(params, NO_EOS)
    steps = []

    def counted(*args):
        jax.debug.callback(lambda step: steps.append(int(step)), args[5])
        return decode_step(*args)

    monkeypatch.setattr(generate_module, "decode_step", counted)
    eos_id = int(free.tokens_NR[2, 3])
    for active, expected in ([False] * N, 0), ([False, False, True, False], 3):  # nothing follows the fourth token
        steps.clear()
        sampling = dataclasses.replace(NO_EOS, eos_id=eos_id)
        jitted = jax.jit(lambda p, a, s=sampling: generate(SIZES, p, PROMPTS, LENGTHS, KEYS, a, s))
        jax.block_until_ready(jitted(params, np.array(active)))
        jax.effects_barrier()
        assert sorted(steps) == list(range(expected))


def scored(params, slice_tokens: int):
    """A weighted sum of log-probs and entropies, and its gradient."""
    rng = np.random.default_rng(1)
    tokens, lengths = rng.integers(1, SIZES.vocab_size, (N, R)), np.array([R, 1, 3, R])
    weights = rng.normal(size=(2, N, R)) * (np.arange(R) < lengths[:, None])

    def total(p):
        scores = reply_logprobs(SIZES, p, PROMPTS, LENGTHS, tokens, lengths, slice_tokens=slice_tokens)
        return sum(jnp.sum(w * s) for w, s in zip(weights, scores, strict=True))

    return jax.jit(jax.value_and_grad(total))(params)


@pytest.fixture(scope="module")
def unsliced(params):
    return scored(params, 0)


@pytest.mark.parametrize("slice_tokens", [1, 4, 3 * R])
def test_slicing_the_vocabulary_logits_changes_neither_value_nor_gradient(params, unsliced, slice_tokens):
    sliced = scored(params, slice_tokens)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), unsliced, sliced)


def test_a_slice_that_does_not_divide_the_reply_is_told(params):
    with pytest.raises(UserError, match=r"logprob_slice is 3.*reply_tokens is 8"):
        reply_logprobs(SIZES, params, PROMPTS, LENGTHS, np.zeros((N, R), int), LENGTHS * 0, slice_tokens=3)


def test_bfloat16_is_close_to_float32(params):
    """Greedy replies in float32, scored in bfloat16 token by token: eight bits of mantissa apart."""
    half = dataclasses.replace(SIZES, dtype="bfloat16")
    greedy = dataclasses.replace(NO_EOS, temperature=0.0)
    exact = run(params, greedy)
    found = jax.jit(lambda p: generate(half, p, PROMPTS, LENGTHS, KEYS, np.ones(N, bool), greedy))(params)
    assert found.logprobs_NR.dtype == jnp.float32
    same = np.cumprod(np.asarray(found.tokens_NR) == exact.tokens_NR, axis=1).astype(bool)
    assert same.mean() > 0.5
    differences = np.abs(np.asarray(found.logprobs_NR) - exact.logprobs_NR)[same]
    assert 0 < differences.max() < 0.1
    _, cache = jax.eval_shape(lambda p: prefill(half, p, PROMPTS, LENGTHS, R), params)
    assert {x.dtype for x in jax.tree.leaves(cache)} == {jnp.dtype("bfloat16")}


def test_the_cache_exists_once_and_decoding_does_not_copy_it():
    """Of XLA's own plan: each layer more adds its cache to the temporary memory, and no loop copies a whole one."""
    rows, width, reply = 8, 64, 64
    prompts, lengths = np.ones((rows, width), np.int32), np.full(rows, width)
    keys, sampling = jax.random.split(jax.random.key(0), rows), SamplingConfig(reply, 1.0, eos_id=-1)
    sizes = []
    for layers in (2, 4):
        config = dataclasses.replace(SIZES, layers=layers)
        shapes = jax.eval_shape(lambda c=config: random_params(c))
        function = jax.jit(lambda p, c=config: generate(c, p, prompts, lengths, keys, np.ones(rows, bool), sampling))
        compiled = function.lower(shapes).compile()
        sizes.append(compiled.memory_analysis().temp_size_in_bytes)
    one_layer = 4 * 2 * rows * SIZES.kv_heads * SIZES.head_dim * (width + reply)
    assert sizes[1] - sizes[0] < 1.25 * 2 * one_layer
    keys_shape = f"f32[{rows},{SIZES.kv_heads},{SIZES.head_dim},{width + reply}]"
    values_shape = f"f32[{rows},{SIZES.kv_heads},{width + reply},{SIZES.head_dim}]"
    lines = compiled.as_text().splitlines()
    assert any(keys_shape in line for line in lines)
    assert not [line for line in lines if " copy(" in line and (keys_shape in line or values_shape in line)]
