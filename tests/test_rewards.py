"""r1 to r4 and their sum against loops that follow the definition."""

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memalpha_jax.errors import UserError
from memalpha_jax.memory.state import MemoryType
from memalpha_jax.rewards import reward
from memalpha_jax.rewards.duplicates import jaccard, near_duplicates
from memalpha_jax.rewards.judge import JudgeError, RulesJudge
from memalpha_jax.rewards.reader import ReaderQuery
from memalpha_jax.rewards.reward import AppliedCalls, RewardConfig, compute_rewards
from memalpha_jax.tools.calls import CallKind, Status, empty_call_batch
from tests.tiny_tokenizer import TinyTokenizer

INSERT, UPDATE, DELETE = CallKind.INSERT, CallKind.UPDATE, CallKind.DELETE
CORE, EPISODIC, SEMANTIC = MemoryType.CORE, MemoryType.EPISODIC, MemoryType.SEMANTIC
FACT, OTHER, EVENT = "Kelora lives in Vordale.", "Tavin likes soup.", "On 3 May Kelora met Tavin."
OURS = RewardConfig(pay_duplicates=False, judge_wait_s=0.0)
PUBLISHED = RewardConfig(judge_wait_s=0.0)


def batch(trajectories, dropped=None, slots=6):
    """AppliedCalls from [N][T] lists of (kind, type, text, status[, id])."""
    N, T = len(trajectories), len(trajectories[0])
    arrays = [np.full((N, T, slots), fill, np.int32) for fill in (0, -1, -1, Status.NO_CALL)]
    texts = [[[""] * slots for _ in range(T)] for _ in range(N)]
    for n, steps in enumerate(trajectories):
        for t, calls in enumerate(steps):
            for k, (kind, memory_type, text, status, *item_id) in enumerate(calls):
                for array, value in zip(arrays, (kind, memory_type, *(item_id or [-1]), status), strict=True):
                    array[n, t, k] = value
                texts[n][t][k] = text
    return AppliedCalls(*arrays, np.zeros((N, T), np.int32) if dropped is None else np.array(dropped), texts)


def rewards_of(calls, config=OURS, judge=None, mask=None, **changes):
    N, T = calls.dropped_NT.shape
    arguments = {
        "scores": [[1.0, 0.0]] * N,
        "chunk_mask_NT": np.ones((N, T), bool) if mask is None else np.array(mask),
        "memory_tokens_N": np.full(N, 10),
        "chunk_tokens_N": np.full(N, 40),
        **changes,
    }
    scores = arguments.pop("scores")
    return compute_rewards(scores, calls, config=config, judge=judge or RulesJudge(), **arguments)


def test_every_component_of_one_worked_example():
    calls = batch(
        [
            [
                [
                    (INSERT, SEMANTIC, FACT, Status.OK),
                    (INSERT, EPISODIC, FACT, Status.OK),  # the wrong memory, and a repetition
                    (INSERT, CORE, FACT, Status.NOT_ALLOWED),
                    (DELETE, SEMANTIC, "", Status.OK, 1),
                ],
                [],
            ]
        ],
        dropped=[[1, 0]],
    )
    ours = rewards_of(calls)
    assert ours.r1_N == pytest.approx([0.5])
    assert ours.r3_N == pytest.approx([0.75])
    assert ours.r2_NT == pytest.approx(np.array([[2 / 5, 0]]))
    assert ours.r4_NT == pytest.approx(np.array([[1 / 5, 0]]))
    assert ours.total_NT == pytest.approx(np.array([[0.5 + 0.4 + 0.0375 + 0.02, 0.5 + 0.0375]]))
    assert ours.total_NT.dtype == np.float32
    assert rewards_of(calls, PUBLISHED).r2_NT == pytest.approx(np.array([[3 / 5, 0]]))
    assert ours.near_duplicate_rate == pytest.approx(1 / 5)
    weighted = rewards_of(calls, dataclasses.replace(OURS, r2_weight=0.25, beta=1.0, gamma=0.0))
    assert weighted.total_NT == pytest.approx(np.array([[0.5 + 0.1 + 0.75, 0.5 + 0.75]]))


def test_memory_longer_than_its_chunks_is_negative_and_unclamped():
    assert rewards_of(batch([[[]]]), memory_tokens_N=np.array([100])).r3_N == pytest.approx([-1.5])


