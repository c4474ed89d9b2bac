"""A policy of random weights over bytes, for tests of what surrounds a policy."""

import dataclasses

import jax
from small_policy import jitted_init
from tiny_tokenizer import TinyTokenizer

from memalpha_jax.memory.state import MemoryConfig
from memalpha_jax.policy.config import PolicyConfig
from memalpha_jax.policy.policy import Policy
from memalpha_jax.rollout.rollout import RolloutConfig
from memalpha_jax.tools.wire import call_frames

SIZES = PolicyConfig(width=16, layers=1, heads=2, kv_heads=1, head_dim=8, ff=16)
MEMORY = MemoryConfig(core_tokens=40, items=32, arena_tokens=768, shown_items=1, similar_items=1)
ROLLOUT = RolloutConfig(prompt_tokens=320, reply_tokens=160, max_calls=8, template="compact")


def random_policy(seed: int = 0, memory: MemoryConfig = MEMORY, rollout: RolloutConfig = ROLLOUT) -> Policy:
    """Prompts and replies count bytes, so they need to be long."""
    tokenizer = TinyTokenizer(call_frames("qwen_agent"))
    sizes = dataclasses.replace(SIZES, vocab_size=tokenizer.vocab_size)
    params = jitted_init(sizes, jax.random.key(seed))
    return Policy(sizes, params, tokenizer, memory, rollout, chunk_tokens=160)
