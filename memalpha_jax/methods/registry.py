"""Every method by name, and making them from settings."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from memalpha_jax.chat.model import ChatModel
from memalpha_jax.episodes.chunkers import CountTokens
from memalpha_jax.errors import UserError
from memalpha_jax.methods.archive import Archived
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
from memalpha_jax.methods.retrieval import Retrieval
from memalpha_jax.methods.self_param import SelfParam
from memalpha_jax.methods.session import ChatParts
from memalpha_jax.policy.policy import Policy


@dataclass(frozen=True)
class Parts:
    """What methods are made of.

    Attributes:
      policy: of memalpha and self_param. chat: gives the language model of the others when one needs it.
      count_tokens: of the run's tokenizer. retrieval: ranks entries, in methods that have entries to rank.
    """

    config: MethodConfig
    policy: Callable[[], Policy]
    chat: Callable[[], ChatModel]
    count_tokens: CountTokens
    retrieval: Retrieval = Retrieval()


def _chat(parts: Parts) -> ChatParts:
    return ChatParts(parts.chat(), parts.config.reply_tokens, parts.count_tokens, parts.retrieval)


def _memalpha(parts: Parts) -> Method:
    c, policy = parts.config, parts.policy()
    if c.writer == "policy":
        return MemAlpha(policy, c.top_k, parts.retrieval)
    return memalpha_chat(_chat(parts), policy.memory, policy.tokenizer, c.wire, c.top_k)


def _mirix(parts: Parts) -> Method:
    c = parts.config
    return mirix(_chat(parts), c.core_tokens, c.similar, c.top_k)


def _self_param(parts: Parts) -> Method:
    c = parts.config
    return SelfParam(parts.policy(), c.lora_rank, c.lora_steps, c.lora_lr, c.reply_tokens)


METHODS: Mapping[str, Callable[[Parts], Method]] = {
    "memalpha": _memalpha,
    "long_context": lambda parts: LongContext(parts.config.long_context_tokens, parts.count_tokens),
    "bm25_rag": lambda parts: Bm25Rag(parts.config.rag_chunks, parts.count_tokens),
    "memagent": lambda parts: memagent(_chat(parts), parts.config.memagent_tokens),
    "mem1": lambda parts: mem1(_chat(parts), parts.config.mem1_tokens),
    "memgpt": lambda parts: memgpt(_chat(parts), parts.config.core_tokens),
    "mem0": lambda parts: mem0(_chat(parts), parts.config.similar, parts.config.top_k),
    "mirix": _mirix,
    "memory_r1": lambda parts: memory_r1(_chat(parts), parts.config.similar),
    "self_param": _self_param,
}


def make(name: str, parts: Parts) -> Method:
    """The method of that name, beside an archive of the chunks where the settings ask for one."""
    method = METHODS[name](parts)
    return Archived(method, parts.count_tokens) if parts.retrieval.archive else method


def check_known(names: Sequence[str]) -> None:
    """UserError for a name that is no method's."""
    for name in names:
        if name not in METHODS:
            close = difflib.get_close_matches(name, METHODS, 1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise UserError(f"unknown method {name!r}; {hint}the methods are {', '.join(METHODS)}")
