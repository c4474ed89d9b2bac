"""The language model that a config names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from memalpha_jax.chat.config import ChatConfig
from memalpha_jax.chat.local import LocalChat
from memalpha_jax.chat.model import ChatModel
from memalpha_jax.episodes.chunkers import CountTokens
from memalpha_jax.policy.policy import Policy, load_policy

if TYPE_CHECKING:
    from memalpha_jax.chat.openai import OpenAIChat

CACHE = "chat"
"""The folder of kept replies in a workdir."""


class ChatModels:
    """The models of one run: one for each config, however many ask for it."""

    def __init__(self, policy: Callable[[], Policy], count_tokens: CountTokens, cache: Path | None = None):
        """`policy`: what is local without a path. `cache`: of servers whose config names none."""
        self._policy, self._count_tokens, self._cache = policy, count_tokens, cache
        self._made: dict[ChatConfig, ChatModel] = {}
        self._servers: list[OpenAIChat] = []

    def get(self, config: ChatConfig) -> ChatModel:
        """The model of a config; a server is not asked anything yet."""
        if config not in self._made:
            self._made[config] = self._make(config)
        return self._made[config]

    def _make(self, config: ChatConfig) -> ChatModel:
        if config.kind == "local":
            policy = load_policy(config.path) if config.path else self._policy()
            return LocalChat(policy, config.context_tokens, config.batch_tokens, config.seed)
        from memalpha_jax.chat.openai import OpenAIChat  # its client takes a tenth of a second, and few runs need it

        server = OpenAIChat(config, self._count_tokens, Path(config.cache) if config.cache else self._cache)
        self._servers.append(server)
        return server

    def check(self) -> None:
        """Asks every server one small thing; ChatError, within seconds, where one does not answer."""
        for model in self._servers:
            model.check()

    def usage(self) -> list[str]:
        """A sentence for each server that was asked."""
        return [str(model.usage) for model in self._servers]
