"""Rollouts that share what their prompts have in common are the same rollouts, and forced tokens teach nothing."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_policy import MEMORY, ROLLOUT, SIZES, TOKENIZER, writing_engine, writing_params
from tiny_tokenizer import TinyTokenizer

from memalpha_jax.errors import UserError
from memalpha_jax.memory.state import empty_memory
from memalpha_jax.policy.prefix import ALONE, PromptLayout
from memalpha_jax.policy.sharding import MeshConfig, make_mesh
from memalpha_jax.rollout.engine import make_engine, sampling_of
from memalpha_jax.rollout.rollout import (
    Engine,
    RolloutConfig,
    chunk_step,
    prompt_layout,
    rollout,
    room_for,
    trajectory_keys,
)

B, G, T, C = 2, 4, 2, 12
N = B * G
TEMPLATE = """<|im_start|>Keep what the text says.
{{empty:none}}
{{item:text", "memory_id": "id}}
{{#core}}Core {{core}}
{{/core}}{{#episodic}}Events
{{episodic}}{{/episodic}}{{#semantic}}Facts
{{semantic}}{{/semantic}}Text
{{chunk}}<|im_end|><|im_start|>"""
HEAD = len("Keep what the text says.\nCore ") + 1
OFF = dataclasses.replace(ROLLOUT, prompt_tokens=120, share_prefix=False)
KEYS = trajectory_keys(0, 0, jnp.repeat(jnp.arange(B), G), jnp.arange(N) % G)
RNG = np.random.default_rng(0)
CHUNKS = np.repeat(RNG.integers(98, 123, (B, T, C)), G, axis=0)
MEMORY = dataclasses.replace(MEMORY, similar_items=0)  # half the compilation


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("prompts") / "long_head.txt"
    path.write_text(TEMPLATE)
    return str(path)


@pytest.fixture(scope="module")
def params():
    return writing_params(writing_engine().policy)


def engine_of(template: str, **changes) -> Engine:
    return writing_engine(dataclasses.replace(OFF, template=template, **changes), MEMORY)


def run(engine: Engine, params):
    def one(params):
        memory = empty_memory(room_for(engine.memory, engine.rollout, T), (N,))
        lengths = np.full((N, T), C)
        return rollout(engine, params, memory, KEYS, CHUNKS, lengths, np.full(N, T), group=G)

    return jax.device_get(jax.jit(one)(params))


def test_sharing_changes_no_trajectory(params, template):
    expected = run(engine_of(template), params)
    assert len({reply.tobytes() for reply in expected.reply_NTR.reshape(N * T, -1)}) == N * T
    assert len({prompt.tobytes() for prompt in expected.prompt_NTP[:, 0]}) == B  # a group begins alike
    assert len({prompt.tobytes() for prompt in expected.prompt_NTP[:, 1]}) > B
    found = run(engine_of(template, share_prefix=True, share_group=True), params)
    np.testing.assert_allclose(found.logprobs_NTR, expected.logprobs_NTR, atol=1e-5)
    found = dataclasses.replace(found, logprobs_NTR=expected.logprobs_NTR)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_the_fixed_text_is_shared_where_it_is_long_enough(template):
    assert prompt_layout(engine_of(template, share_prefix=True)) == PromptLayout(HEAD - 1)
    assert prompt_layout(engine_of(template, share_prefix=True, prompt_tokens=400), G) == ALONE
    assert prompt_layout(engine_of(template), G) == ALONE
    engine = engine_of(template, share_prefix=True, share_group=True, prompt_buckets=2)
    assert prompt_layout(engine, G) == PromptLayout(HEAD - 1, G, 2)


def test_groups_that_a_mesh_tears_apart_are_told(template):
    mesh = make_mesh(MeshConfig())
    engine = dataclasses.replace(engine_of(template, share_group=True), mesh=mesh)
    with pytest.raises(UserError, match=r"share_group.*groups of 4.*8 trajectories over.*8 devices"):
        run(engine, None)


def test_tokens_that_the_budget_chose_belong_to_no_subaction(params):
    engine = writing_engine(memory=MEMORY)
    start, end = TOKENIZER.encode_trusted("<|im_start|>")[0], TOKENIZER.encode("e")[0]
    sampling = dataclasses.replace(
        engine.sampling, thinking_budget=3, think_start_id=start, think_end_id=end, think_end_ids=(end, 10)
    )
    engine = dataclasses.replace(engine, sampling=sampling)
    arguments = KEYS, 0, CHUNKS[:, 0], np.full(N, C), np.ones(N, bool)
    step = jax.jit(lambda p, memory: chunk_step(engine, p, memory, *arguments)[1])
    record = jax.device_get(step(params, empty_memory(MEMORY, (N,))))
    reply, written = record["reply_NTR"], np.arange(ROLLOUT.reply_tokens) < record["reply_len_NT"][:, None]
    thinking = (reply[:, :3] != end).all(axis=1) & (record["reply_len_NT"] > 3)  # the prompt ends with its start
    assert thinking.sum() > 2
    assert (reply[thinking, 3:5] == [end, 10]).all()
    forced = np.zeros_like(written)
    forced[thinking, 3:5] = True
    later = forced | ~written
    np.testing.assert_array_equal(record["subaction_NTR"][thinking] == -1, later[thinking])


def test_sampling_options_reach_the_sampler():
    options = {"top_k": 5, "top_p": 0.9, "min_p": 0.1, "temperature": 0.7}
    sampling = writing_engine(dataclasses.replace(ROLLOUT, **options, stop=("<|im_start|>",))).sampling
    assert {name: getattr(sampling, name) for name in options} == options
    assert sampling.stop_ids == tuple(TOKENIZER.encode_trusted("<|im_start|>"))
    plain = writing_engine(RolloutConfig(template="compact")).sampling
    assert not plain.truncates
    assert (plain.stop_ids, plain.thinking_budget) == ((), 0)


def test_the_thinking_budget_has_the_tokens_of_the_tokenizer():
    marks = TinyTokenizer(["<think>", "</think>"])
    sampling = sampling_of(dataclasses.replace(ROLLOUT, thinking_budget=4), marks, 1.0)
    start, end = marks.encode_trusted("<think></think>")
    assert (sampling.thinking_budget, sampling.think_start_id, sampling.think_end_id) == (4, start, end)
    assert sampling.forced_ids == tuple(marks.encode_trusted("\n</think>\n\n"))


def test_options_that_the_tokenizer_or_the_context_has_no_room_for_are_told():
    with pytest.raises(UserError, match=r"rollout.stop has 'ab', which is 2 tokens"):
        writing_engine(dataclasses.replace(ROLLOUT, stop=("ab",)))
    short = dataclasses.replace(SIZES, max_positions=ROLLOUT.prompt_tokens)
    with pytest.raises(UserError, match=r"longer than the policy's context, policy.max_positions=112"):
        make_engine(short, MEMORY, ROLLOUT, TOKENIZER)
