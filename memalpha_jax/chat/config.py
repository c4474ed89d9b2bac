"""Which language model a method, a reader or a judge talks to."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any, Literal
from urllib.parse import urlsplit

from memalpha_jax.errors import UserError

HOW_ASKED = (
    *("api_key_env", "concurrency", "timeout_s", "deadline_s", "backoff_s", "backoff_max_s", "start_timeout_s"),
    *("cache", "batch_tokens", "price_prompt", "price_completion"),
)
"""The settings of a model that no reply depends on."""


@dataclass(frozen=True)
class ModelConfig:
    """A language model, of this process or behind an address.

    Attributes:
      context_tokens: prompt and reply together, at most; a local model's own limit holds where it is lower.
      path, batch_tokens, seed: local: a workdir, a checkpoint or a Hugging Face model, "" is the policy of this run;
        slots of one batch; of sampled replies.
      base_url, model: of the server, such as http://localhost:8000/v1 and the name it serves the model by.
      api_key_env: environment variable that holds the server's key; where it is not set, none is sent.
      extra_body: JSON object of further fields for every request, such as
        {"chat_template_kwargs": {"enable_thinking": false}}, which turns off Qwen3's thinking in vLLM and SGLang.
      concurrency: requests under way at a time.
      timeout_s: of one attempt. deadline_s: of a request, all its attempts and waits together.
      backoff_s, backoff_max_s: the longest wait before the second attempt, doubled with every other, and its limit; a
        server's own Retry-After holds where it is longer.
      start_timeout_s: how long a server that does not answer is tried before anything else is done.
      cache: folder of the replies so far; "" is one in the workdir of an evaluation, and none in training.
      price_prompt, price_completion: of a million tokens; 0 leaves out the cost.
    """

    context_tokens: int = 32_768
    path: str = ""
    batch_tokens: int = 65_536
    seed: int = 0
    base_url: str = ""
    model: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    extra_body: str = ""
    concurrency: int = 16
    timeout_s: float = 120.0
    deadline_s: float = 600.0
    backoff_s: float = 0.5
    backoff_max_s: float = 30.0
    start_timeout_s: float = 10.0
    cache: str = ""
    price_prompt: float = 0.0
    price_completion: float = 0.0

    def __post_init__(self) -> None:
        for name in ("context_tokens", "batch_tokens", "concurrency", "timeout_s", "deadline_s", "start_timeout_s"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must be more than 0")
        for name in ("seed", "backoff_s", "backoff_max_s", "price_prompt", "price_completion"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must not be negative")
        extra_fields(self.extra_body)


@dataclass(frozen=True)
class ChatConfig(ModelConfig):
    """`kind`: "local" is a policy in this process; "openai" any server with that interface."""

    kind: Literal["local", "openai"] = "local"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "openai":
            check_address(self.base_url)
            if not self.model:
                raise UserError("kind is 'openai', but no model is named; set model to the name the server has for it")


def chat_config(kind: Literal["local", "openai"], model: ModelConfig) -> ChatConfig:
    """The model as one of that kind; UserError where what the kind needs is missing."""
    return ChatConfig(**{field.name: getattr(model, field.name) for field in fields(ModelConfig)}, kind=kind)


def check_address(url: str) -> None:
    """UserError unless `url` is the address of a server, without a password."""
    if not url:
        raise UserError(
            "kind is 'openai', but base_url is empty; set it to the server's address, such as http://localhost:8000/v1"
        )
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # such as a port that is no number
        good = False
    if not good:
        raise UserError(f"base_url is {url!r}; it must be an address such as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(
            "base_url must hold no password, query or fragment, since it is kept with the results; put the key into an "
            "environment variable and its name into api_key_env"
        )


def extra_fields(text: str) -> dict[str, Any]:
    """`extra_body` as fields of a request; UserError where it is no JSON object, or names what is set elsewhere."""
    if not text:
        return {}
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise UserError(f"extra_body is {text!r}, which is no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise UserError(f"extra_body is {text!r}; it must be a JSON object")
    for name in ("model", "messages", "max_tokens", "temperature", "stream", "n"):
        if name in fields:
            raise UserError(f"extra_body sets {name!r}, which is not for it to set; leave it out")
    return fields
