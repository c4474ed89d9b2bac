"""mem1: one internal state, rewritten at every step (MEM1, arXiv 2506.15841).

At every step the model is given its last internal state and new information, and writes `<IS>` the state that takes
the place of both `</IS>`; everything older is dropped from the context, which therefore stays constant.

What was simplified: the original writes, after the state, a query or the answer, because it works on one question
that stands in its context all the time. Here information comes as a stream of chunks, nothing is asked for, and no
question is known, so a step is the state alone; the model is not trained for this. A reply without `<IS>` leaves the
state as it is; one that is cut off before `</IS>` counts as far as it goes.
"""

from __future__ import annotations

from memalpha_jax.methods.overwritten import overwriting
from memalpha_jax.methods.session import ChatMethod, ChatParts


def mem1(parts: ChatParts, tokens: int) -> ChatMethod:
    """Args: tokens: longest state, in tokens of the run."""
    about = f"one internal state of at most {tokens} tokens, rewritten at every step, without knowing the question"
    return overwriting("mem1", about, "step", "state", internal_state, parts, tokens)


def internal_state(reply: str) -> tuple[str, str]:
    """The text of the last `<IS>` of a reply, and a status."""
    _, opening, rest = reply.rpartition("<IS>")
    if not opening:
        return "", "no <IS>"
    state, closing, _ = rest.partition("</IS>")
    if not state.strip():
        return "", "empty_content"
    return state.strip(), "ok" if closing else "no </IS>"
