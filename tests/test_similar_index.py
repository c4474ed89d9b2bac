"""The index on the host against the search on the device, over memories that change call by call."""

import jax
import numpy as np
import pytest

from memalpha_jax.memory import similar_index
from memalpha_jax.memory.ops import apply_calls
from memalpha_jax.memory.similar import similar_items
from memalpha_jax.memory.similar_index import SimilarIndex
from memalpha_jax.memory.state import MemoryConfig, MemoryType, empty_memory
from memalpha_jax.tools.calls import CallBatch, CallKind, Status, empty_call_batch

CONFIG = MemoryConfig(core_tokens=8, items=128, arena_tokens=1024)
K, L, C, k = 4, 12, 40, 5
apply_jitted = jax.jit(apply_calls, static_argnums=3)
search = jax.jit(lambda state, chunk_C, length: similar_items(state, chunk_C, length, k))


def random_calls(rng: np.random.Generator, vocab: int, next_id: int) -> CallBatch:
    """Inserts, updates and deletes of both lists, some of which fail; few words, so that many items are alike."""
    batch = empty_call_batch(K, L)
    for slot in range(K):
        kind = rng.choice([CallKind.INSERT] * 5 + [CallKind.UPDATE] * 2 + [CallKind.DELETE])
        memory_type = rng.choice([MemoryType.SEMANTIC] * 4 + [MemoryType.EPISODIC] * 4 + [MemoryType.CORE])
        length = int(rng.integers(0, L + 1)) if kind != CallKind.DELETE else 0
        batch.kind_K[slot], batch.memory_type_K[slot], batch.status_K[slot] = kind, memory_type, Status.OK
        batch.item_id_K[slot] = rng.integers(1, next_id + 2)
        batch.content_KL[slot, :length], batch.length_K[slot] = rng.integers(1, vocab, length), length
    return batch


@pytest.mark.parametrize(("seed", "vocab"), [(0, 3), (1, 9), (2, 60), (3, 100_000)])
def test_rows_are_those_of_the_search_on_the_device(seed, vocab, monkeypatch):
    monkeypatch.setattr(similar_index, "LEAST_TAIL", 40)  # the postings are sorted several times
    rng, state, index = np.random.default_rng(seed), empty_memory(CONFIG), SimilarIndex()
    sorts = []
    monkeypatch.setattr(SimilarIndex, "_sort", lambda self, inner=SimilarIndex._sort: (sorts.append(1), inner(self)))
    for chunk in range(30):
        calls = random_calls(rng, vocab, int(state.next_id))
        state, status_K = apply_jitted(state, calls, chunk, CONFIG)
        index.apply(calls, np.asarray(status_K))
        if chunk % 7 == 6:
            index = SimilarIndex.of(jax.device_get(state))
        for _ in range(6):
            length = int(rng.integers(0, C + 1))
            chunk_C = rng.integers(1, vocab, C).astype(np.int32)
            if length > 10 and rng.random() < 0.7:  # quote something stored
                at = int(rng.integers(0, max(1, int(state.used) - 8)))
                chunk_C[2:10] = np.asarray(state.arena_A)[at : at + 8]
            assert index.best(chunk_C[:length], k).tolist() == search(state, chunk_C, length).tolist()
    assert sorts


def test_deleting_everything_leaves_nothing_to_find():
    state, index = empty_memory(CONFIG), SimilarIndex()
    calls = empty_call_batch(K, L)
    calls.kind_K[:3], calls.memory_type_K[:3], calls.status_K[:3] = CallKind.INSERT, MemoryType.SEMANTIC, Status.OK
    calls.content_KL[:3, :3], calls.length_K[:3] = [[1, 2, 3], [4, 5, 6], [7, 8, 9]], 3
    state, status_K = apply_jitted(state, calls, 0, CONFIG)
    index.apply(calls, np.asarray(status_K))
    assert index.best(np.array([4, 5, 6]), 4).tolist() == [1, 0, 2, -1]
    calls.kind_K[:3], calls.item_id_K[:3] = CallKind.DELETE, [1, 2, 3]
    state, status_K = apply_jitted(state, calls, 1, CONFIG)
    index.apply(calls, np.asarray(status_K))
    assert not np.asarray(state.alive_I).any()
    assert index.best(np.array([4, 5, 6]), 3).tolist() == [-1, -1, -1]


def test_an_index_takes_few_bytes_per_token():
    rng, index = np.random.default_rng(0), SimilarIndex()
    tokens = 0
    while tokens < 40_000:
        calls = empty_call_batch(K, L)
        calls.kind_K[:], calls.memory_type_K[:] = CallKind.INSERT, MemoryType.SEMANTIC
        calls.content_KL[:], calls.length_K[:] = rng.integers(1, 1000, (K, L)), L
        index.apply(calls, np.zeros(K, np.int32))
        tokens += K * L
    assert index.nbytes / tokens < 48