def test_duplicates_in_the_same_reply_are_paid_only_once():
    copies = [
        (INSERT, SEMANTIC, text, Status.OK) for text in (FACT, "kelora lives, in VORDALE", "In Vordale lives Kelora")
    ]
    skipped = [(INSERT, SEMANTIC, FACT, Status.SKIPPED)]
    calls = batch([[copies + skipped]])
    ours, published = rewards_of(calls), rewards_of(calls, PUBLISHED)
    assert ours.r2_NT[0, 0] == pytest.approx(1 / 4)
    assert ours.r4_NT[0, 0] == pytest.approx(1 / 4)
    assert published.r2_NT[0, 0] == pytest.approx(3 / 4)
    assert published.r4_NT[0, 0] == pytest.approx(1)
    assert ours.near_duplicate_rate == published.near_duplicate_rate == pytest.approx(2 / 4)
    assert ours.skipped_NT.tolist() == [[1]]
    costly = rewards_of(calls, dataclasses.replace(OURS, repeat_cost=0.5))
    assert costly.r2_NT[0, 0] == pytest.approx((1 - 3 * 0.5) / 4)
    assert costly.r4_NT[0, 0] == ours.r4_NT[0, 0]


def duplicates(*steps, threshold=0.8):
    calls = batch([list(steps)])
    repeated = near_duplicates(
        calls.kind_NTK, calls.memory_type_NTK, calls.item_id_NTK, calls.status_NTK, calls.texts, threshold
    )
    return [[bool(flag) for flag in row[: len(step)]] for row, step in zip(repeated[0], steps, strict=True)]


def test_an_update_may_change_one_word_of_its_own_item_but_not_repeat_it():
    long = "one two three four five six seven eight nine ten"
    changed = long.replace("ten", "eleven")
    steps = (
        [(INSERT, SEMANTIC, OTHER, Status.OK), (INSERT, SEMANTIC, long, Status.OK)],
        [(UPDATE, SEMANTIC, changed, Status.OK, 2)],  # own item: new
        [(UPDATE, SEMANTIC, changed + "!", Status.OK, 2)],  # no change
        [(UPDATE, SEMANTIC, long, Status.OK, 2)],  # back to what was there before
        [
            (UPDATE, SEMANTIC, changed, Status.OK, 1),
            (INSERT, SEMANTIC, changed, Status.OK),
        ],  # another item's text
        [
            (UPDATE, CORE, changed + " more words to say here", Status.OK),
            (UPDATE, CORE, changed, Status.TRUNCATED),
        ],
    )
    assert duplicates(*steps) == [[False, False], [False], [True], [True], [True, True], [False, True]]


def test_a_correction_is_news_and_deleting_does_not_make_room_for_a_copy():
    steps = (
        [(INSERT, SEMANTIC, "Note: Kelora lives in Vordale.", Status.OK)],
        [(INSERT, SEMANTIC, "Correction: Kelora lives in Tavdale.", Status.OK)],
        [
            (DELETE, SEMANTIC, "", Status.OK, 1),
            (INSERT, EPISODIC, "Note: Kelora lives in Vordale", Status.OK),
        ],
    )
    assert duplicates(*steps) == [[False], [False], [False, True]]


def test_failed_calls_leave_nothing_to_repeat():
    steps = (
        [(INSERT, SEMANTIC, FACT, Status.CAPACITY), (INSERT, SEMANTIC, "!!!", Status.OK)],
        [
            (INSERT, SEMANTIC, FACT, Status.OK),
            (INSERT, SEMANTIC, "!!!", Status.OK),
            (INSERT, SEMANTIC, "?", Status.OK),
        ],
    )
    assert duplicates(*steps) == [[False, False], [False, True, False]]


TEXTS = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=7).map(" ".join), min_size=1, max_size=8)


@given(TEXTS, st.sampled_from([0.5, 0.6, 0.8, 1.0]))
def test_near_duplicates_of_inserts_against_all_pairs(texts, threshold):
    def bag(text):
        return set(re.findall(r"\w+", text)) or {text.strip()}

    def alike(one, other):
        return len(bag(one) & bag(other)) / len(bag(one) | bag(other)) >= threshold - 1e-12

    expected = [any(alike(text, before) for before in texts[:i]) for i, text in enumerate(texts)]
    assert duplicates(*([(INSERT, SEMANTIC, text, Status.OK)] for text in texts), threshold=threshold) == [
        [flag] for flag in expected
    ]
    assert jaccard(texts[0], texts[-1]) == len(bag(texts[0]) & bag(texts[-1])) / len(bag(texts[0]) | bag(texts[-1]))


