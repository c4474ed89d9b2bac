"""Every method by name, and making them from settings."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from memalpha_jax.chat.model import ChatModel
from memalpha_jax.episodes.chunkers import CountTokens
from memalpha_jax.errors import UserError
from memalpha_jax.methods.bm25_rag import Bm25Rag
from memalpha_jax.methods.config import MethodConfig
from memalpha_jax.methods.long_context import LongContext
from memalpha_jax.methods.mem0 import mem0
from memalpha_jax.methods.mem1 import mem1
from memalpha_jax.methods.memagent import memagent
from memalpha_jax.methods.memalpha import MemAlpha
from memalpha_jax.methods.memalpha_chat import memalpha_chat
from memalpha_jax.methods.memgpt import memgpt
from memalpha_jax.methods.memory_r1 import memory_r1
from memalpha_jax.methods.method import Method
from memalpha_jax.methods.mirix import mirix
from memalpha_jax.methods.self_param import SelfParam
from memalpha_jax.policy.policy import Policy


@dataclass(frozen=True)
class Parts:
    """What methods are made of.

    Attributes:
      policy: of memalpha. chat: gives the language model of the others when one needs it.
      count_tokens: of the run's tokenizer.
    """

    config: MethodConfig
    policy: Callable[[], Policy]
    chat: Callable[[], ChatModel]
    count_tokens: CountTokens


def _memalpha(parts: Parts) -> Method:
    c, policy = parts.config, parts.policy()
    if c.writer == "policy":
        return MemAlpha(policy, c.top_k)
    return memalpha_chat(parts.chat(), policy.memory, policy.tokenizer, c.wire, c.top_k, c.reply_tokens)


def _memagent(parts: Parts) -> Method:
    c = parts.config
    return memagent(parts.chat(), c.memagent_tokens, c.reply_tokens, parts.count_tokens)


def _mem1(parts: Parts) -> Method:
    return mem1(parts.chat(), parts.config.mem1_tokens, parts.config.reply_tokens, parts.count_tokens)


def _memgpt(parts: Parts) -> Method:
    return memgpt(parts.chat(), parts.config.core_tokens, parts.config.reply_tokens, parts.count_tokens)


def _mem0(parts: Parts) -> Method:
    c = parts.config
    return mem0(parts.chat(), c.similar, c.top_k, c.reply_tokens, parts.count_tokens)


def _mirix(parts: Parts) -> Method:
    c = parts.config
    return mirix(parts.chat(), c.core_tokens, c.similar, c.top_k, c.reply_tokens, parts.count_tokens)


def _memory_r1(parts: Parts) -> Method:
    return memory_r1(parts.chat(), parts.config.similar, parts.config.reply_tokens, parts.count_tokens)


def _self_param(parts: Parts) -> Method:
    c = parts.config
    return SelfParam(parts.policy(), c.lora_rank, c.lora_steps, c.lora_lr, c.reply_tokens)


METHODS: Mapping[str, Callable[[Parts], Method]] = {
    "memalpha": _memalpha,
    "long_context": lambda parts: LongContext(parts.config.long_context_tokens, parts.count_tokens),
    "bm25_rag": lambda parts: Bm25Rag(parts.config.rag_chunks, parts.count_tokens),
    "memagent": _memagent,
    "mem1": _mem1,
    "memgpt": _memgpt,
    "mem0": _mem0,
    "mirix": _mirix,
    "memory_r1": _memory_r1,
    "self_param": _self_param,
}


def check_known(names: Sequence[str]) -> None:
    """UserError for a name that is no method's."""
    for name in names:
        if name not in METHODS:
            close = difflib.get_close_matches(name, METHODS, 1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise UserError(f"unknown method {name!r}; {hint}the methods are {', '.join(METHODS)}")
