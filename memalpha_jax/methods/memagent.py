"""memagent: one text memory that is overwritten with every chunk (MemAgent, arXiv 2507.02259).

The model sees the memory and the next chunk and writes the memory that replaces the old one, of at most 1,024 tokens;
after the last chunk the question is answered from the memory alone.

What was simplified: the original shows the question with every chunk, and what it keeps is chosen for that one
question. Here the memory must serve questions that are not known yet, so the model is never shown one. The model is
not trained for this. An empty reply leaves the memory as it is.
"""

from __future__ import annotations

from memalpha_jax.methods.overwritten import overwriting
from memalpha_jax.methods.session import ChatMethod, ChatParts


def memagent(parts: ChatParts, tokens: int) -> ChatMethod:
    """Args: tokens: longest memory, in tokens of the run."""
    about = f"one text of at most {tokens} tokens, overwritten with every chunk, without knowing the question"
    return overwriting("memagent", about, "read", "memory", _whole_reply, parts, tokens)


def _whole_reply(reply: str) -> tuple[str, str]:
    return reply, "ok" if reply else "empty_content"