def loop_rewards(steps, mask, dropped, config):
    """(r2, r4) of one trajectory of distinct texts, as the definition reads."""
    r2, r4 = [], []
    for calls, valid, lost in zip(steps, mask, dropped, strict=True):
        total = len(calls) + lost
        paid = [call for call in calls if call[3] in (Status.OK, Status.TRUNCATED)]
        judged = [call for call in paid if call[0] in (INSERT, UPDATE)]
        if config.pay_duplicates:
            judged += [call for call in calls if call[3] == Status.SKIPPED]
        good = sum(RulesJudge().verdict(call[1], call[2]) for call in judged)
        cost = config.repeat_cost * sum(call[3] == Status.SKIPPED for call in calls)
        r2.append((len(paid) - cost) / total if total and valid else 0.0)
        r4.append(good / total if total and valid else 0.0)
    return r2, r4


CALLS = st.tuples(
    st.sampled_from([INSERT, UPDATE, DELETE]),
    st.sampled_from([EPISODIC, SEMANTIC]),
    st.sampled_from([FACT, EVENT, "Well, Kelora smiled."]),
    st.sampled_from([Status.OK, Status.SKIPPED, Status.TRUNCATED, Status.BAD_JSON, Status.UNKNOWN_ID]),
    st.just(5),
)


@settings(max_examples=60)
@given(
    st.lists(st.lists(CALLS, max_size=5), min_size=3, max_size=3),
    st.integers(1, 3),
    st.lists(st.integers(0, 2), min_size=3, max_size=3),
    st.booleans(),
    st.sampled_from([0.0, 2.0]),
)
def test_sums_against_a_loop(steps, length, dropped, published, repeat_cost):
    # Numbering makes every text distinct in its words, so that duplicates play no part here.
    steps = [
        [(kind, of, f"{text[:-1]} {' '.join(f'x{t}{k}{i}' for i in range(9))}.", *rest)
         for k, (kind, of, text, *rest) in enumerate(calls)]
        for t, calls in enumerate(steps)
    ]  # fmt: skip
    mask = [t < length for t in range(3)]
    config = dataclasses.replace(PUBLISHED if published else OURS, repeat_cost=repeat_cost)
    result = rewards_of(batch([steps], dropped=[dropped]), config, mask=[mask])
    r2, r4 = loop_rewards(steps, mask, dropped, config)
    assert result.r2_NT[0] == pytest.approx(r2)
    assert result.r4_NT[0] == pytest.approx(r4)
    total = [0.5 + a + 0.05 * 0.75 + 0.1 * b if valid else 0 for a, b, valid in zip(r2, r4, mask, strict=True)]
    assert result.total_NT[0] == pytest.approx(total)


class FlakyJudge:
    """Fails `failures` times; answers True, but to texts in `silent` not at all."""

    def __init__(self, failures=0, silent=()):
        self.failures, self.silent, self.asked = failures, silent, []

    def verdicts(self, queries):
        self.asked.append(len(queries))
        if len(self.asked) <= self.failures:
            raise JudgeError("connection refused")
        answers = [None if query.text in self.silent else True for query in queries]
        if None in answers:
            raise JudgeError("timed out", partial=answers)
        return answers


TWO_GROUPS = [[[(INSERT, SEMANTIC, text, Status.OK)]] for text in (FACT, OTHER, EVENT, FACT)]


def test_judge_is_retried_and_asked_each_text_once():
    judge = FlakyJudge(failures=2)
    result = rewards_of(batch(TWO_GROUPS), judge=judge)
    assert judge.asked == [3, 3, 3]
    assert result.r4_NT.tolist() == [[1.0]] * 4


def test_judge_that_stays_down_fails_the_step():
    with pytest.raises(JudgeError, match=r"3 texts after 3 attempts.*connection refused.*judge_failure"):
        rewards_of(batch(TWO_GROUPS), judge=FlakyJudge(failures=9))


def test_only_the_group_without_verdicts_is_masked():
    judge = FlakyJudge(silent=(EVENT,))
    config = dataclasses.replace(OURS, judge_failure="mask")
    result = rewards_of(batch(TWO_GROUPS), config, judge, group_N=np.array([0, 0, 1, 1]))
    assert judge.asked == [3, 1, 1]
    assert result.r4_valid_N.tolist() == [True, True, False, False]
    assert result.r4_NT[:, 0].tolist() == [1, 1, 0, 0]
    assert result.total_NT[:, 0] == pytest.approx(np.array([0.1, 0.1, 0, 0]) + 1.5375)
    logged = reward.reward_metrics(result, ["squad", "squad", "generated", "generated"])
    assert logged["reward/squad/r4"] == 1
    assert logged["reward/generated/r4_masked"] == 1
    assert "reward/generated/r4" not in logged  # unknown, not zero
    assert logged["reward/all/r4"] == 1
    assert logged["reward/all/r4_masked"] == 0.5


