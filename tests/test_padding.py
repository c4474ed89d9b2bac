"""Padding of the update stays under a fifth of its tokens, for the shipped configs and lengths as texts have them."""

from __future__ import annotations

import dataclasses
import functools
import runpy
from typing import Any

import mini
import numpy as np
import pytest
from length_mixes import blocks_of, generated, lengths_of_a_step, measured
from qwen_folder import qwen_folder

from memalpha_jax.config import build
from memalpha_jax.episodes.schedule import Schedule, heads_of
from memalpha_jax.episodes.sources import load_episodes
from memalpha_jax.experiment import Config
from memalpha_jax.grpo.learner import row_tokens
from memalpha_jax.policy.buckets import padding, widths
from memalpha_jax.policy.hf_tokenizer import HuggingFaceTokenizer
from memalpha_jax.rollout.trajectory import Trajectory

DATA = mini.ROOT.parent / "shared" / "data"
FILES = {"squad": DATA / "squad" / "dev-v1.1.rebuilt.json", "locomo": DATA / "locomo" / "locomo_first5.json"}
LIMIT = 0.2
VOCABULARY = 151_936
# The share of a chunk's sentences that a reply stores is drawn from these, reply by reply.
WRITERS = {"any": (0.0, 1.0), "terse": (0.0, 0.3)}


class FourCharacters:
    """Counts tokens where there is no tokenizer at hand: one for every four characters."""

    vocab_size, eos_id = VOCABULARY, 0

    def encode(self, text: str) -> list[int]:
        return [0] * -(-len(text) // 4)

    encode_trusted = encode


def experiment(name: str, **episodes: Any) -> Config:
    """A config of `experiments/` with other episodes."""
    values = runpy.run_path(str(mini.ROOT / "experiments" / f"{name}.py"))["get_config"]().to_dict()
    return build(Config, {**values, "episodes": {**values["episodes"], **episodes}})


@functools.cache
def qwen() -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer.load(qwen_folder())


@functools.cache
def count(text: str) -> int:
    return len(qwen().encode(text))


@functools.cache
def real(name: str, source: str):
    """The config on a real file, and the episodes of its first step, fewer where the file has too few of them."""
    if not FILES[source].exists():
        pytest.skip(f"there is no {FILES[source]}")
    config = experiment(name, source=source, path=str(FILES[source]))
    episodes = load_episodes(config.episodes, "train", count)
    B = min(config.grpo.episodes, len(episodes) // 4 * 4)  # parts of rollout.rows are four groups
    config = dataclasses.replace(config, grpo=dataclasses.replace(config.grpo, episodes=B))
    drawn = Schedule(heads_of(episodes), B, config.seed)[0].tolist()
    return config, measured([episodes[i] for i in drawn], count)


def plain_padding(tokens_XM: np.ndarray, slots: tuple[int, ...]) -> float:
    """As it is defined, in a loop."""
    computed = sum(min(w for w in slots if w >= max(block)) * len(block) for block in tokens_XM.tolist() if max(block))
    return 1 - tokens_XM.sum() / computed


def padding_of(config: Config, trajectory: Trajectory, buckets: int = 0) -> float:
    """The share that `update` reports for such a step of one minibatch."""
    (tokens_XM,) = np.asarray(row_tokens(blocks_of(config, trajectory)))
    answered = trajectory.reply_len_NT > 0
    assert tokens_XM.sum() == (trajectory.prompt_len_NT + trajectory.reply_len_NT)[answered].sum()
    slots = widths(config.rollout.prompt_tokens + config.rollout.reply_tokens, buckets or config.grpo.buckets)
    share = float(padding(tokens_XM, slots))
    assert share == pytest.approx(plain_padding(tokens_XM, slots), abs=1e-5)
    return share


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("source", FILES)
@pytest.mark.parametrize("name", ["grpo", "grpo_0_6b_lora"])
def test_real_texts_with_the_true_tokenizer(name, source, writer):
    config, episodes = real(name, source)
    trajectory = lengths_of_a_step(config, qwen(), episodes, WRITERS[writer])
    share = padding_of(config, trajectory)
    print(f"{name}, {source}, {writer} writer: padding {100 * share:.1f} %")
    assert share < LIMIT


@pytest.mark.parametrize("name", ["grpo", "grpo_0_6b_lora"])
def test_generated_lengths(name):
    config = experiment(name)
    sizes = config.grpo.episodes, config.episodes.chunks, config.episodes.chunk_tokens
    trajectory = lengths_of_a_step(
        config, FourCharacters(), generated(np.random.default_rng(1), *sizes), WRITERS["any"]
    )
    assert padding_of(config, trajectory) < LIMIT < padding_of(config, trajectory, buckets=1)
