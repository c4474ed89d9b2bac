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
from memalpha_jax.methods.memalpha import MemAlpha
from memalpha_jax.methods.method import Method
from memalpha_jax.methods.retrieval import Retrieval
from memalpha_jax.policy.policy import Policy


@dataclass(frozen=True)
class Parts:
    """What methods are made of.

    Attributes:
      policy: of memalpha. chat: gives the language model of the others when one needs it.
      count_tokens: of the run's tokenizer. retrieval: ranks entries, in methods that have entries to rank.
    """

    config: MethodConfig
    policy: Callable[[], Policy]
    chat: Callable[[], ChatModel]
    count_tokens: CountTokens
    retrieval: Retrieval = Retrieval()


METHODS: Mapping[str, Callable[[Parts], Method]] = {
    "memalpha": lambda parts: MemAlpha(parts.policy(), parts.config.top_k, parts.retrieval),
    "long_context": lambda parts: LongContext(parts.config.long_context_tokens, parts.count_tokens),
    "bm25_rag": lambda parts: Bm25Rag(parts.config.rag_chunks, parts.count_tokens),
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
