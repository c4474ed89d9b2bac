"""Memory operations against a plain-Python memory of lists and dicts, under many random call sequences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memalpha_jax.errors import UserError
from memalpha_jax.memory import ops
from memalpha_jax.memory.ops import Rows, apply_calls, compact
from memalpha_jax.memory.state import (
    MemoryConfig,
    MemoryItem,
    MemoryType,
    empty_memory,
    grow,
    grow_for,
    memory_core,
    memory_items,
    memory_tokens,
    unstack,
)
from memalpha_jax.tools.calls import CallBatch, CallKind, Status

K, L = 6, 5
apply_jitted = jax.jit(apply_calls, static_argnums=3)


class Oracle:
    """What calls mean; `items` maps an id to [type, tokens, first chunk, last chunk], in insertion order."""

    def __init__(self, config: MemoryConfig):
        self.config, self.core, self.items, self.next_id = config, [], {}, 1

    def apply(self, kind, memory_type, item_id, tokens, parsed, chunk) -> Status:
        if parsed not in (Status.OK, Status.TRUNCATED):
            return parsed
        if kind == CallKind.NO_CALL:
            return Status.NO_CALL
        if memory_type not in (0, 1, 2):
            return Status.UNKNOWN_TYPE
        if MemoryType(memory_type).name.lower() not in self.config.enabled:
            return Status.TYPE_DISABLED
        if memory_type == MemoryType.CORE:
            return self.apply_core(kind, tokens, parsed)
        if kind != CallKind.INSERT and self.items.get(item_id, [None])[0] != memory_type:
            return Status.UNKNOWN_ID
        if kind == CallKind.DELETE:
            del self.items[item_id]
            return parsed
        if not tokens:
            return Status.EMPTY_CONTENT
        if kind == CallKind.INSERT and any(item[:2] == [memory_type, tokens] for item in self.items.values()):
            return Status.SKIPPED
        others = [item for i, item in self.items.items() if (kind, i) != (CallKind.UPDATE, item_id)]
        too_long = sum(len(item[1]) for item in others) + len(tokens) > self.config.arena_tokens
        if too_long or len(others) + 1 > self.config.items:
            return Status.CAPACITY
        if kind == CallKind.INSERT:
            self.items[self.next_id] = [memory_type, tokens, chunk, chunk]
            self.next_id += 1
        else:
            self.items[item_id][1::2] = [tokens, chunk]
        return parsed

    def apply_core(self, kind, tokens, parsed) -> Status:
        if kind == CallKind.INSERT:
            return Status.NOT_ALLOWED
        if kind == CallKind.UPDATE and not tokens:
            return Status.EMPTY_CONTENT
        if kind == CallKind.DELETE and not self.core:
            return Status.UNKNOWN_ID
        self.core = [] if kind == CallKind.DELETE else tokens[: self.config.core_tokens]
        return Status.TRUNCATED if len(tokens) > len(self.core) and kind == CallKind.UPDATE else parsed

    def contents(self) -> list[MemoryItem]:
        return [MemoryItem(i, MemoryType(t), tuple(x), a, b) for i, (t, x, a, b) in self.items.items()]


def random_calls(rng: np.random.Generator, count: int) -> CallBatch:
    """CallBatch [count, K]: few tokens and few ids, so that duplicates, hits and misses are all common."""
    shape = (count, K)
    length = rng.choice([0, 1, 1, 2, 2, 3, 4, 5], shape)
    content = np.where(np.arange(L) < length[..., None], rng.integers(1, 4, (*shape, L)), 0)
    return CallBatch(
        kind_K=rng.choice([0, 1, 1, 1, 2, 2, 3], shape),
        memory_type_K=rng.choice([-1, 0, 1, 1, 1, 2, 2, 2, 3], shape),
        item_id_K=rng.integers(-1, 9, shape),
        content_KL=content,
        length_K=length,
        status_K=rng.choice([Status.OK] * 9 + [Status.TRUNCATED, Status.NO_CALL, Status.BAD_JSON], shape),
        dropped=np.zeros(count, int),
    )


def as_calls(*calls: tuple) -> CallBatch:
    """CallBatch [K] of (kind, type, id, tokens) tuples, padded with slots that are not calls."""
    calls += ((CallKind.NO_CALL, -1, -1, []),) * (K - len(calls))
    content = np.zeros((len(calls), L), int)
    for k, call in enumerate(calls):
        content[k, : len(call[3])] = call[3]
    columns = [np.array(column) for column in list(zip(*calls, strict=True))[:3]]
    lengths = np.array([len(call[3]) for call in calls])
    return CallBatch(*columns, content, lengths, np.zeros(len(calls), int), np.int32(0))


def insert(tokens, kind=MemoryType.SEMANTIC):
    return (CallKind.INSERT, kind, -1, tokens)


def statuses_of(state, config, *calls, chunk=0):
    state, status_K = apply_jitted(state, as_calls(*calls), chunk, config)
    return state, [Status(s) for s in status_K[: len(calls)].tolist()]


CONFIGS = [
    MemoryConfig(core_tokens=3, items=64, arena_tokens=256),
    MemoryConfig(core_tokens=9, items=5, arena_tokens=64),
    MemoryConfig(core_tokens=3, items=64, arena_tokens=11),
    MemoryConfig(core_tokens=3, items=7, arena_tokens=20, enabled=("semantic",)),
    MemoryConfig(core_tokens=3, items=7, arena_tokens=20, enabled=("core", "episodic")),
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_apply_calls_equals_the_oracle(config):
    """2,000 sequences of 4 replies for each of 5 configs: statuses, contents, order, ids, provenance."""
    rng, count, chunks = np.random.default_rng(7), 2000, 4
    step = jax.jit(jax.vmap(lambda s, c, t: apply_calls(s, c, t, config), (0, 0, None)))
    states, oracles, seen = empty_memory(config, (count,)), [Oracle(config) for _ in range(count)], set()
    for chunk in range(chunks):
        calls = random_calls(rng, count)
        states, statuses = step(states, calls, chunk)
        expected = [
            [
                oracle.apply(*row[:3], row[4][: row[3]], row[5], chunk)
                for row in zip(*(f[n].tolist() for f in fields(calls)), strict=True)
            ]
            for n, oracle in enumerate(oracles)
        ]
        np.testing.assert_array_equal(np.asarray(statuses), expected)
        seen |= set(np.unique(statuses).tolist())
    for state, oracle in zip(unstack(states), oracles, strict=True):
        assert memory_items(state) == oracle.contents()
        assert list(memory_core(state)) == oracle.core
        assert state.next_id == oracle.next_id
        assert int(memory_tokens(state)) == len(oracle.core) + sum(len(item.tokens) for item in oracle.contents())
    assert {Status.OK, Status.SKIPPED, Status.UNKNOWN_ID, Status.UNKNOWN_TYPE, Status.EMPTY_CONTENT} <= seen


def fields(calls: CallBatch):
    return (
        calls.kind_K,
        calls.memory_type_K,
        calls.item_id_K,
        calls.length_K,
        calls.content_KL,
        calls.status_K,
    )


def test_unused_space_is_zero_and_rows_are_a_prefix():
    config, count = CONFIGS[0], 200
    step = jax.jit(jax.vmap(lambda s, c: apply_calls(s, c, 3, config)[0]))
    states = empty_memory(config, (count,))
    for seed in range(3):
        states = step(states, random_calls(np.random.default_rng(seed), count))
    row_I, token_A, core_S = (np.arange(x.shape[1]) for x in (states.length_I, states.arena_A, states.core_S))
    used, core_len = np.asarray(states.used)[:, None], np.asarray(states.core_len)[:, None]
    assert not np.asarray(states.arena_A)[token_A >= used].any()
    assert not np.asarray(states.core_S)[core_S >= core_len].any()
    dead_NI = row_I >= np.asarray(states.rows)[:, None]
    np.testing.assert_array_equal(states.alive_I, ~dead_NI)
    for name in ("id_I", "type_I", "first_chunk_I", "last_chunk_I", "hash_I"):
        assert not np.asarray(getattr(states, name))[dead_NI].any(), name


def test_an_id_is_never_used_again():
    config = MemoryConfig(items=2, arena_tokens=8)
    state = empty_memory(config)
    for chunk in range(5):
        gone = (CallKind.DELETE, MemoryType.SEMANTIC, chunk, [])
        state, status = statuses_of(state, config, gone, insert([1, 2]), chunk=chunk)
        assert status == [Status.UNKNOWN_ID if chunk == 0 else Status.OK, Status.OK]
        assert [item.id for item in memory_items(state)] == [chunk + 1]


def test_an_update_keeps_its_place_and_first_chunk():
    config = MemoryConfig(items=4, arena_tokens=16)
    state, _ = statuses_of(empty_memory(config), config, insert([1]), insert([2]), insert([3]))
    state, status = statuses_of(state, config, (CallKind.UPDATE, MemoryType.SEMANTIC, 2, [7, 8, 9]), chunk=5)
    assert status == [Status.OK]
    assert [(i.id, i.tokens, i.first_chunk, i.last_chunk) for i in memory_items(state)] == [
        (1, (1,), 0, 0),
        (2, (7, 8, 9), 0, 5),
        (3, (3,), 0, 0),
    ]


def test_space_that_deletes_free_is_usable_within_the_same_reply():
    config = MemoryConfig(items=2, arena_tokens=6)
    state, _ = statuses_of(empty_memory(config), config, insert([1, 2, 3]), insert([4, 5, 6]))
    delete = (CallKind.DELETE, MemoryType.SEMANTIC, 1, [])
    state, status = statuses_of(state, config, insert([9]), delete, insert([9, 9, 9]), insert([8]))
    assert status == [Status.CAPACITY, Status.OK, Status.OK, Status.CAPACITY]
    assert [item.tokens for item in memory_items(state)] == [(4, 5, 6), (9, 9, 9)]


def test_equal_hashes_never_lose_a_text(monkeypatch):
    monkeypatch.setattr(ops, "hash_tokens", lambda tokens_L, length: jnp.uint32(1))
    config = MemoryConfig(items=9, arena_tokens=33)  # sizes of no other test, so that it is traced here
    _, status = statuses_of(empty_memory(config), config, insert([1, 2]), insert([2, 1]), insert([1, 2]))
    assert status == [Status.OK, Status.OK, Status.SKIPPED]


def test_hash_depends_on_order_and_length():
    texts = [[1, 2, 3], [3, 2, 1], [1, 2], [1, 2, 0], [2, 1], []]
    padded = jnp.array([text + [5] * (3 - len(text)) for text in texts])  # what follows a text does not matter
    hashes = jax.vmap(ops.hash_tokens)(padded, jnp.array([len(text) for text in texts]))
    assert len(set(hashes.tolist())) == len(texts)


def test_compact_keeps_living_rows_in_order():
    length = jnp.array([0, 3, 0, 1, 2, 0])
    rows = compact(Rows(length, *[jnp.arange(6) * 10] * 6), 4)
    assert rows.length_J.tolist() == [3, 1, 2, 0]
    assert rows.id_J.tolist() == [10, 30, 40, 0]


def test_growth_preserves_the_memory_and_makes_room():
    config = MemoryConfig(items=2, arena_tokens=6)
    core = (CallKind.UPDATE, MemoryType.CORE, -1, [5, 5])
    state, status = statuses_of(empty_memory(config), config, core, insert([1, 2, 3]), insert([4, 5]), insert([6]))
    assert status[-1] == Status.CAPACITY
    larger = grow_for(jax.tree.map(lambda leaf: leaf[None], state), 3, L)  # a batch of one
    assert (larger.length_I.shape, larger.arena_A.shape) == ((1, 8), (1, 24))
    (larger,) = unstack(larger)
    assert (memory_items(larger), memory_core(larger)) == (memory_items(state), memory_core(state))
    larger, status = statuses_of(larger, config, insert([1, 2, 3]), insert([6]), insert([7, 7, 7, 7, 7]))
    assert status == [Status.SKIPPED, Status.OK, Status.OK]
    assert [item.id for item in memory_items(larger)] == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="shrink"):
        grow(larger, 4, 24)


def test_a_memory_of_400k_tokens_takes_two_megabytes():
    state = jax.eval_shape(lambda: empty_memory(MemoryConfig(items=8192, arena_tokens=400_000)))
    assert sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) < 2e6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"enabled": ("core", "dreams")}, "dreams"),
        ({"enabled": ()}, "empty"),
        ({"items": 0}, "memory.items is 0"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(change, words):
    with pytest.raises(UserError, match=words):
        MemoryConfig(**change)
