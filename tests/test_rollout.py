"""The scan rollout equals loops over chunks, token for token, and no trajectory depends on its batch."""

from __future__ import annotations

import dataclasses
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_policy import MEMORY, ROLLOUT, TOKENIZER, writing_engine, writing_params

from memalpha_jax.episodes.batch import tokenize_episodes
from memalpha_jax.episodes.episode import Episode, Question
from memalpha_jax.episodes.feed import Drawn
from memalpha_jax.memory.state import MemoryState, empty_memory, grow, memory_core, memory_items, unstack
from memalpha_jax.rewards.reward import applied_calls
from memalpha_jax.rollout import cost
from memalpha_jax.rollout import stream as stream_module
from memalpha_jax.rollout.collect import chunk_room, make_collector
from memalpha_jax.rollout.cost import ClockedParser
from memalpha_jax.rollout.engine import chunk_budget
from memalpha_jax.rollout.rollout import chunk_step, rollout, room_for, trajectory_keys
from memalpha_jax.rollout.statistics import trajectory_metrics
from memalpha_jax.rollout.steps import Steps
from memalpha_jax.rollout.stream import Stream
from memalpha_jax.rollout.trajectory import Trajectory
from memalpha_jax.tools.calls import CallKind, Status
from memalpha_jax.tools.wire import parse_calls

N, T = 8, 4
P, R, K = ROLLOUT.prompt_tokens, ROLLOUT.reply_tokens, ROLLOUT.max_calls
ENGINE = writing_engine()
C = chunk_budget(ENGINE)
ROOM = room_for(MEMORY, ROLLOUT, T)
RNG = np.random.default_rng(0)
CHUNK_LEN = RNG.integers(1, 17, (N, T))
CHUNKS = np.where(np.arange(C) < CHUNK_LEN[..., None], RNG.integers(98, 123, (N, T, C)), 0)
NUM_CHUNKS = np.array([4, 1, 3, 4, 2, 4, 0, 4])
KEYS = trajectory_keys(3, 0, jnp.arange(N), jnp.zeros(N, int))


@pytest.fixture(scope="module")
def params():
    return writing_params(ENGINE.policy)


@jax.jit
def scanned(params, memory, key_N, chunks, chunk_len, num_chunks, first_chunk=0) -> Trajectory:
    return rollout(ENGINE, params, memory, key_N, chunks, chunk_len, num_chunks, first_chunk)


@pytest.fixture(scope="module")
def whole(params) -> Trajectory:
    return jax.device_get(scanned(params, empty_memory(ROOM, (N,)), KEYS, CHUNKS, CHUNK_LEN, NUM_CHUNKS))


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def contents(memory: MemoryState) -> list:
    """Core and items of every trajectory, whatever room the memory has."""
    return [(memory_core(state), memory_items(state)) for state in unstack(memory)]


def test_the_policy_of_these_tests_does_a_bit_of_everything(whole):
    seen = set(whole.statuses_NTK.flat)
    assert {Status.OK, Status.UNKNOWN_ID, Status.BAD_JSON, Status.NO_CALL} <= seen
    successful = whole.calls.kind_K[whole.statuses_NTK == Status.OK]
    assert {CallKind.INSERT, CallKind.UPDATE} <= set(successful)
    assert {True, False} == set(whole.finished_NT[whole.active_NT])
    assert sum(len(items) for _, items in contents(whole.memory)) > N
    assert any(core for core, _ in contents(whole.memory))


def test_the_scan_equals_a_loop_over_chunk_step(params, whole):
    step = jax.jit(lambda *args: chunk_step(ENGINE, *args))
    memory = empty_memory(ROOM, (N,))
    for t in range(T):
        memory, record = step(params, memory, KEYS, t, CHUNKS[:, t], CHUNK_LEN[:, t], t < NUM_CHUNKS)
        for name, value in record.items():
            if name == "logprobs_NTR":
                np.testing.assert_allclose(whole.logprobs_NTR[:, t], value, atol=1e-5)
            else:
                assert_same(jax.tree.map(lambda x, t=t: x[:, t], getattr(whole, name)), value)
    assert_same(whole.memory, memory)


