"""Which language model a method, a reader or a judge talks to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ChatConfig:
    """Attributes:
    kind: "local" is the policy of this run, in this process; "openai" any server with that interface.
    base_url, model: of the server.
    """

    kind: Literal["local", "openai"] = "local"
    base_url: str = ""
    model: str = ""
