"""Collecting trajectories: rolled out in parts or all at once, they are the same."""

import dataclasses

import jax
import numpy as np
import pytest
from small_policy import ROLLOUT, TOKENIZER, writing_engine, writing_params

from memalpha_jax.episodes.batch import tokenize_episodes
from memalpha_jax.episodes.episode import Episode, Question
from memalpha_jax.episodes.feed import Drawn
from memalpha_jax.rollout.collect import chunk_room, deal, gather_parts, make_collector

GROUP = 2
EPISODES = [
    Episode(f"e{i}", "generated", tuple(f"{name} {i}{t}" for t in range(1 + i % 2)), (Question("who?", name),))
    for i, name in enumerate(["tea", "cab", "bed", "ace"])
]

INDICES = [2, 0, 1, 3]


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_dealing_keeps_groups_whole_and_can_be_undone(parts):
    x_N = np.arange(12 * 3).reshape(12, 3)
    dealt = np.asarray(deal(x_N, parts, GROUP))
    assert dealt.shape == (parts, 12 // parts, 3)
    assert (dealt[:, 1::2, 0] - dealt[:, ::2, 0] == 3).all()
    first = np.sort(dealt[0, ::2, 0] // (3 * GROUP))
    np.testing.assert_array_equal(first, np.arange(0, 6, parts))  # spread over all rows, hence over all shards
    np.testing.assert_array_equal(gather_parts(dealt, GROUP), x_N)


def test_trajectories_do_not_depend_on_how_many_are_rolled_out_at_once():
    found = []
    for rows in (0, 4):
        engine = writing_engine(dataclasses.replace(ROLLOUT, rows=rows))
        batch = tokenize_episodes(
            [EPISODES[i] for i in INDICES],
            TOKENIZER,
            max_chunks=2,
            chunk_capacity=chunk_room(engine),
            episode_indices=INDICES,
        )
        drawn = Drawn(np.array(INDICES), tuple(EPISODES[i] for i in INDICES), batch)
        found.append(jax.device_get(make_collector(engine, GROUP, seed=3)(writing_params(engine.policy), 1, drawn)))
    whole, in_parts = found
    assert whole.reply_len_NT.sum() > 40
    np.testing.assert_allclose(whole.logprobs_NTR, in_parts.logprobs_NTR, atol=1e-5)
    in_parts = dataclasses.replace(in_parts, logprobs_NTR=whole.logprobs_NTR)
    jax.tree.map(np.testing.assert_array_equal, whole, in_parts)
