"""Prompt templates: text with slots, read once and turned into arrays.

    {{core}} {{episodic}} {{semantic}} {{chunk}}        texts; lists have one line per item
    {{core_tokens}} {{core_limit}}                      numbers, as are
    {{episodic_shown}} {{episodic_total}}               how many items of a list are shown, and exist
    {{tools}}                                           the tool schemas, a fixed text
    {{#semantic}} .. {{/semantic}}                      vanishes if that memory type is disabled
    {{#no_thinking}} .. {{/no_thinking}}                vanishes if the reply may begin with thinking
    {{empty:none yet}}                                  what an empty memory reads as (default: empty)
    {{item:text [id]}}                                  how an item is written (default: [id] text)

A section, `empty` or `item` mark alone on its line takes the line with it. Memory and chunk are data: slots and
control strings inside them mean nothing.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Set
from typing import TYPE_CHECKING

import flax.struct
import jax
import jax.numpy as jnp

from memalpha_jax.errors import UserError
from memalpha_jax.memory.state import MemoryConfig, MemoryType

if TYPE_CHECKING:
    from memalpha_jax.policy.tokenizer import Tokenizer

LIST_SLOTS = {"episodic": MemoryType.EPISODIC, "semantic": MemoryType.SEMANTIC}
COUNT_SLOTS = ("episodic_shown", "episodic_total", "semantic_shown", "semantic_total")
SLOTS = ("core", "chunk", *LIST_SLOTS, "core_tokens", "core_limit", *COUNT_SLOTS)
NO_THINKING = "no_thinking"
DEFAULT_EMPTY = "empty"
DEFAULT_ITEM = "[id] text"

_LONE_MARK = re.compile(r"^[ \t]*(\{\{(?:[#/]\w+|(?:empty|item):[^{}\n]*)\}\})[ \t]*\n", re.MULTILINE)
_SECTION = re.compile(r"\{\{#(\w+)\}\}(.*?)\{\{/\1\}\}", re.DOTALL)
_EMPTY = re.compile(r"\{\{empty:([^{}\n]*)\}\}")
_ITEM = re.compile(r"\{\{item:([^{}\n]*)\}\}")
_SLOT = re.compile(r"\{\{([^{}\n]*)\}\}")


@dataclasses.dataclass(frozen=True)
class ItemFormat:
    """How an item is written: `marks[0]`, id or text, `marks[1]`, the other of the two, `marks[2]`."""

    marks: tuple[str, str, str]
    id_first: bool

    def line(self, item_id: int, text: str) -> str:
        """An item's line of a prompt, without the line end."""
        first, second = (str(item_id), text) if self.id_first else (text, str(item_id))
        return self.marks[0] + first + self.marks[1] + second + self.marks[2]


def parse_item_format(pattern: str) -> ItemFormat:
    """`[id] text` and the like; UserError unless it holds the words `id` and `text` once each."""
    pieces = re.split(r"\b(id|text)\b", pattern)
    if sorted(pieces[1::2]) != ["id", "text"]:
        raise UserError(f"prompt template: {{{{item:{pattern}}}}} must hold the words id and text once each")
    return ItemFormat((pieces[0], pieces[2], pieces[4]), pieces[1] == "id")


DEFAULT_ITEM_FORMAT = parse_item_format(DEFAULT_ITEM)


@dataclasses.dataclass(frozen=True)
class PromptTemplate:
    """A template after sections and fixed texts are settled.

    Attributes:
      parts: ("text", literal) and ("slot", name) pairs in order; names are those in SLOTS.
      empty: what an empty memory reads as. item: how an item is written.
    """

    parts: tuple[tuple[str, str], ...]
    empty: str = DEFAULT_EMPTY
    item: ItemFormat = DEFAULT_ITEM_FORMAT


@dataclasses.dataclass(frozen=True)
class Part:
    """A piece of prompt: slot `name`, or with name "" the literals' tokens `[start, start + length)`."""

    name: str
    start: int = 0
    length: int = 0