def test_the_scan_equals_single_steps_with_a_memory_that_grows(params, whole):
    steps, memory = Steps(ENGINE), empty_memory(ROOM, (N,))
    for t in range(T):
        if t == 2:
            memory = grow(memory, 2 * ROOM.items, 3 * ROOM.arena_tokens)
        chunk = (t, CHUNKS[:, t], CHUNK_LEN[:, t], t < NUM_CHUNKS)
        memory, record = steps.step(params, memory, KEYS, *chunk)
        np.testing.assert_array_equal(record.reply_NR, whole.reply_NTR[:, t])
        np.testing.assert_array_equal(record.reply_len_N, whole.reply_len_NT[:, t])
        np.testing.assert_array_equal(record.prompt_len_N, whole.prompt_len_NT[:, t])
        np.testing.assert_array_equal(record.statuses_NK, whole.statuses_NTK[:, t])
        assert_same(record.calls, jax.tree.map(lambda x, t=t: x[:, t], whole.calls))
    assert contents(memory) == contents(whole.memory)


def test_the_scan_equals_a_stream_that_makes_room_and_looks_similar_items_up(params, whole, monkeypatch):
    small = dataclasses.replace(MEMORY, items=K, arena_tokens=R + K)  # one reply
    monkeypatch.setattr(stream_module, "INDEXED_FROM", 2 * (R + K))  # searched at first, looked up later
    stream = Stream(Steps(ENGINE), empty_memory(small, (N,)))
    index_bytes, growth_seconds = [], []
    for t in range(T):
        record = stream.read(params, KEYS, t, CHUNKS[:, t], CHUNK_LEN[:, t], t < NUM_CHUNKS)
        np.testing.assert_array_equal(record.reply_NR, whole.reply_NTR[:, t])
        np.testing.assert_array_equal(record.prompt_len_N, whole.prompt_len_NT[:, t])
        np.testing.assert_array_equal(record.statuses_NK, whole.statuses_NTK[:, t])
        index_bytes.append(stream.index_bytes)
        growth_seconds.append(stream.growth_seconds)
    assert contents(stream.memory) == contents(whole.memory)
    assert index_bytes[0] == 0 < index_bytes[-1]
    assert 0 < growth_seconds[0] < growth_seconds[-1]
    assert stream.memory_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(stream.memory))


def test_a_rollout_goes_on_where_another_ended(params, whole):
    memory, parts = empty_memory(ROOM, (N,)), []
    for first in (0, 2):
        here = slice(first, first + 2)
        left = np.clip(NUM_CHUNKS - first, 0, 2)
        parts.append(scanned(params, memory, KEYS, CHUNKS[:, here], CHUNK_LEN[:, here], left, first))
        memory = parts[-1].memory
    np.testing.assert_array_equal(np.concatenate([p.reply_NTR for p in parts], axis=1), whole.reply_NTR)
    assert_same(memory, whole.memory)


def test_a_trajectory_does_not_depend_on_its_batch(params, whole):
    rows = np.array([5, 2, 5, 0, 7, 7, 3, 1])
    memory = empty_memory(ROOM, (N,))
    found = jax.device_get(scanned(params, memory, KEYS[rows], CHUNKS[rows], CHUNK_LEN[rows], NUM_CHUNKS[rows]))
    expected = jax.tree.map(lambda x: x[rows], whole)
    np.testing.assert_allclose(found.logprobs_NTR, expected.logprobs_NTR, atol=1e-5)
    assert_same(dataclasses.replace(found, logprobs_NTR=expected.logprobs_NTR), expected)


def test_nothing_happens_after_an_episode_has_ended(params, whole):
    active = np.arange(T) < NUM_CHUNKS[:, None]
    np.testing.assert_array_equal(whole.active_NT, active)
    assert (whole.reply_len_NT[~active] == 0).all()
    assert (whole.reply_NTR[~active] == 0).all()
    assert (whole.statuses_NTK[~active] == Status.NO_CALL).all()
    assert (whole.subaction_NTR[~active] == -1).all()
    for n, count in enumerate(NUM_CHUNKS):
        tokens = whole.memory_tokens_NT[n]
        assert (tokens[count:] == (tokens[count - 1] if count else 0)).all()
    junk = np.where(active[..., None], CHUNKS, 77)
    found = scanned(params, empty_memory(ROOM, (N,)), KEYS, junk, np.where(active, CHUNK_LEN, C), NUM_CHUNKS)
    np.testing.assert_array_equal(found.reply_NTR, whole.reply_NTR)
    assert_same(found.memory, whole.memory)


