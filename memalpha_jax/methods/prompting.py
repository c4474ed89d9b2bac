"""Prompts of the methods: fixed texts with slots, cut to what a model can read.

`prompts/NAME.txt` holds the prompts of one method, each headed by a line `=== name ===`. Up to a line `---` it is the
system message, behind it the user's, in which `{{slot}}` is replaced. What fills a slot is data: slots and markup in
it mean nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from memalpha_jax.episodes.chunkers import CountTokens
from memalpha_jax.errors import UserError
from memalpha_jax.methods.context import shorten

_FOLDER = Path(__file__).parent / "prompts"
_HEADING = re.compile(r"^=== (\w+) ===\n", re.MULTILINE)
_SLOT = re.compile(r"\{\{(\w+)\}\}")

Slots = Mapping[str, str | Sequence[str]]
"""Texts by slot, those that matter most first. A sequence is a list of lines, of which as many are shown as fit."""


@dataclass(frozen=True)
class Prompt:
    """Attributes:
    name: for messages. system: the instructions.
    user: ("text", fixed text) and ("slot", name) pieces of the user's message, in order.
    """

    name: str
    system: str
    user: tuple[tuple[str, str], ...]

    def stating(self, **values: object) -> Prompt:
        """The prompt with `{{name}}` in its instructions replaced by a value that is not data of a stream."""
        return dataclasses.replace(self, system=_SLOT.sub(lambda slot: str(values[slot[1]]), self.system))


@dataclass(frozen=True)
class Filled:
    """A prompt as it is sent. `cut`: the slots of which something was left out. `told`: the instructions are whole."""

    system: str
    user: str
    cut: frozenset[str]
    told: bool


@functools.cache
def load_prompts(name: str) -> Mapping[str, Prompt]:
    """The prompts of `prompts/NAME.txt` by heading."""
    _, *pieces = _HEADING.split((_FOLDER / f"{name}.txt").read_text(encoding="utf-8"))
    return {heading: _parse(f"{name}.{heading}", text) for heading, text in zip(pieces[::2], pieces[1::2], strict=True)}


def prompts_hash(*names: str) -> str:
    """Tells results of one wording from those of another."""
    return hashlib.sha256(b"".join((_FOLDER / f"{name}.txt").read_bytes() for name in names)).hexdigest()[:12]


def _parse(name: str, text: str) -> Prompt:
    system, _, user = text.strip().partition("\n---\n")
    pieces = _SLOT.split(user)
    kinds = (("slot" if i % 2 else "text", piece) for i, piece in enumerate(pieces))
    return Prompt(name, system, tuple((kind, piece) for kind, piece in kinds if piece))


def fill(prompt: Prompt, slots: Slots, room: int, count_tokens: CountTokens) -> Filled:
    """The prompt in at most `room` tokens, give or take what its pieces need more or fewer together than apart.

    The instructions get at most half of it, less the fixed text of the user's message; each slot, in the order given,
    what the ones before it left.

    Raises:
      UserError: there is no room for the fixed text of the user's message.
    """
    fixed = sum(count_tokens(text) for kind, text in prompt.user if kind == "text")
    if fixed > room:
        raise UserError(
            f"the prompt {prompt.name} needs {fixed} tokens besides what it shows, and the model has room for {room}; "
            "use a model of a longer context, or lower config.method.reply_tokens"
        )
    system = _shortened(prompt.system, max(0, room // 2 - fixed), count_tokens)
    left = room - fixed - count_tokens(system)
    texts, cut = {}, set()
    for name, value in slots.items():
        texts[name] = _shortened(value, left, count_tokens)
        left -= count_tokens(texts[name])
        if texts[name] != _whole(value):
            cut.add(name)
    user = "".join(texts[value] if kind == "slot" else value for kind, value in prompt.user)
    return Filled(system, user, frozenset(cut), system == prompt.system)


def _whole(value: str | Sequence[str]) -> str:
    return value if isinstance(value, str) else "\n".join(value)


def _shortened(value: str | Sequence[str], room: int, count_tokens: CountTokens) -> str:
    """As much as fits, with a note of the cut; nothing where even that has no room."""
    if isinstance(value, str):
        text = shorten(value, room, count_tokens)
        return text if count_tokens(text) <= room else ""
    kept: list[str] = []
    left = room
    for line in value:
        left -= count_tokens(line + "\n")
        if left < 0:
            break
        kept.append(line)
    return "\n".join(kept) if kept or not value else _shortened(value[0], room, count_tokens)
