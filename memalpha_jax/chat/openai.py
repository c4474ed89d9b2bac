"""A language model behind any server with OpenAI's interface: POST BASE_URL/chat/completions.

request ▸ the reply kept, if there is one ▸ attempt, wait, attempt .. until the deadline ▸ reply, kept from now on
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from memalpha_jax.chat.cache import ReplyCache
from memalpha_jax.chat.config import ChatConfig
from memalpha_jax.chat.model import ChatError, ChatRequest, Completion, Seat, ask
from memalpha_jax.chat.seats import or_raise
from memalpha_jax.chat.server import Again, Refused, Server, Unfinished
from memalpha_jax.chat.usage import Usage
from memalpha_jax.episodes.chunkers import CountTokens


class OpenAIChat:
    """A `ChatModel` over HTTP.

    Equal requests are answered alike: a reply that was had once is kept, in `cache` for later runs too.
    """

    def __init__(self, config: ChatConfig, count_tokens: CountTokens, cache: Path | None):
        """`count_tokens`: of any tokenizer, as an approximation: servers have no call for it. `cache`: a folder."""
        self._config, self._server = config, Server(config)
        self.count_tokens, self.usage = count_tokens, Usage(config)
        self._cache = ReplyCache(cache) if cache else None
        self._under_way = threading.BoundedSemaphore(config.concurrency)
        self._stopped = threading.Event()
        self._jitter = random.Random()

    @property
    def identity(self) -> str:
        """Address, model and what else is sent."""
        c = self._config
        return f"openai {c.base_url} {c.model} {c.extra_body} context={c.context_tokens}"

    @property
    def context_tokens(self) -> int:
        return self._config.context_tokens

    def check(self) -> None:
        """Asks one small thing, for at most about `start_timeout_s`; ChatError where no answer comes."""
        body, seconds = self._server.body(ask("Hello", 1)), self._config.start_timeout_s
        until = time.monotonic() + seconds
        try:
            self._try(body, until, seconds)
        except Again as error:
            if not error.answered:
                raise ChatError(
                    f"no answer from {self._server.url} within {seconds:.0f} s ({error}); check that the server runs "
                    "and that base_url is its address; if it only is slow to begin, raise start_timeout_s"
                ) from error
        except Refused:
            pass  # it is there

    def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        """As `ChatModel`; ChatError as well where the server has stopped answering for good."""
        distinct = list(dict.fromkeys(requests))
        with ThreadPoolExecutor(min(self._config.concurrency, max(1, len(distinct)))) as pool:
            futures = [pool.submit(self.one, request) for request in distinct]
            try:
                found = {request: future.result() for request, future in zip(distinct, futures, strict=True)}
            except BaseException:  # an interrupt too: what waits for its next attempt must not hold up the end
                self._stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [found[request] for request in requests]

    def seats(self, n: int) -> list[Seat]:
        """Seats that ask whenever they like."""
        return [_OwnSeat(self) for _ in range(n)]

    def one(self, request: ChatRequest) -> Completion:
        """The completion of one request, from what was kept or from the server; for any number of threads."""
        body = self._server.body(request)
        key = hashlib.sha256(self._server.url.encode() + b"\n" + body).hexdigest()
        kept = self._cache.get(key) if self._cache else None
        if kept is not None:
            self.usage.kept()
            return kept
        with self._under_way:
            begin = time.monotonic()
            try:
                completion = self._try(body, begin + self._config.deadline_s, self._config.timeout_s)
            except (Again, Refused) as error:
                self.usage.failed()
                if isinstance(error, Again) and not error.answered:
                    self.check()
                return Completion("", f"no reply from {self._server.url} in {time.monotonic() - begin:.0f} s: {error}")
        self.usage.answered(completion)
        return self._cache.put(key, completion) if self._cache else completion

    def _try(self, body: bytes, until: float, timeout: float) -> Completion:
        """Attempts until one succeeds; where there is no time for another, the last failure that the server told of.

        The waits are drawn evenly up to a limit that doubles: exponential back-off with full jitter, as in Brooker,
        "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
        """
        limit, told = self._config.backoff_s, None
        while True:
            try:
                return self._server.attempt(body, min(timeout, max(0.001, until - time.monotonic())))
            except Again as error:
                self.usage.again()
                # The deadline cuts the last attempt short, and that says less than what went wrong before.
                if error.answered and not (told and isinstance(error, Unfinished)):
                    told = error
                wait = max(error.wait_s, self._jitter.uniform(0, min(limit, self._config.backoff_max_s)))
                if time.monotonic() + wait >= until or self._stopped.wait(wait):
                    raise told or error from None
                limit = min(2 * limit, self._config.backoff_max_s)


class _OwnSeat:
    def __init__(self, chat: OpenAIChat):
        self._chat = chat

    def reply(self, request: ChatRequest) -> Completion:
        return or_raise(self._chat.one(request))

    def leave(self) -> None:
        pass
