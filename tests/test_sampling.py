"""Every sampler against transformers' warpers and a loop in numpy; stop tokens; the thinking budget."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from small_policy import SIZES, random_params
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from memalpha_jax.errors import UserError
from memalpha_jax.grpo.loss import AVERAGINGS, token_weights
from memalpha_jax.policy.generate import generate
from memalpha_jax.policy.logprobs import reply_logprobs
from memalpha_jax.policy.model import Qwen3
from memalpha_jax.policy.sampling import (
    SamplingConfig,
    draw,
    first_of_highest,
    force_end,
    may_be_drawn,
    open_thinking,
)

V, N, P, R = 50, 6, 9, 12
CONFIG = dataclasses.replace(SIZES, layers=1)
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(scale=3, size=(N, V)).astype(np.float32)
PROMPTS, LENGTHS = RNG.integers(8, SIZES.vocab_size, (N, P)), RNG.integers(1, P + 1, N)
KEYS = jax.random.split(jax.random.key(0), N)
PLAIN = SamplingConfig(reply_tokens=R, temperature=1.0, eos_id=-1)
TRUNCATIONS = [
    {},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 3 * V},
    {"top_p": 0.9},
    {"top_p": 1e-6},
    {"min_p": 0.05},
    {"min_p": 0.999},
    {"top_k": 20, "top_p": 0.8},
    {"top_p": 0.95, "min_p": 0.1},
    {"top_k": 10, "top_p": 0.99, "min_p": 0.02},
]


def by_transformers(change, temperature) -> np.ndarray:
    """Probabilities [N, V], the warpers in the order in which `generate` of transformers applies them."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if "top_k" in change:
        warpers.append(TopKLogitsWarper(change["top_k"]))
    if "top_p" in change:
        warpers.append(TopPLogitsWarper(change["top_p"]))
    if "min_p" in change:
        warpers.append(MinPLogitsWarper(change["min_p"]))
    return torch.softmax(warpers(None, torch.tensor(LOGITS)), dim=-1).numpy()


def in_numpy(logits_V, top_k=0, top_p=1.0, min_p=0.0, temperature=1.0) -> np.ndarray:
    """Probabilities [V] of one row by the definitions, token by token."""

    def softmax(kept):
        weights = {i: np.exp(np.float64(logits_V[i]) / temperature) for i in kept}
        return {i: weight / sum(weights.values()) for i, weight in weights.items()}

    kept = sorted(range(len(logits_V)), key=lambda i: -logits_V[i])[: top_k or len(logits_V)]
    probs, reached, nucleus = softmax(kept), 0.0, []
    for i in kept:
        if reached < top_p:
            nucleus.append(i)
        reached += probs[i]
    probs = softmax(nucleus)
    probs = softmax([i for i in nucleus if probs[i] >= min_p * max(probs.values())])
    return np.array([probs.get(i, 0.0) for i in range(len(logits_V))])


@pytest.mark.parametrize("change", TRUNCATIONS, ids=str)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_tokens_are_drawn_from_the_distribution_of_transformers(change, temperature):
    sampling = dataclasses.replace(PLAIN, temperature=temperature, **change)
    _, logprobs, drawn_from = jax.jit(draw, static_argnums=3)(LOGITS, KEYS, 0, sampling)
    found = np.exp(np.asarray(drawn_from))
    expected = by_transformers(change, temperature)
    np.testing.assert_array_equal(found > 0, expected > 0)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(found, [in_numpy(row, **change, temperature=temperature) for row in LOGITS], atol=1e-6)
    full = [in_numpy(row, temperature=temperature) for row in LOGITS]
    np.testing.assert_allclose(np.exp(logprobs), full, atol=1e-6)


def test_draws_are_as_frequent_as_they_are_likely():
    sampling = dataclasses.replace(PLAIN, top_k=4, temperature=2.0)
    draws = 20_000
    keys = jax.random.split(jax.random.key(1), draws)
    token, _, _ = jax.jit(draw, static_argnums=3)(np.repeat(LOGITS[:1], draws, axis=0), keys, 3, sampling)
    expected = in_numpy(LOGITS[0], top_k=4, temperature=2.0)
    np.testing.assert_allclose(np.bincount(token, minlength=V) / draws, expected, atol=0.015)  # 4 standard errors


