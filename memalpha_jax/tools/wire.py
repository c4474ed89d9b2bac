"""The two wire formats: reply text to calls, and calls to text.

qwen_agent  `✿FUNCTION✿: name` and `✿ARGS✿: {json}` on two lines
hermes      `<tool_call>`, `{"name": .., "arguments": {..}}` and `</tool_call>` on three lines

Results (`✿RESULT✿`, `<tool_response>`) in a reply are the model's own invention, and so is what follows them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memalpha_jax.errors import UserError
from memalpha_jax.tools.calls import MEMORY_NAMES, TOOL_KINDS, CallKind, Status, ToolCall
from memalpha_jax.tools.loose_json import Markers, ObjectReader, clean_surrogates, decode_object, markers

WIRES = ("qwen_agent", "hermes")


@dataclass(frozen=True)
class _Grammar:
    """What marks a call on a wire.

    event: every marker that means something outside a JSON string. markers: how they bound an object. head:
    all of a call before its object; group 1 is the tool name, group 2 matches if an object is announced.
    tail: what may close the call after its object.
    """

    opener: str
    stopper: str
    event: re.Pattern[str]
    markers: Markers
    head: re.Pattern[str]
    tail: re.Pattern[str]


def _grammar(opener: str, stopper: str, closer: str, broken_head: str, head: str, tail: str) -> _Grammar:
    """`broken_head` is a head with a line break in it."""
    words = (opener, stopper, closer, "<think>", "</think>")
    event = "|".join(word for word in words if word)
    return _Grammar(
        opener,
        stopper,
        re.compile(event),
        markers(event, f"^[ \\t]*(?:{event})|{broken_head}"),
        re.compile(head),
        re.compile(tail),
    )


_FENCE = r"(?:```(?:json)?\s*)?"
_GRAMMARS = {
    "qwen_agent": _grammar(
        opener="✿FUNCTION✿",
        stopper="✿RESULT✿",
        closer="",
        broken_head=r"✿FUNCTION✿[^\n✿<]*\n\s*✿ARGS✿",
        head=r"✿FUNCTION✿\s*[:：]?\s*([^\n✿<]*)\s*(✿ARGS✿\s*[:：]?\s*" + _FENCE + ")?",
        tail=r"(?:\s*```)?\n?",
    ),
    "hermes": _grammar(
        opener="<tool_call>",
        stopper="<tool_response>",
        closer="</tool_call>",
        broken_head=r"<tool_call>[ \t]*\n",
        head=r"<tool_call>()(\s*" + _FENCE + ")",
        tail=r"(?:\s*(?:```\s*)?</tool_call>)?\n?",
    ),
}


def check_wire(wire: str) -> str:
    """Returns `wire`; UserError if there is no such format."""
    if wire not in _GRAMMARS:
        raise UserError(f"unknown wire format {wire!r}: choose one of {', '.join(WIRES)}")
    return wire


def parse_calls(text: str, wire: str) -> list[ToolCall]:
    """The calls of a reply, in order, each with its verdict and span; linear in the length of the text.

    Not executed: calls inside `<think>` (closed or not, or before a `</think>` that nothing opened), and
    whatever follows an invented tool result. Markers inside the strings of a well-formed object are data. A
    malformed call ends at the next marker at the latest. No text makes it raise; UserError for an unknown
    `wire` only.
    """
    grammar = _GRAMMARS[check_wire(wire)]
    if not text.isascii():
        text = clean_surrogates(text)
    calls: list[ToolCall] = []
    reader = ObjectReader(text, grammar.markers)
    pos = 0
    while match := grammar.event.search(text, pos):
        event, pos = match.group(), match.end()
        if event == grammar.opener:
            call = _read_call(reader, match.start(), grammar)
            calls.append(call)
            pos = call.span[1]
        elif event == grammar.stopper:
            break
        elif event == "<think>":
            close = text.find("</think>", pos)
            if close < 0:
                break
            pos = close + len("</think>")
        elif event == "</think>":
            calls.clear()  # the prompt opened the block
    return calls


def _read_call(reader: ObjectReader, start: int, grammar: _Grammar) -> ToolCall:
    text = reader.text
    head = grammar.head.match(text, start)
    assert head is not None  # every part but the opener is optional
    name, announced, pos = head[1].strip(), head[2], head.end()
    if announced is None:
        return ToolCall(name, {}, _verdict(name, {}), (start, pos))
    following = grammar.event.search(text, pos)
    limit = following.start() if following else len(text)
    payload, end = None, limit
    if text.startswith("{", pos):
        payload, end = reader.read(pos, limit)
    tail = grammar.tail.match(text, end)
    span = (start, tail.end() if tail else end)
    if payload is not None and not name and grammar.opener == "<tool_call>":
        name, payload = _unwrap(payload)
    if payload is None:
        return ToolCall(name, {}, Status.BAD_JSON, span)
    return ToolCall(name, payload, _verdict(name, payload), span)


def _unwrap(payload: dict[str, Any]) -> tuple[str, dict[str, Any] | None]:
    """Name and arguments of a hermes object; arguments spelled as a JSON string are decoded."""
    name, arguments = payload.get("name"), payload.get("arguments", {})
    if isinstance(arguments, str):
        arguments = decode_object(arguments)
    name = name.strip() if isinstance(name, str) else ""
    return name, arguments if isinstance(arguments, dict) else None


def _verdict(name: str, arguments: dict[str, Any]) -> Status:
    """Status of a call as far as its own words decide it; what the memory holds is not known here."""
    if name not in TOOL_KINDS:
        return Status.UNKNOWN_TOOL
    call = ToolCall(name, arguments, Status.OK, (0, 0))
    kind, memory_type = call.kind, call.memory_type
    if "memory_type" not in arguments:
        return Status.MISSING_ARGUMENT
    if memory_type is None:
        return Status.UNKNOWN_TYPE
    if kind != CallKind.INSERT and memory_type != 0 and call.memory_id is None:
        stated = arguments.get("memory_id")
        is_id = isinstance(stated, (int, str)) and not isinstance(stated, bool)
        return Status.UNKNOWN_ID if is_id else Status.MISSING_ARGUMENT
    if kind == CallKind.DELETE:
        return Status.OK
    content = call.content
    if content is None:
        return Status.MISSING_ARGUMENT
    return Status.OK if content.strip() else Status.EMPTY_CONTENT


# An id after the text: a causal writer can then look for the item that says what it has just written.
_KEY_ORDER = ("memory_type", "content", "new_content", "memory_id")


def format_call(name: str, arguments: Mapping[str, str | int], wire: str) -> str:
    """Text of a call, ending in a line break; ids are written as strings. The inverse of `parse_calls`."""
    return "".join(text for text, _ in call_segments(name, arguments, wire))


def call_segments(name: str, arguments: Mapping[str, str | int], wire: str) -> tuple[tuple[str, bool], ...]:
    """`format_call` in pieces: (text, whether it is a frame).

    Frames are strings of `call_frames`, to be encoded as trusted text; the rest (ids and JSON-escaped
    contents) is not. ValueError for an argument that is neither text nor an integer.
    """
    before, after = {
        "qwen_agent": (f"✿FUNCTION✿: {name}\n✿ARGS✿: {{", "}\n"),
        "hermes": (f'<tool_call>\n{{"name": "{_escape(name)}", "arguments": {{', "}}\n</tool_call>\n"),
    }[check_wire(wire)]
    keys = sorted(arguments, key=lambda key: _KEY_ORDER.index(key) if key in _KEY_ORDER else len(_KEY_ORDER))
    segments: list[tuple[str, bool]] = []
    frame = before
    for i, key in enumerate(keys):
        frame += f'{", " if i else ""}"{_escape(key)}": "'
        value = _escape(arguments[key])
        if key == "memory_type":
            frame += value
        else:
            segments += [(frame, True), (value, False)]
            frame = ""
        frame += '"'
    return (*segments, (frame + after, True))


def _escape(value: str | int) -> str:
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise ValueError(f"a call argument must be text or an integer, not {value!r}")
    return json.dumps(str(value), ensure_ascii=False)[1:-1]


def call_frames(wire: str) -> tuple[str, ...]:
    """The literal strings around ids and contents, over all tools and types: each can be a single token."""
    frames: dict[str, None] = {}
    for name, kind in TOOL_KINDS.items():
        for memory_type in MEMORY_NAMES[1:] if kind == CallKind.INSERT else MEMORY_NAMES:
            arguments = {"memory_type": memory_type}
            if kind != CallKind.INSERT and memory_type != MEMORY_NAMES[0]:
                arguments["memory_id"] = ""
            if kind != CallKind.DELETE:
                arguments["content" if kind == CallKind.INSERT else "new_content"] = ""
            frames |= dict.fromkeys(text for text, is_frame in call_segments(name, arguments, wire) if is_frame)
    return tuple(frames)
