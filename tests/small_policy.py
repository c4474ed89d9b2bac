"""Small random policies: one for comparing numbers, one whose replies are full of memory calls."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tiny_tokenizer import TinyTokenizer

from memalpha_jax.memory.state import MemoryConfig
from memalpha_jax.policy.config import PolicyConfig
from memalpha_jax.policy.model import Qwen3, init_params
from memalpha_jax.rollout.engine import make_engine
from memalpha_jax.rollout.rollout import Engine, RolloutConfig

SIZES = PolicyConfig(vocab_size=61, width=32, layers=2, heads=4, kv_heads=2, head_dim=8, ff=48)
MEMORY = MemoryConfig(core_tokens=8, items=12, arena_tokens=32, shown_items=1, similar_items=1)
ROLLOUT = RolloutConfig(prompt_tokens=112, reply_tokens=20, max_calls=4, template="compact")


jitted_init = jax.jit(init_params, static_argnums=0)  # a tenth of the compilations


def random_params(config: PolicyConfig, seed: int = 0) -> dict[str, Any]:
    """Gains away from 1 and logits of about 1, so that no part of the model could be left out unseen."""
    params = jitted_init(config, jax.random.key(seed))
    rng = np.random.default_rng(seed)
    for name, value in params.items():
        if name.endswith("norm"):
            params[name] = value * jnp.asarray(rng.uniform(0.5, 1.5, value.shape), jnp.float32)
    return {**params, "embed": 10 * params["embed"]}


CLOSE = '"}\n'


def _call_parts() -> list[str]:
    """Beginnings of calls, with ids and a first letter of content, so that few tokens make a call."""
    begin = '✿FUNCTION✿: {}\n✿ARGS✿: {{"memory_type": "{}_memory"'
    parts = [begin.format("memory_update", "core") + ', "new_content": "c']
    for kind in ("episodic", "semantic"):
        parts.append(begin.format("new_memory_insert", kind) + f', "content": "{kind[0]}')
        for item in "123":
            chosen = f', "memory_id": "{item}'
            parts.append(begin.format("memory_update", kind) + chosen + '", "new_content": "u')
            parts.append(begin.format("memory_delete", kind) + chosen + CLOSE)
    return parts


TOKENIZER = TinyTokenizer([*_call_parts(), CLOSE])
LIKING = {
    "core": 9.0,
    "memory_insert": 10.0,
    "memory_update": 7.5,
    "memory_delete": 7.0,
    CLOSE: 10.5,
    "<|im_end|>": 9.5,
}
"""How likely a token is, by the first of these that it contains; letters have 8, all others 0."""


def writing_params(config: PolicyConfig, seed: int = 0) -> dict[str, Any]:
    """Parameters under which nearly all tokens are parts of calls, a few letters and the end token.

    All embeddings share a direction, hence all states have a component along their mean, and a token whose
    embedding has such a component too is likely everywhere.
    """
    params = random_params(config, seed)
    rng = np.random.default_rng(seed)
    embed = 0.5 * params["embed"] + jnp.asarray(rng.normal(size=config.width), jnp.float32)
    tokens = rng.integers(1, config.vocab_size, (4, 64))
    positions, causal = (
        np.broadcast_to(np.arange(64), (4, 64)),
        np.broadcast_to(np.tri(64, dtype=bool), (4, 64, 64)),
    )
    states = {"params": {**params, "embed": embed}}
    hidden = jax.jit(lambda states: Qwen3(config).apply(states, tokens, positions, causal, method="hidden")[0])
    mean_D = hidden(states).mean((0, 1))
    liking = np.zeros(config.vocab_size, np.float32)
    liking[TOKENIZER.encode("abcde ")] = 8.0
    for i, frame in enumerate(TOKENIZER.frames):
        liking[257 + i] = next((value for part, value in LIKING.items() if part in frame), 0.0)
    return {**params, "embed": embed + liking[:, None] * mean_D / jnp.sum(mean_D**2)}


def writing_engine(rollout: RolloutConfig = ROLLOUT, memory: MemoryConfig = MEMORY, **options: Any) -> Engine:
    """An engine over bytes and parts of calls, for `writing_params(engine.policy)`."""
    return make_engine(dataclasses.replace(SIZES, layers=1, vocab_size=0), memory, rollout, TOKENIZER, **options)