@flax.struct.dataclass
class RenderTables:
    """A template for one tokenizer.

    Attributes:
      literals_F: int32, every fixed token; the first ten are the digits 0..9.
      parts: the template's pieces in order.
      empty, newline, item_marks: what slots need: the empty word, a line end, the marks of `item`.
      item: how an item is written.
    """

    literals_F: jax.Array
    parts: tuple[Part, ...] = flax.struct.field(pytree_node=False)
    empty: Part = flax.struct.field(pytree_node=False)
    newline: Part = flax.struct.field(pytree_node=False)
    item_marks: tuple[Part, Part, Part] = flax.struct.field(pytree_node=False)
    item: ItemFormat = flax.struct.field(pytree_node=False)


def parse_template(text: str, config: MemoryConfig, tools: str | None = None, thinking: bool = False) -> PromptTemplate:
    """Reads a template; `tools` is the text of its {{tools}} slot, `thinking` whether the reply may think first.

    Raises UserError for a slot that does not exist (or has no text), for a section that does not end, for an
    item without its id or its text, and for `thinking` where the template has no {{#no_thinking}} to leave out.
    """
    if thinking and f"{{{{#{NO_THINKING}}}}}" not in text:
        raise UserError(
            "prompt template: thinking is on, but the template has no {{#no_thinking}} section, so it is not for "
            "models that think; set rollout.thinking to False, or put what keeps the model from thinking there"
        )
    shown = {*config.enabled} if thinking else {*config.enabled, NO_THINKING}
    text = _LONE_MARK.sub(r"\1", text)
    empty, item = _EMPTY.search(text), _ITEM.search(text)
    text = _SECTION.sub(lambda match: _section(match, shown), _ITEM.sub("", _EMPTY.sub("", text)))
    parts = []
    for index, piece in enumerate(_SLOT.split(text)):
        if index % 2 == 0:
            parts.append(("text", piece))
        elif piece == "tools" and tools is not None:
            parts.append(("text", tools))
        elif piece in SLOTS:
            parts.append(("slot", piece))
        else:
            slots = ", ".join((*SLOTS, "tools"))
            raise UserError(f"prompt template: unknown or unclosed {{{{{piece}}}}}; slots are {slots}")
    return PromptTemplate(
        _joined(parts),
        empty.group(1) if empty else DEFAULT_EMPTY,
        parse_item_format(item.group(1)) if item else DEFAULT_ITEM_FORMAT,
    )


def compile_template(
    template: PromptTemplate | str,
    tokenizer: Tokenizer,
    config: MemoryConfig,
    tools: str | None = None,
    thinking: bool = False,
) -> RenderTables:
    """Encodes a template's fixed texts, which are trusted: control and frame strings become single tokens.

    Raises UserError as `parse_template` does, and for a tokenizer that splits digits.
    """
    if isinstance(template, str):
        template = parse_template(template, config, tools, thinking)
    literals = [token for digit in "0123456789" for token in tokenizer.encode(digit)]
    if len(literals) != 10:
        raise UserError("the tokenizer must encode each digit as one token; train it with digits as pieces")

    def add(tokens: list[int]) -> Part:
        literals.extend(tokens)
        return Part("", len(literals) - len(tokens), len(tokens))

    parts = tuple(
        add(tokenizer.encode_trusted(value)) if kind == "text" else Part(value) for kind, value in template.parts
    )
    empty, newline = add(tokenizer.encode_trusted(template.empty)), add(tokenizer.encode("\n"))
    before, between, after = (add(tokenizer.encode_trusted(mark)) for mark in template.item.marks)
    return RenderTables(
        jnp.asarray(literals, jnp.int32),
        parts=parts,
        empty=empty,
        newline=newline,
        item_marks=(before, between, after),
        item=template.item,
    )


def _section(match: re.Match[str], shown: Set[str]) -> str:
    name, body = match.groups()
    known = [*(kind.name.lower() for kind in MemoryType), NO_THINKING]
    if name not in known:
        raise UserError(f"prompt template: unknown section {{{{#{name}}}}}; sections are {', '.join(known)}")
    return body if name in shown else ""


def _joined(parts: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Neighbouring texts as one, so that the tokenizer sees them whole; empty ones dropped."""
    joined: list[tuple[str, str]] = []
    for kind, value in parts:
        if kind == "text" and joined and joined[-1][0] == "text":
            joined[-1] = ("text", joined[-1][1] + value)
        elif value:
            joined.append((kind, value))
    return tuple(joined)
