"""What a server was asked, and what it cost."""

from __future__ import annotations

import dataclasses
import threading

from memalpha_jax.chat.config import ChatConfig
from memalpha_jax.chat.model import Completion


@dataclasses.dataclass
class Usage:
    """Counts of one model of this run, for any number of threads.

    Attributes:
      requests: answered by the server. from_cache: answered by what was kept. failures: without an answer, for good.
      retries: attempts that failed. prompt_tokens, completion_tokens: of the requests answered, as the server counts.
    """

    config: ChatConfig
    requests: int = 0
    from_cache: int = 0
    failures: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock, repr=False)

    def answered(self, completion: Completion) -> None:
        with self._lock:
            self.requests += 1
            self.prompt_tokens += completion.prompt_tokens
            self.completion_tokens += completion.completion_tokens

    def kept(self) -> None:
        with self._lock:
            self.from_cache += 1

    def failed(self) -> None:
        with self._lock:
            self.failures += 1

    def again(self) -> None:
        with self._lock:
            self.retries += 1

    @property
    def cost(self) -> float:
        """In the unit of the config's prices."""
        c = self.config
        return (self.prompt_tokens * c.price_prompt + self.completion_tokens * c.price_completion) / 1e6

    def __str__(self) -> str:
        price = f", cost {self.cost:.4g}" if self.config.price_prompt or self.config.price_completion else ""
        return (
            f"{self.config.model}: {self.requests} requests answered ({self.prompt_tokens} prompt tokens, "
            f"{self.completion_tokens} completion tokens{price}), {self.from_cache} from kept replies, "
            f"{self.retries} attempts failed, {self.failures} requests failed for good"
        )
