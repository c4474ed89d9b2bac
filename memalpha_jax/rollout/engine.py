"""Assembles an `Engine` from configuration and a tokenizer."""

from __future__ import annotations

import dataclasses
import functools

from jax.sharding import Mesh

from memalpha_jax.errors import UserError
from memalpha_jax.memory.render import compile_template, tokens_around
from memalpha_jax.memory.state import MemoryConfig
from memalpha_jax.policy.config import PolicyConfig
from memalpha_jax.policy.generate import check_positions
from memalpha_jax.policy.sampling import SamplingConfig
from memalpha_jax.policy.tokenizer import Tokenizer, thinking_ids
from memalpha_jax.rollout.rollout import Engine, RolloutConfig
from memalpha_jax.tools.prompts import load_template
from memalpha_jax.tools.reply import parse_replies
from memalpha_jax.tools.schemas import tools_text


def make_engine(
    policy: PolicyConfig,
    memory: MemoryConfig,
    rollout: RolloutConfig,
    tokenizer: Tokenizer,
    *,
    mesh: Mesh | None = None,
    temperature: float | None = None,
) -> Engine:
    """The static part of a rollout; `temperature` overrides the training one (0 is greedy).

    Raises UserError for a vocabulary that is smaller than the tokenizer's, for prompts and replies longer than the
    policy's context, and for a wrong template or sampler.
    """
    check_positions(policy, rollout.prompt_tokens, rollout.reply_tokens)
    if 0 < policy.vocab_size < tokenizer.vocab_size:
        raise UserError(
            f"the policy has embeddings for {policy.vocab_size} tokens and the tokenizer {tokenizer.vocab_size}: they "
            "do not belong together; give the tokenizer that the policy was made with"
        )
    temperature = rollout.temperature if temperature is None else temperature
    parser = functools.partial(
        parse_replies,
        tokenizer=tokenizer,
        wire=rollout.wire,
        max_calls=rollout.max_calls,
        max_tokens=rollout.reply_tokens,
        core_tokens=memory.core_tokens,
    )
    return Engine(
        policy=dataclasses.replace(policy, vocab_size=policy.vocab_size or tokenizer.vocab_size),
        memory=memory,
        rollout=rollout,
        sampling=sampling_of(rollout, tokenizer, temperature),
        tables=compile_template(
            load_template(rollout.template),
            tokenizer,
            memory,
            tools_text(rollout.wire, memory.enabled),
            rollout.thinking,
        ),
        parser=parser,
        mesh=mesh,
    )


def sampling_of(rollout: RolloutConfig, tokenizer: Tokenizer, temperature: float) -> SamplingConfig:
    """The sampler of a rollout; UserError for a stop string or a mark of thinking that is not one token."""
    sampling = SamplingConfig(
        rollout.reply_tokens,
        temperature,
        tokenizer.eos_id,
        stop_ids=tuple(_stop_id(text, tokenizer) for text in rollout.stop),
        top_k=rollout.top_k,
        top_p=rollout.top_p,
        min_p=rollout.min_p,
    )
    if not rollout.thinking_budget:
        return sampling
    ids = thinking_ids(tokenizer)
    return dataclasses.replace(
        sampling,
        thinking_budget=rollout.thinking_budget,
        think_start_id=ids.start_id,
        think_end_id=ids.end_id,
        think_end_ids=ids.forced_ids,
    )


def _stop_id(text: str, tokenizer: Tokenizer) -> int:
    tokens = tokenizer.encode_trusted(text)
    if len(tokens) != 1:
        raise UserError(f"rollout.stop has {text!r}, which is {len(tokens)} tokens; give control strings of one token")
    return tokens[0]


def chunk_budget(engine: Engine) -> int:
    """The longest chunk, in tokens, that fits the prompt beside an empty memory."""
    return engine.rollout.prompt_tokens - tokens_around(engine.tables, 0, engine.memory)