def test_every_generated_token_has_a_subaction_and_those_of_a_call_spell_it(whole):
    generated = np.arange(R) < whole.reply_len_NT[..., None]
    np.testing.assert_array_equal(whole.subaction_NTR >= 0, generated)
    assert whole.subaction_NTR.max() <= K
    spelled = 0
    for n, t in zip(*np.nonzero(whole.reply_len_NT), strict=True):
        tokens, owner = whole.reply_NTR[n, t], whole.subaction_NTR[n, t]
        made = (whole.calls.status_K[n, t] != Status.NO_CALL).sum()
        assert set(owner[generated[n, t]]) <= set(range(made + 1))
        for k in range(made):
            (call,) = parse_calls(TOKENIZER.decode(tokens[owner == k]), ROLLOUT.wire)
            assert call.kind == whole.calls.kind_K[n, t, k]
            length = whole.calls.length_K[n, t, k]
            if call.status == Status.OK and call.content:
                stored = TOKENIZER.decode(whole.calls.content_KL[n, t, k, :length])
                assert stored == call.content
                spelled += 1
        if whole.finished_NT[n, t]:
            assert tokens[whole.reply_len_NT[n, t] - 1] == TOKENIZER.eos_id
            assert owner[whole.reply_len_NT[n, t] - 1] == made
    assert spelled > N


def test_memory_tokens_are_those_of_the_contents(whole):
    for n, (core, items) in enumerate(contents(whole.memory)):
        assert whole.memory_tokens_NT[n, -1] == len(core) + sum(len(item.tokens) for item in items)
        assert all(item.first_chunk <= item.last_chunk < NUM_CHUNKS[n] for item in items)


def test_a_chunk_that_does_not_fit_is_not_read(params):
    """The longest chunk that fits beside an empty memory does not fit beside a full core."""
    lengths = CHUNK_LEN.copy()
    lengths[2, 1] = C
    memory = empty_memory(ROOM, (N,))
    full = jnp.full(N, MEMORY.core_tokens, jnp.int32)
    memory = dataclasses.replace(memory, core_S=jnp.full_like(memory.core_S, 120), core_len=full)
    found = jax.device_get(scanned(params, memory, KEYS, CHUNKS, lengths, np.full(N, T)))
    assert found.prompt_len_NT[2, 1] == P + MEMORY.core_tokens - len("none")
    assert np.argwhere(found.reply_len_NT == 0).tolist() == [[2, 1]]
    assert (found.subaction_NTR[2, 1] == -1).all()
    assert found.memory_tokens_NT[2, 1] == found.memory_tokens_NT[2, 0]
    metrics = trajectory_metrics(found, applied_calls(found.calls, found.statuses_NTK, TOKENIZER.decode))
    assert metrics["rollout/unread"] == pytest.approx(1 / (N * T))


def test_keys_tell_everything_apart():
    def keys(seed, step, episode, member):
        key_N = trajectory_keys(seed, step, jnp.array(episode), jnp.array(member))
        return [tuple(row) for row in jax.random.key_data(key_N).tolist()]

    both = keys(0, 0, [4, 4, 9], [0, 1, 0])
    assert keys(0, 0, [9, 4], [0, 1]) == [both[2], both[1]]
    assert len({*both, *keys(1, 0, [4, 9], [0, 0]), *keys(0, 1, [4, 9], [0, 0])}) == 7


