"""memalpha_jax: language models that learn by reinforcement what to write into their memory.

The public names are imported on first use, so that `import memalpha_jax` costs nothing:

    policy = load_policy("runs/tiny")       agent = MemoryAgent(policy)
    agent.observe(text)                     agent.ask("Kelora lives in which place?")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memalpha_jax.agent import MemoryAgent
    from memalpha_jax.memory.ops import apply_calls
    from memalpha_jax.memory.retrieval import bm25_rank
    from memalpha_jax.memory.state import MemoryState
    from memalpha_jax.policy.policy import Policy, load_policy
    from memalpha_jax.rewards.metrics import score
    from memalpha_jax.tools.wire import parse_calls

__version__ = "0.1.0"

__all__ = [
    "MemoryAgent",
    "MemoryState",
    "Policy",
    "apply_calls",
    "bm25_rank",
    "load_policy",
    "parse_calls",
    "score",
]

_HOMES = {
    "MemoryAgent": "agent",
    "MemoryState": "memory.state",
    "Policy": "policy.policy",
    "apply_calls": "memory.ops",
    "bm25_rank": "memory.retrieval",
    "load_policy": "policy.policy",
    "parse_calls": "tools.wire",
    "score": "rewards.metrics",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
