"""Prompts of readers and judges: a text file each, which a file of your own may replace.

    {{system}}                what follows is the system message; may be left out
    {{user}}                  what follows is the user message
    {{name}}                  a slot: the text of that name
    {{#name}} .. {{/name}}    there only in cases of that name

A mark that is alone on its line takes the line with it, a slot does not. What slots are filled with is data: slots and
marks in it mean nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from memalpha_jax.chat.model import Message
from memalpha_jax.errors import UserError

_LONE_MARK = re.compile(r"^[ \t]*(\{\{(?:[#/]\w+|system|user)\}\})[ \t]*\n", re.MULTILINE)
_SECTION = re.compile(r"\{\{#(\w+)\}\}(.*?)\{\{/\1\}\}", re.DOTALL)
_SLOT = re.compile(r"\{\{([#/]?\w+)\}\}")
_FOLDER = Path(__file__).parent / "prompts"


@dataclass(frozen=True)
class PromptFile:
    """The text of a prompt, checked."""

    system: str
    user: str

    def messages(self, case: str = "", **texts: str) -> tuple[Message, ...]:
        """The prompt with its slots filled, in the sections of `case` alone."""
        filled = [_filled(part, case, texts) for part in (self.system, self.user)]
        before = (Message("system", filled[0]),) if filled[0] else ()
        return (*before, Message("user", filled[1]))


def load_prompt(name: str, path: str, slots: Sequence[str], cases: Sequence[str] = ()) -> PromptFile:
    """The prompt `name` that comes with the package, or the file at `path` in its place.

    Raises:
      UserError: it cannot be read, has no {{user}}, lacks one of the slots or has others, or sections of unknown name.
    """
    file = Path(path) if path else _FOLDER / f"{name}.txt"
    try:
        text = _LONE_MARK.sub(r"\1", file.read_bytes().decode().replace("\r\n", "\n"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the prompt {file} ({error}); give a UTF-8 text file") from error
    head, mark, user = text.partition("{{user}}")
    if not mark:
        raise UserError(f"the prompt {file} has no {{{{user}}}}; put it on a line before the user's message")
    system = head.partition("{{system}}")[2]
    sections = {match.group(1) for match in _SECTION.finditer(text)}
    if unknown := sections - set(cases):
        raise UserError(
            f"the prompt {file} has a section {{{{#{min(unknown)}}}}}; known are {', '.join(cases) or 'none'}"
        )
    found = set(_SLOT.findall(_SECTION.sub(r"\2", system + user)))
    if found != set(slots):
        wrong = ", ".join(sorted(found ^ set(slots)))
        raise UserError(f"the prompt {file} must have the slots {', '.join(slots)}, each of them; see {wrong}")
    return PromptFile(system.strip(), user.strip())


def _filled(part: str, case: str, texts: Mapping[str, str]) -> str:
    chosen = _SECTION.sub(lambda match: match.group(2) if match.group(1) == case else "", part)
    return _SLOT.sub(lambda match: texts[match.group(1)], chosen).strip()