def test_the_collector_rolls_out_groups_of_neighbours(params):
    texts = [("abc", "defg hi", "j", "q"), ("kl",), ("mnop", "qr"), ("s", "tu", "vw"), ("xyz",)]
    questions = (Question("what?", "abc"),)
    episodes = [Episode(f"e{i}", "squad", chunks, questions) for i, chunks in enumerate(texts)]
    collect = make_collector(ENGINE, group=2, seed=11)

    def drawn(indices):
        chosen = tuple(episodes[i] for i in indices)
        sizes = {"max_chunks": T, "chunk_capacity": chunk_room(ENGINE)}
        return Drawn(np.array(indices), chosen, tokenize_episodes(chosen, TOKENIZER, episode_indices=indices, **sizes))

    batch = drawn([2, 0, 3, 1]).batch
    trajectory = collect(params, 5, drawn([2, 0, 3, 1]))
    assert batch.chunk_BTC.shape == (4, T, C)
    assert np.asarray(trajectory.active_NT).sum(axis=1).tolist() == [2, 2, 4, 4, 3, 3, 1, 1]
    keys = trajectory_keys(11, 5, jnp.array([2, 2, 0, 0, 3, 3, 1, 1]), jnp.array([0, 1] * 4))
    rows = [np.repeat(x, 2, axis=0) for x in (batch.chunk_BTC, batch.chunk_len_BT, batch.num_chunks_B)]
    expected = scanned(params, empty_memory(ROOM, (N,)), keys, *rows)
    np.testing.assert_array_equal(trajectory.reply_NTR, expected.reply_NTR)
    assert_same(trajectory.memory, expected.memory)
    other = collect(params, 5, drawn([0, 4, 3, 2]))
    np.testing.assert_array_equal(np.asarray(other.reply_NTR)[:2], np.asarray(trajectory.reply_NTR)[2:4])
    np.testing.assert_array_equal(np.asarray(other.reply_NTR)[6:], np.asarray(trajectory.reply_NTR)[:2])
    later = collect(params, 6, drawn([2, 0, 3, 1]))
    assert (np.asarray(later.reply_NTR) != np.asarray(trajectory.reply_NTR)).any()


def test_metrics_equal_counts_by_hand(whole):
    calls = applied_calls(whole.calls, whole.statuses_NTK, TOKENIZER.decode)
    found = trajectory_metrics(whole, calls)
    chunks = [(n, t) for n, t in np.ndindex(N, T) if t < NUM_CHUNKS[n]]
    made = [(n, t, k) for n, t in chunks for k in range(K) if whole.statuses_NTK[n, t, k] != Status.NO_CALL]
    updates = [slot for slot in made if whole.calls.kind_K[slot] == CallKind.UPDATE]
    assert found["rollout/calls_per_chunk"] == pytest.approx(len(made) / len(chunks))
    assert found["rollout/updates_per_chunk"] == pytest.approx(len(updates) / len(chunks))
    assert found["rollout/unfinished"] == pytest.approx(np.mean([not whole.finished_NT[c] for c in chunks]))
    assert found["rollout/reply_tokens"] == pytest.approx(np.mean([whole.reply_len_NT[c] for c in chunks]))
    assert found["rollout/dropped_calls"] == pytest.approx(np.mean([whole.calls.dropped[c] for c in chunks]))
    shares = {status: np.mean([whole.statuses_NTK[slot] == status for slot in made]) for status in Status}
    for status in set(Status) - {Status.NO_CALL}:
        assert found[f"status/{status.name.lower()}"] == pytest.approx(shares[status])
    assert found["rollout/unread"] == 0


def test_a_clocked_parser_changes_nothing_and_adds_up(whole):
    clocked = ClockedParser(ENGINE.parser)
    arguments = (whole.reply_NTR[:, 0], whole.reply_len_NT[:, 0])
    assert_same(clocked(*arguments), ENGINE.parser(*arguments))
    once = clocked.seconds
    clocked(*arguments)
    assert clocked.seconds > once > 0
    clocked.reset()
    assert clocked.seconds == 0


def test_a_clocked_parser_counts_two_shards_at_a_time_once(monkeypatch):
    both_at_work, ticks = threading.Barrier(2), iter([10.0, 13.0])
    clocked = ClockedParser(lambda *_: both_at_work.wait(timeout=60))
    monkeypatch.setattr(cost, "time", types.SimpleNamespace(monotonic=lambda: next(ticks)))
    shards = [threading.Thread(target=clocked, args=(None, None)) for _ in range(2)]
    for shard in shards:
        shard.start()
    for shard in shards:
        shard.join()
    assert clocked.seconds == 3.0
