"""The language model that a config names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from memalpha_jax.chat.config import ChatConfig
from memalpha_jax.chat.local import LocalChat
from memalpha_jax.chat.model import ChatModel
from memalpha_jax.chat.openai import OpenAIChat
from memalpha_jax.episodes.chunkers import CountTokens
from memalpha_jax.policy.policy import Policy

CACHE = "chat"
"""The folder of kept replies in a workdir."""


class ChatModels:
    """The models of one run: one for each config, however many ask for it."""

    def __init__(self, policy: Callable[[], Policy], count_tokens: CountTokens, cache: Path | None):
        """`policy`: what "local" is. `cache`: of servers whose config names none; None keeps no replies."""
        self._policy, self._count_tokens, self._cache = policy, count_tokens, cache
        self._made: dict[ChatConfig, ChatModel] = {}

    def get(self, config: ChatConfig) -> ChatModel:
        """
        Raises:
          ChatError: a server that does not answer now.
        """
        if config not in self._made:
            self._made[config] = self._make(config)
        return self._made[config]

    def _make(self, config: ChatConfig) -> ChatModel:
        if config.kind == "local":
            return LocalChat(self._policy(), config.context_tokens, config.batch_tokens, config.seed)
        server = OpenAIChat(config, self._count_tokens, Path(config.cache) if config.cache else self._cache)
        server.check()
        return server

    def usage(self) -> list[str]:
        """A sentence for each server that was asked."""
        return [str(model.usage) for model in self._made.values() if isinstance(model, OpenAIChat)]