def test_ties_with_the_last_token_kept_are_kept_and_something_always_is():
    logits = jnp.array([[1.0, 3.0, 3.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    kept = np.asarray(may_be_drawn(logits, dataclasses.replace(PLAIN, top_k=2)))
    assert kept.tolist() == [[False, True, True, False, True], [True] * 5]
    for change in {"top_p": 1e-9}, {"min_p": 0.99}, {"top_k": 1, "top_p": 1e-9, "min_p": 0.99}:
        assert may_be_drawn(logits, dataclasses.replace(PLAIN, **change)).any(axis=1).all()


@pytest.fixture(scope="module")
def params():
    return random_params(CONFIG)


@functools.partial(jax.jit, static_argnames="sampling")
def replies_to(params, sampling, prompts=PROMPTS):
    return generate(CONFIG, params, prompts, LENGTHS, KEYS, np.ones(N, bool), sampling)


@pytest.fixture(scope="module")
def free(params):
    return replies_to(params, PLAIN)


def test_without_truncation_the_two_logprobs_are_one(free):
    np.testing.assert_array_equal(free.sampling_logprobs_NR, free.logprobs_NR)
    assert not free.forced_NR.any()


def test_a_truncated_reply_has_the_logprobs_of_both_distributions(params):
    """Each token's, from the logits of one plain pass over prompt and reply; the loss computes the untruncated one."""
    change = {"temperature": 0.8, "top_k": 5, "top_p": 0.9, "min_p": 0.05}
    found = jax.device_get(replies_to(params, dataclasses.replace(PLAIN, **change)))
    full, truncated = np.zeros((N, R)), np.zeros((N, R))
    forward = jax.jit(lambda tokens_NT: Qwen3(CONFIG).apply({"params": params}, tokens_NT))
    rows = [[*PROMPTS[n, : LENGTHS[n]], *found.tokens_NR[n]] for n in range(N)]
    logits_NTV = np.asarray(forward(np.array([row + [0] * (P + R - len(row)) for row in rows])))
    for n, r in np.ndindex(N, R):
        token, logits_V = found.tokens_NR[n, r], logits_NTV[n, LENGTHS[n] - 1 + r]
        full[n, r] = np.log(in_numpy(logits_V, temperature=0.8)[token])
        truncated[n, r] = np.log(in_numpy(logits_V, **change)[token])
    np.testing.assert_allclose(found.logprobs_NR, full, atol=1e-5)
    np.testing.assert_allclose(found.sampling_logprobs_NR, truncated, atol=1e-5)
    assert (truncated - full > 0.1).mean() > 0.5  # or the two could be mistaken for each other
    score = functools.partial(reply_logprobs, CONFIG, temperature=0.8)
    trained, _ = jax.jit(score)(params, PROMPTS, LENGTHS, found.tokens_NR, found.length_N)
    np.testing.assert_allclose(np.exp(trained - found.logprobs_NR), 1, atol=1e-5)  # the ratio, on policy


def test_greedy_replies_are_those_of_top_1(params):
    greedy = replies_to(params, dataclasses.replace(PLAIN, temperature=0.0))
    first = replies_to(params, dataclasses.replace(PLAIN, top_k=1))
    np.testing.assert_array_equal(greedy.tokens_NR, first.tokens_NR)
    np.testing.assert_allclose(first.sampling_logprobs_NR, 0, atol=1e-6)
    np.testing.assert_allclose(first.logprobs_NR, greedy.logprobs_NR, atol=1e-5)


def test_any_stop_token_ends_a_reply(params, free):
    free_tokens = np.asarray(free.tokens_NR)
    stops = {int(free_tokens[0, 4]), int(free_tokens[1, 2]), int(free_tokens[2, 7])}
    eos_id, *stop_ids = sorted(stops)
    found = replies_to(params, dataclasses.replace(PLAIN, eos_id=eos_id, stop_ids=tuple(stop_ids)))
    for n, reply in enumerate(free_tokens.tolist()):
        length = next((r + 1 for r, token in enumerate(reply) if token in stops), R)
        assert found.length_N[n] == length
        assert found.finished_N[n] == (reply[length - 1] in stops)
        assert found.tokens_NR[n].tolist() == reply[:length] + [0] * (R - length)


START, END = 1, 2
THINKING = dataclasses.replace(
    PLAIN, thinking_budget=5, think_start_id=START, think_end_id=END, think_end_ids=(3, END, 4)
)


def thinking_prompts(opened) -> np.ndarray:
    """The start of thinking as last token of the prompts of some rows."""
    prompts = PROMPTS.copy()
    prompts[opened, LENGTHS[opened] - 1] = START
    return prompts


def test_thinking_is_ended_at_its_budget_and_forced_tokens_are_told(params):
    opened = np.arange(N) < 3
    prompts = thinking_prompts(opened)
    found = jax.device_get(replies_to(params, THINKING, prompts))
    unforced = jax.device_get(replies_to(params, PLAIN, prompts))
    stopped = 0
    for n in range(N):
        reply, alone = found.tokens_NR[n].tolist(), unforced.tokens_NR[n].tolist()
        forced = by_hand(reply, bool(opened[n]))
        assert found.forced_NR[n].tolist() == forced
        first = forced.index(True) if any(forced) else R
        assert reply[:first] == alone[:first]
        stopped += any(forced)
    assert stopped >= 2
    logprobs, _ = jax.jit(functools.partial(reply_logprobs, CONFIG))(
        params, prompts, LENGTHS, found.tokens_NR, found.length_N
    )
    np.testing.assert_allclose(found.logprobs_NR, logprobs, atol=1e-5)
    expected = np.where(found.forced_NR, 0, found.logprobs_NR)
    np.testing.assert_array_equal(found.sampling_logprobs_NR, expected)


def by_hand(reply: list[int], thinking: bool) -> list[bool]:
    """Which tokens of a reply were forced, checking that they are the right ones."""
    forced, left = [], []
    for step, token in enumerate(reply):
        if not left and thinking and step >= THINKING.thinking_budget:
            left = list(THINKING.think_end_ids)
        forced.append(bool(left))
        if left:
            assert token == left.pop(0)
        thinking = (thinking or token == START) and token != END
    return forced


def test_forcing_under_random_draws_equals_a_loop():
    """Draws in which thinking starts and ends everywhere, also while its end is being written."""
    drawn = np.random.default_rng(3).choice([START, END, 9], p=[0.3, 0.1, 0.6], size=(R, 200))
    step = jax.jit(force_end, static_argnums=4)
    thinking, ending = jnp.asarray(RNG.random(200) < 0.5), jnp.zeros(200, jnp.int32)
    opened, tokens, forced = np.asarray(thinking), [], []
    for r in range(R):
        token, is_forced, thinking, ending = step(drawn[r], thinking, ending, r, THINKING)
        tokens.append(token)
        forced.append(is_forced)
    tokens, forced = np.stack(tokens, axis=1), np.stack(forced, axis=1)
    assert [by_hand(row.tolist(), bool(o)) for row, o in zip(tokens, opened, strict=True)] == forced.tolist()
    np.testing.assert_array_equal(tokens[~forced], drawn.T[~forced])
    assert 0.1 < forced.mean() < 0.9


def test_the_last_mark_of_a_prompt_tells_whether_it_ends_inside_thinking():
    prompts = np.array([[9, START, 9, 9], [START, END, 9, 9], [END, START, 9, START], [9, 9, 9, START], [9, 9, 9, 9]])
    lengths = np.array([4, 4, 4, 3, 4])
    assert open_thinking(prompts, lengths, THINKING).tolist() == [True, False, True, False, False]


@pytest.mark.parametrize("averaging", AVERAGINGS)
def test_forced_tokens_have_no_weight_in_the_loss(averaging):
    """As if they had not been written."""
    subaction = np.array([[[0, -1, -1, 0, 1, 2], [0, 0, -1, -1, -1, -1]]])
    lengths, active = np.array([[6, 4]]), np.ones((1, 2), bool)
    without = np.array([[[0, 0, 1, 2, -1, -1], [0, 0, -1, -1, -1, -1]]])
    found = token_weights(averaging, subaction, lengths, active, 3)
    expected = token_weights(averaging, without, np.array([[4, 2]]), active, 3)
    assert (np.asarray(found)[subaction < 0] == 0).all()
    np.testing.assert_allclose(found[subaction >= 0], expected[without >= 0])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"top_p": 0.0}, "top_p .* above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p .* at most 1"),
        ({"top_k": -1}, "top_k .* at least 0"),
        ({"min_p": 1.0}, "min_p .* below 1"),
        ({"thinking_budget": -1}, "thinking_budget .* at least 0"),
        ({"thinking_budget": 3}, "needs think_end_id"),
        ({"thinking_budget": 3, "think_end_id": END, "think_end_ids": (7,)}, "must hold it"),
        ({"thinking_budget": R - 1, "think_end_id": END}, "no room is left"),
    ],
)
def test_settings_that_cannot_be_are_told(change, told):
    with pytest.raises(UserError, match=told):
        dataclasses.replace(PLAIN, **change)


