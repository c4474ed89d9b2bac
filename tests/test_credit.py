"""Payment of answers to chunks: against the definition, and from memories made again after the rollout."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_policy import MEMORY, ROLLOUT, TOKENIZER, writing_engine, writing_params

from memalpha_jax.episodes.episode import Episode, Question
from memalpha_jax.errors import UserError
from memalpha_jax.memory.state import empty_memory, memory_core, memory_items, unstack
from memalpha_jax.rewards.credit import gains, steps_asked
from memalpha_jax.rewards.reward import RewardConfig
from memalpha_jax.rewards.scoring import Scorer
from memalpha_jax.rollout.engine import chunk_budget
from memalpha_jax.rollout.rollout import rollout, room_for, trajectory_keys

N, T = 6, 4
ENGINE = writing_engine()
NUM_CHUNKS = np.array([4, 1, 3, 4, 2, 4])
KEYS = trajectory_keys(3, 0, jnp.arange(N), jnp.zeros(N, int))


class LengthReader:
    """Answers with how many characters the memory holds; whether that is right depends on the memory alone."""

    def answer(self, queries):
        return [str(len("".join((query.core, *query.episodic, *query.semantic)))) for query in queries]


@pytest.fixture(scope="module")
def rolled():
    """(memories after 1 to T chunks, the trajectory of T chunks) of the same rollout."""
    rng, C = np.random.default_rng(0), chunk_budget(ENGINE)
    length = rng.integers(1, 17, (N, T))
    chunks = np.where(np.arange(C) < length[..., None], rng.integers(98, 123, (N, T, C)), 0)
    params, memory = writing_params(ENGINE.policy), empty_memory(room_for(MEMORY, ROLLOUT, T), (N,))
    run = jax.jit(lambda *batch: rollout(ENGINE, params, memory, KEYS, *batch))
    parts = [run(chunks, length, np.minimum(NUM_CHUNKS, t + 1)) for t in range(T)]
    return [unstack(part.memory) for part in parts], parts[-1]


def content(memory):
    return TOKENIZER.decode(memory_core(memory)), [TOKENIZER.decode(item.tokens) for item in memory_items(memory)]


def characters(memory) -> str:
    core, items = content(memory)
    return str(len(core + "".join(items)))


def scorer(credit: str) -> Scorer:
    return Scorer(ENGINE, TOKENIZER, RewardConfig(credit=credit, gamma=0, beta=0, r2_weight=0), LengthReader(), None)


def test_memories_made_again_are_those_of_the_rollout(rolled):
    after, trajectory = rolled
    found = [(t, [content(state) for state in unstack(memory)]) for t, memory in scorer("gain")._memories(trajectory)]
    assert found == [(t, [content(state) for state in states]) for t, states in enumerate(after)]
    assert len({str(states) for _, states in found}) > 1  # some step after the first wrote something


def test_a_chunk_is_paid_for_what_its_memory_adds(rolled):
    after, trajectory = rolled
    episodes = []
    for n, chunks in enumerate(NUM_CHUNKS.tolist()):
        # One question that is right only just after a chunk, one right at the end, one without a known source.
        last = characters(after[-1][n])
        questions = (
            Question("?", characters(after[0][n]), evidence=(0,)),
            Question("?", last, evidence=(chunks - 1,)),
            Question("?", last),
        )
        episodes.append(Episode(f"e{n}", "generated", ("text",) * chunks, questions))
    tokens_N = np.full(N, 10)
    rewards, _, answers = scorer("gain").score(trajectory, episodes, tokens_N, np.arange(N))
    published, _, same = scorer("episode").score(trajectory, episodes, tokens_N, np.arange(N))
    assert answers == same == [[characters(after[-1][n])] * 3 for n in range(N)]
    np.testing.assert_array_equal(rewards.r1_N, published.r1_N)
    for n, chunks in enumerate(NUM_CHUNKS.tolist()):
        right = [float(characters(after[t][n]) == characters(after[0][n])) for t in range(chunks)]
        expected = [1 / 3] * chunks  # the question that names no source
        for t in range(chunks):
            expected[t] += chunks * (right[t] - (right[t - 1] if t else 0)) / 3
        expected[-1] += chunks / 3
        np.testing.assert_allclose(rewards.total_NT[n, :chunks], expected, rtol=1e-6)
        np.testing.assert_allclose(published.total_NT[n, :chunks], published.r1_N[n], rtol=1e-6)
        assert not rewards.total_NT[n, chunks:].any()


@given(st.data())
def test_payments_average_to_the_published_score(data):
    chunks = data.draw(st.integers(1, 5))
    questions = data.draw(
        st.lists(
            st.lists(st.integers(0, chunks - 1), unique=True).map(lambda own: Question("?", "a", evidence=tuple(own))),
            min_size=1,
            max_size=4,
        )
    )
    scores_QT = np.zeros((len(questions), chunks))
    for q, question in enumerate(questions):
        for t in steps_asked(question, chunks):
            scores_QT[q, t] = data.draw(st.sampled_from((0.0, 0.5, 1.0)))
    paid_T = gains(questions, scores_QT)
    assert paid_T.mean() == pytest.approx(scores_QT[:, -1].mean())
    if all(len(question.evidence) == 1 for question in questions):
        earliest = min(question.evidence[0] for question in questions)
        assert not paid_T[:earliest].any()  # nothing is owed to chunks before any evidence


class PickyReader(LengthReader):
    """Does not answer questions of more than one character, and says no to others."""

    def answer(self, queries):
        return [
            None if len(query.question) > 1 else "no" if query.question == "!" else a
            for query, a in zip(queries, super().answer(queries), strict=True)
        ]


@pytest.mark.parametrize("credit", ["gain", "episode"])
def test_failed_answers_are_left_out(rolled, credit):
    after, trajectory = rolled

    def episodes(*asked: str) -> list[Episode]:
        return [
            Episode(
                f"e{n}",
                "generated",
                ("text",) * chunks,
                tuple(Question(question, characters(after[-1][n]), evidence=(0,)) for question in asked),
            )
            for n, chunks in enumerate(NUM_CHUNKS.tolist())
        ]

    own = scorer(credit)
    own.reader = PickyReader()
    arguments = np.full(N, 10), np.arange(N)
    rewards, _, answers = own.score(trajectory, episodes("?", "fails", "!", "fails"), *arguments)
    without, _, _ = own.score(trajectory, episodes("?", "!"), *arguments)
    np.testing.assert_array_equal(rewards.total_NT, without.total_NT)
    np.testing.assert_array_equal(rewards.r1_N, np.full(N, 0.5))
    assert answers == [[characters(after[-1][n]), None, "no", None] for n in range(N)]
    with pytest.raises(UserError, match="none of the 2 questions of episode 'e0'"):
        own.score(trajectory, episodes("fails", "fails"), *arguments)


def test_an_unknown_credit_is_refused():
    with pytest.raises(UserError, match=r"rewards\.credit is 'chunk'; use 'episode' or 'gain'"):
        RewardConfig(credit="chunk")
