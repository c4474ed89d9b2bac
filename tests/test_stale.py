"""Corrections stored beside what they correct are found, and paid or not as the config says."""

import dataclasses

import numpy as np
import pytest

from memalpha_jax.episodes.generated import WorldConfig, generate_episode, sentences
from memalpha_jax.errors import UserError
from memalpha_jax.memory.state import MemoryType
from memalpha_jax.rewards.reward import RewardConfig
from memalpha_jax.rewards.stale import beside_stale, revisions
from memalpha_jax.tools.calls import CallKind, Status
from tests.test_rewards import EPISODIC, SEMANTIC, batch, rewards_of

INSERT, UPDATE, DELETE = CallKind.INSERT, CallKind.UPDATE, CallKind.DELETE
OLD, NEW, NEWEST, OTHER = "Kelora likes figs.", "Kelora likes tea now.", "Kelora likes jam now.", "Tavin owns a jar."
KNOWN = {NEW: OLD, NEWEST: NEW}
OK = Status.OK


def beside(*steps, known=KNOWN):
    calls = batch([list(steps)])
    places = (calls.kind_NTK, calls.memory_type_NTK, calls.item_id_NTK, calls.status_NTK, calls.texts)
    flags = beside_stale(*places, [known])[0]
    return [[bool(flag) for flag in row[: len(step)]] for row, step in zip(flags, steps, strict=True)]


def put(text, status=OK, kind=SEMANTIC):
    return (INSERT, kind, text, status)


def over(item_id, text, status=OK):
    return (UPDATE, SEMANTIC, text, status, item_id)


def test_an_insert_beside_the_stale_item_is_found_and_an_update_of_it_is_fine():
    assert beside([put(OLD)], [put(NEW)]) == [[False], [True]]
    assert beside([put(OLD)], [over(1, NEW)]) == [[False], [False]]
    assert beside([put(OTHER), put(OLD)], [over(1, NEW)]) == [[False, False], [True]]
    assert beside([put(OTHER)], [put(NEW)]) == [[False], [False]]
    assert beside([put(OLD, kind=EPISODIC)], [put(NEW)]) == [[False], [True]]


def test_items_that_are_gone_failed_or_never_came_are_not_stale():
    assert beside([put(OLD)], [(DELETE, SEMANTIC, "", OK, 1), put(NEW)]) == [[False], [False, False]]
    assert beside([put(OLD)], [over(1, OTHER), put(NEW)]) == [[False], [False, False]]
    assert beside([put(OLD, Status.NOT_ALLOWED)], [put(NEW)]) == [[False], [False]]
    assert beside([put(OLD)], [put(NEW, Status.NOT_ALLOWED)]) == [[False], [False]]
    assert beside([put(OLD, Status.SKIPPED), put(OTHER), put(OLD)], [over(2, NEW)]) == [[False] * 3, [False]]


def test_what_a_correction_of_a_correction_makes_stale_is_the_correction():
    assert beside([put(OLD)], [over(1, NEW)], [put(NEWEST)]) == [[False], [False], [True]]


def test_revisions_follow_the_generators_records():
    world = WorldConfig(correction_rate=0.9, chatter_rate=0.2, people=2)
    episode = generate_episode(world, "train", 3, chunks=8, seed=1)
    lines, found = sentences(episode), revisions(episode)
    corrections = [line for chunk in lines for line in chunk if line.corrects is not None]
    assert len(corrections) > 5
    assert set(found) == {line.text for line in corrections}
    for line in corrections:
        stale = next(old for chunk in lines for old in chunk if old.text == found[line.text])
        assert stale.subject == line.subject
        assert stale.value != line.value
        assert stale.corrected_by is not None
    assert revisions(dataclasses.replace(episode, metadata={})) == {}
    own = dataclasses.replace(episode, data_source="mine", metadata={"sentences": ["of a user's own file"]})
    assert revisions(own) == {}


def test_a_correction_beside_the_stale_item_is_a_repeat_where_it_is_not_paid():
    calls = batch([[[put(OLD)], [put(NEW), put(OTHER)]]])
    closed = RewardConfig(pay_stale=False, repeat_cost=2.0)
    paid = rewards_of(calls, RewardConfig(repeat_cost=2.0))
    unpaid = rewards_of(calls, closed, revisions_N=[KNOWN])
    assert paid.r2_NT == pytest.approx(np.array([[1, 1]]))
    assert paid.r4_NT == pytest.approx(np.array([[1, 1]]))
    assert unpaid.r2_NT == pytest.approx(np.array([[1, (1 - 2.0) / 2]]))
    assert unpaid.r4_NT == pytest.approx(np.array([[1, 1 / 2]]))
    assert unpaid.near_duplicate_rate == paid.near_duplicate_rate == 0
    nothing_known = rewards_of(calls, closed, revisions_N=[{}])
    assert nothing_known.total_NT == pytest.approx(paid.total_NT)
    with pytest.raises(UserError, match="corrections"):
        rewards_of(calls, closed)


def test_core_texts_are_no_items():
    assert beside([put(OLD)], [(UPDATE, MemoryType.CORE, NEW, OK)]) == [[False], [False]]