def test_a_prompt_longer_than_the_context_is_told_before_anything_is_compiled():
    short = dataclasses.replace(CONFIG, max_positions=P + R - 1)
    shapes = jax.eval_shape(lambda: random_params(CONFIG))
    with pytest.raises(UserError, match=rf"prompt of {P} tokens and a reply of {R}.*max_positions={P + R - 1}"):
        jax.eval_shape(lambda p: generate(short, p, PROMPTS, LENGTHS, KEYS, np.ones(N, bool), PLAIN), shapes)


def test_the_first_of_the_highest_is_numpys_argmax():
    scores = np.random.default_rng(1).integers(0, 4, (200, 7)).astype(np.float32)  # many ties
    scores[scores == 0] = -np.inf
    scores[0] = -np.inf
    np.testing.assert_array_equal(first_of_highest(jnp.asarray(scores)), scores.argmax(axis=-1))


def test_draws_are_those_of_jax_for_the_same_keys():
    sampling = dataclasses.replace(PLAIN, temperature=0.7)
    for step in range(20):
        keys = jax.vmap(jax.random.fold_in, (0, None))(KEYS, step)
        expected = jax.vmap(jax.random.categorical)(keys, jax.nn.log_softmax(LOGITS / np.float32(0.7)))
        np.testing.assert_array_equal(draw(jnp.asarray(LOGITS), KEYS, step, sampling)[0], expected)
