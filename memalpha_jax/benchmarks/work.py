"""What must be done at least: floating-point operations and bytes from the memory, counted from the shapes.

A matrix product of [m, k] and [k, n] counts 2 m k n operations. Norms, rotations, softmax and sampling are not counted,
nor is anything computed twice, as under remat, or for padding.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from memalpha_jax.policy.config import PROJECTIONS, PolicyConfig
from memalpha_jax.policy.model import cache_bytes, parameter_shapes


class Work(NamedTuple):
    """tokens: read or written. flops: operations. moved: bytes; 0 where they are not what binds."""

    tokens: int
    flops: int
    moved: int

    def __add__(self, other: tuple) -> Work:
        return Work(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, count: int) -> Work:
        return Work(*(count * value for value in self))


def parameter_count(config: PolicyConfig) -> int:
    """All parameters; a tied embedding counts once."""
    return sum(math.prod(shape) for shape, _ in parameter_shapes(config).values())


def body_weights(config: PolicyConfig) -> int:
    """Entries of the matrices that every token is multiplied by, the output matrix aside."""
    return sum(math.prod(shape) for name, (shape, _) in parameter_shapes(config).items() if name in PROJECTIONS)


def head_weights(config: PolicyConfig) -> int:
    """Entries of the output matrix, whether or not it is the embedding too."""
    return config.vocab_size * config.width


def attention_flops(config: PolicyConfig, seen: int) -> int:
    """Scores and weighted values of queries that see `seen` slots altogether."""
    return 4 * config.layers * config.heads * config.head_dim * seen


def prefill_work(config: PolicyConfig, rows: int, prompt: int, item: int) -> Work:
    """Prompts of so many tokens, and the logits after each; `item`: bytes of one number."""
    per_row = 2 * body_weights(config) * prompt + 2 * head_weights(config)
    per_row += attention_flops(config, prompt * (prompt + 1) // 2)
    moved = item * (body_weights(config) + head_weights(config)) + cache_bytes(config, rows * prompt, item)
    return Work(rows * prompt, rows * per_row, moved)


def decode_work(config: PolicyConfig, rows: int, prompt: int, new: int, item: int) -> Work:
    """The tokens after the first, which the prefill gives: every step reads all weights and what it attends to."""
    steps = new - 1
    seen = sum(prompt + step for step in range(1, new))
    weights = body_weights(config) + head_weights(config)
    flops = rows * (2 * weights * steps + attention_flops(config, seen))
    return Work(rows * steps, flops, item * weights * steps + cache_bytes(config, rows * seen, item))


def train_work(config: PolicyConfig, rows: int, prompt: int, reply: int) -> Work:
    """Forward and backward pass; the backward pass of a product is two products, so the whole is three forwards."""
    tokens = prompt + reply
    forward = 2 * body_weights(config) * tokens + 2 * head_weights(config) * reply
    forward += attention_flops(config, tokens * (tokens + 1) // 2)
    return Work(rows * tokens, 3 * rows * forward, 0)
