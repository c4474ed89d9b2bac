"""What models reply, read leniently: JSON objects in running text, edits of a list, calls of functions.

Nothing raises and nothing is executed: what cannot be read is left out, and the caller says so in an `Operation`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from memalpha_jax.tools.loose_json import ObjectReader, decode_object, markers

MAX_OBJECTS = 256
"""JSON objects, edits and calls that are looked at in one reply."""

_MARKERS = markers("```", "^[ \\t]*```")


def json_objects(reply: str) -> list[dict[str, Any]]:
    """The JSON objects of a reply, in order, slightly broken ones mended; the first `MAX_OBJECTS`."""
    reader = ObjectReader(reply, _MARKERS)
    found: list[dict[str, Any]] = []
    pos = 0
    for _ in range(MAX_OBJECTS):
        start = reply.find("{", pos)
        if start < 0:
            break
        value, end = reader.read(start, len(reply))
        if value is not None:
            found.append(value)
        pos = max(end, start + 1)
    return found


def strings(value: Any) -> list[str]:
    """The texts of a list, or of one text; whatever else there is, is left out."""
    items = value if isinstance(value, list) else [value]
    return [text for item in items if isinstance(item, str) and (text := item.strip())]


def listed(reply: str, key: str) -> list[str] | None:
    """The texts under `key` in all objects of the reply, each once; None where no object has the key."""
    values = [strings(value[key]) for value in json_objects(reply) if key in value]
    return list(dict.fromkeys(text for texts in values for text in texts)) if values else None


@dataclass(frozen=True)
class Edit:
    """A change of a memory as a model states it; `name` in lower case, and "" for what it does not state."""

    name: str
    id: str
    text: str


def read_edits(reply: str) -> list[Edit] | None:
    """The objects that have an `event`, alone or in lists inside of others; None where the reply has no object."""
    values = json_objects(reply)
    items = [item for value in values for item in _events(value)][:MAX_OBJECTS]
    edits = [Edit(_text(item.get("event")).lower(), _text(item.get("id")), _text(item.get("text"))) for item in items]
    return edits if values else None


def _events(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "event" in value:
        yield value
        return
    for inner in value.values():
        if isinstance(inner, list):
            yield from (item for item in inner if isinstance(item, dict) and "event" in item)


@dataclass(frozen=True)
class FunctionCall:
    """A call as a model states it; what is no text in its arguments reads as ""."""

    name: str
    arguments: dict[str, Any]

    def text(self, argument: str) -> str:
        return _text(self.arguments.get(argument))

    def number(self, argument: str) -> int:
        """A small number of pages and the like; 0 where there is none."""
        value = self.text(argument)
        return int(value) if value.isascii() and value.isdigit() and len(value) < 7 else 0


def read_function_calls(reply: str) -> list[FunctionCall]:
    """The objects that have a `name`, with their `arguments`, which may be spelled as a JSON string."""
    calls = []
    for value in json_objects(reply):
        arguments = value.get("arguments")
        if isinstance(arguments, str):
            arguments = decode_object(arguments)
        if name := _text(value.get("name")):
            calls.append(FunctionCall(name, arguments if isinstance(arguments, dict) else {}))
    return calls


def _text(value: Any) -> str:
    """Text and whole numbers as text; a model writes an id as either."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return ""
    return str(value).strip() if isinstance(value, str) or abs(value) < 10**12 else ""
