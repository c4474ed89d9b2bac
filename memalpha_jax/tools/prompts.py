"""Prompt templates: whole prompts, chat markup included, one file each; a path of your own replaces one.

The files hold the slots and sections that `memory/template.py` describes and resolves; `{{tools}}` stands for
`schemas.tools_text`. A file is taken exactly as it is, its last line break included.
"""

from __future__ import annotations

import re
from pathlib import Path

from memalpha_jax.errors import UserError
from memalpha_jax.tools.schemas import TYPE_NAMES

TEMPLATES = ("qwen_agent", "hermes", "compact")


def load_template(name_or_path: str) -> str:
    """Text of an embedded template (qwen_agent, hermes, compact) or of the file at a path.

    Raises UserError naming the template when it cannot be read, when it has no `{{chunk}}`, or when it shows
    a memory type outside the section of that type, where it would stay visible although switched off.
    """
    embedded = name_or_path in TEMPLATES
    path = Path(__file__).parent / "prompts" / f"{name_or_path}.txt" if embedded else Path(name_or_path)
    try:
        text = path.read_bytes().decode("utf-8").replace("\r\n", "\n")
    except (OSError, ValueError) as error:
        hint = f"give one of {', '.join(TEMPLATES)} or the path of a UTF-8 text file"
        raise UserError(f"cannot read the prompt template {name_or_path!r} ({error}): {hint}") from error
    if "{{chunk}}" not in text:
        raise UserError(f"prompt template {name_or_path!r} has no {{{{chunk}}}}: put it where the text to read belongs")
    for name in TYPE_NAMES:
        outside = re.sub(rf"\{{\{{#{name}\}}\}}.*?\{{\{{/{name}\}}\}}", "", text, flags=re.DOTALL)
        if slot := re.search(rf"\{{\{{{name}(_\w+)?\}}\}}", outside):
            raise UserError(
                f"prompt template {name_or_path!r}: put {slot[0]} between {{{{#{name}}}}} and "
                f"{{{{/{name}}}}}, so that it vanishes when that memory is switched off"
            )
    return text
