"""One attempt to have a request answered by a server with OpenAI's interface, and what a failed one means.

Again       something that may pass: too many requests, an error of the server, a cut connection, a broken reply
Refused     this request will never be answered
ChatError   no request will: wrong key, address or model
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx2

from memalpha_jax.chat.config import ChatConfig, extra_fields
from memalpha_jax.chat.model import ChatError, ChatRequest, Completion

CONNECT_S = 10.0
MOST_BYTES = 1 << 26
_PASSING = (408, 425, 429)
logging.getLogger("httpx2").setLevel(logging.WARNING)  # it tells of every request


class Again(Exception):
    """Another attempt may succeed.

    Attributes:
      wait_s: what the server asks to wait, 0 where it says nothing. answered: whether it said anything at all.
    """

    def __init__(self, reason: str, wait_s: float = 0.0, answered: bool = True):
        super().__init__(reason)
        self.wait_s, self.answered = wait_s, answered


class Unfinished(Again):
    """An attempt was ended, for its time or for the size of the reply, before the reply was over."""


class Refused(Exception):
    """No attempt will succeed."""


class Server:
    """The server that a config names."""

    def __init__(self, config: ChatConfig):
        self._config, self._key = config, os.environ.get(config.api_key_env, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise ChatError(f"the environment variable {config.api_key_env} holds no key but other text; set it anew")
        base = config.base_url.rstrip("/")
        self.url = (base if urlsplit(base).path else f"{base}/v1") + "/chat/completions"
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx2.Limits(max_connections=config.concurrency)
        self._client = httpx2.Client(headers=headers, limits=limits)

    def body(self, request: ChatRequest) -> bytes:
        """The request as it is sent; the same bytes for the same request."""
        messages = [{"role": message.role, "content": _text(message.content)} for message in request.messages]
        own = {
            "model": self._config.model,
            "messages": messages,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
        }
        return json.dumps({**own, **extra_fields(self._config.extra_body)}, sort_keys=True).encode()

    def attempt(self, body: bytes, seconds: float) -> Completion:
        """Sends a body, for at most about so many seconds.

        Raises:
          Again, Refused, ChatError: see above.
        """
        until, timeout = time.monotonic() + seconds, httpx2.Timeout(seconds, connect=min(seconds, CONNECT_S))
        headers = {"Content-Type": "application/json"}
        try:
            with self._client.stream("POST", self.url, content=body, headers=headers, timeout=timeout) as response:
                data = bytearray()
                for part in response.iter_bytes():
                    data += part
                    if time.monotonic() > until or len(data) > MOST_BYTES:
                        raise Unfinished(f"the reply was not over after {seconds:.0f} s and {len(data)} bytes")
        except httpx2.HTTPError as error:
            raise Again(f"{type(error).__name__}: {error}".removesuffix(": "), answered=False) from error
        if response.status_code == 200:
            return _completion(bytes(data))
        raise self._error(response.status_code, response.headers, bytes(data))

    def _error(self, status: int, headers: Mapping[str, str], data: bytes) -> Exception:
        said = f"status {status}, {self._shown(data)}"
        if status in _PASSING or status >= 500:
            return Again(said, retry_after(headers.get("Retry-After", "")))
        if status in (401, 403):
            sent = "that in" if self._key else "none, for want of"
            return ChatError(
                f"the server at {self.url} wants another key than {sent} the environment variable that api_key_env "
                f"names, {self._config.api_key_env!r} ({said}); set that variable"
            )
        if status == 404 or 300 <= status < 400:
            return ChatError(
                f"the server at {self.url} has no such address or no model {self._config.model!r} ({said}); check "
                "base_url, which mostly ends in /v1, and model"
            )
        return Refused(said)

    def _shown(self, data: bytes) -> str:
        """The beginning of what a server said, without the key, should it have repeated it."""
        text = data.decode("utf-8", "replace")
        with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
            text = str(json.loads(text)["error"]["message"])
        text = text.replace(self._key, "***") if self._key else text
        return repr(text[:200])


def retry_after(value: str) -> float:
    """Seconds that a Retry-After header asks to wait (RFC 9110, section 10.2.3); 0 where it makes no sense."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            then = parsedate_to_datetime(value)
        except ValueError:
            return 0.0
        if then.tzinfo is None:
            then = then.replace(tzinfo=UTC)
        seconds = (then - datetime.now(UTC)).total_seconds()
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


def _completion(data: bytes) -> Completion:
    """The first choice of a reply."""
    try:
        payload = json.loads(data)
        choice = payload["choices"][0]
        message = choice["message"]
        content, refusal, reason = message.get("content"), message.get("refusal"), choice.get("finish_reason")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Again(f"a reply that is no chat completion ({type(error).__name__})") from error
    if refusal or reason == "content_filter":
        raise Refused(f"the model refuses: {_text(str(refusal or reason))[:200]!r}")
    if content is None and reason == "length":  # all of it went into thinking that the server keeps to itself
        content = ""
    if not isinstance(content, str):
        raise Again("a chat completion without content")
    usage = payload.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return Completion(_text(content), "", _count(counts, "prompt_tokens"), _count(counts, "completion_tokens"))


def _count(usage: Mapping[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) and 0 <= value < 1 << 31 else 0


def _text(text: str) -> str:
    """Lone surrogates are not text."""
    return text.encode("utf-8", "replace").decode()