def test_bugs_in_a_judge_are_not_taken_for_an_outage():
    class Broken:
        def verdicts(self, queries):
            raise ValueError("bug")

    class Short:
        def verdicts(self, queries):
            return [True]

    with pytest.raises(ValueError, match="bug"):
        rewards_of(batch(TWO_GROUPS), dataclasses.replace(OURS, judge_failure="mask"), Broken())
    with pytest.raises(JudgeError, match="1 verdicts for 3 texts"):
        rewards_of(batch(TWO_GROUPS), judge=Short())


def test_no_judge_is_called_without_weight_or_work():
    judge = FlakyJudge(failures=9)
    assert rewards_of(batch(TWO_GROUPS), dataclasses.replace(OURS, gamma=0.0), judge).r4_NT.sum() == 0
    assert rewards_of(batch([[[]]]), judge=judge).r4_NT.sum() == 0
    assert judge.asked == []
    with pytest.raises(UserError, match="no judge"):
        compute_rewards(
            [[1.0]], batch([[[]]]), chunk_mask_NT=np.ones((1, 1), bool), memory_tokens_N=np.ones(1),
            chunk_tokens_N=np.ones(1), config=OURS,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": [[]]}, "scores"),
        ({"scores": [[float("nan")]]}, "scores"),
        ({"scores": [[1.0], [1.0]]}, "2 trajectories .* 1"),
        ({"chunk_tokens_N": np.array([0])}, "no chunk tokens"),
    ],
)
def test_impossible_inputs_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        rewards_of(batch([[[]]]), **changes)


@pytest.mark.parametrize(
    "changes", [{"judge_failure": "zero"}, {"near_duplicate": 0.0}, {"judge_retries": -1}, {"repeat_cost": -1.0}]
)
def test_config_is_checked(changes):
    with pytest.raises(UserError, match=rf"rewards\.{next(iter(changes))}"):
        RewardConfig(**changes)


def test_metrics_of_every_component_per_source():
    calls = batch([[[(INSERT, SEMANTIC, FACT, Status.OK)], []], [[(INSERT, SEMANTIC, FACT, Status.BAD_JSON)] * 2, []]])
    result = rewards_of(calls, mask=[[True, True], [True, False]], scores=[[1.0], [0.0]])
    logged = reward.reward_metrics(result, ["b", "a"])
    for name, values in (("r1", (1, 0, 0.5)), ("r2", (0.5, 0, 1 / 3)), ("calls_per_chunk", (0.5, 2, 1))):
        assert [logged[f"reward/{source}/{name}"] for source in ("b", "a", "all")] == pytest.approx(values)
    names = {name.split("/")[2] for name in logged}
    assert {"r1", "r2", "r3", "r4", "total", "near_duplicate_rate", "skipped_rate"} <= names
    assert len(logged) == 3 * len(names)


def test_applied_calls_decodes_each_text_once():
    tokenizer, seen = TinyTokenizer(), []
    calls = empty_call_batch(2, 16, (1, 2))
    for t in range(2):
        tokens = tokenizer.encode("hello")
        calls.content_KL[0, t, 1, : len(tokens)] = tokens
        calls.length_K[0, t, 1] = len(tokens)
    applied = reward.applied_calls(calls, calls.status_K, lambda ids: seen.append(ids) or tokenizer.decode(ids))
    assert applied.texts == [[["", "hello"], ["", "hello"]]]
    assert len(seen) == 1


def test_score_answers_sends_only_judged_sources_to_the_grader():
    class Grader:
        def replies(self, queries):
            assert [tuple(query) for query in queries] == [("when", ("x", "y"), " 3 May")]
            return ["Yes."]

    queries = [ReaderQuery("where", data_source="squad"), ReaderQuery("when", data_source="longmemeval_s*")]
    answers, golds = ["Rome!", "<think>hm</think> 3 May"], ["rome", ["x", "y"]]
    assert reward.score_answers(queries, answers, golds, grader=Grader()) == [1.0, 1.0]
    with pytest.raises(UserError, match="grader"):
        reward.score_answers(queries, answers, golds)
