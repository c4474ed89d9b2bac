"""JSON objects as language models write them: found in running text and mended, in linear time."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

MAX_REPAIR_CHARS = 64 * 1024
REPAIR_BUDGET = 4_000_000
MAX_DEPTH = 32

# Raw line breaks inside strings are the commonest slip; a lax decoder takes them without any repair.
_DECODER = json.JSONDecoder(strict=False)
_ESCAPE_OR_QUOTE = re.compile(r'\\.|"', re.DOTALL)
_MARKS = re.compile("[][{}()\"'“”]")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass
class RepairBudget:
    """What one reply may still spend on repairs, in characters times marks.

    `json_repair` takes time in proportion to length times the number of brackets and quotes; 4 million is
    about 0.1 s.
    """

    left: int = REPAIR_BUDGET


def structure_pattern(events: str) -> re.Pattern[str]:
    """Pattern of all that matters outside strings; `events` are the markers no object extends over."""
    return re.compile(r'\\.|["{}\[\]]|' + events, re.DOTALL)


def read_object(
    text: str, start: int, limit: int, structure: re.Pattern[str], budget: RepairBudget
) -> tuple[dict[str, Any] | None, int]:
    """Reads the object whose `{` is at `start`; returns (object or None if it is beyond repair, its end).

    limit: where the next marker is, in a string or not. A well-formed object may hold markers as data and so
    reach beyond it; one that is not ends there, so that it never hides what follows. One that never closes
    (as when a token limit cuts it) is not completed. Time is linear over all the objects of a text: scans
    that start at successive markers disagree on what is inside a string, hence at most two of them pass over
    any character.
    """
    line_end = text.find("\n", start, limit)
    line = text[start : limit if line_end < 0 else line_end].rstrip()
    if line.endswith("}") and (value := decode_object(line)) is not None:
        return value, start + len(line)
    end = _object_end(text, start, structure)
    if end < 0:
        return None, limit
    raw = text[start:end]
    value = decode_object(raw)
    if value is not None:
        return value, end
    return (_repair(raw, budget) if end <= limit else None), min(end, limit)


def decode_object(raw: str) -> dict[str, Any] | None:
    """The JSON object `raw` spells, None if it spells none. Half surrogate pairs in it become U+FFFD."""
    try:
        value = _DECODER.decode(raw)
    except (ValueError, RecursionError):
        return None
    return _as_object(value, raw)


def clean_surrogates(text: str) -> str:
    """Replaces characters that cannot be encoded by U+FFFD, one for one."""
    return _SURROGATE.sub("\ufffd", text)


def _as_object(value: Any, raw: str) -> dict[str, Any] | None:
    if not isinstance(value, dict):
        return None
    return _without_surrogates(value) if "\\ud" in raw or "\\uD" in raw else value


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return clean_surrogates(value)
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value


def _object_end(text: str, start: int, structure: re.Pattern[str]) -> int:
    """End of the bracketed text starting at `start`; -1 if a marker or the end of the text comes first."""
    depth, pos = 0, start
    while match := structure.search(text, pos):
        token, pos = match.group(), match.end()
        if token == '"':
            pos = _string_end(text, pos)
            if pos < 0:
                return -1
        elif token in "{[":
            depth += 1
            if depth > MAX_DEPTH:
                return -1
        elif token in "}]":
            depth -= 1
            if depth == 0:
                return pos
        elif token[0] != "\\":
            return -1
    return -1


def _string_end(text: str, pos: int) -> int:
    """Position after the quote that closes the string whose body starts at `pos`; -1 if none does."""
    while match := _ESCAPE_OR_QUOTE.search(text, pos):
        pos = match.end()
        if match.group() == '"':
            return pos
    return -1


def _repair(raw: str, budget: RepairBudget) -> dict[str, Any] | None:
    """What `json_repair` makes of a closed but malformed object; None if no object or too costly."""
    if len(raw) > MAX_REPAIR_CHARS:
        return None
    cost = len(raw) * (1 + len(_MARKS.findall(raw)))
    if cost > budget.left:
        return None
    budget.left -= cost
    import json_repair  # rarely needed, and slow to import

    try:
        value = json_repair.loads(raw, skip_json_loads=True)
    except Exception:  # a third-party parser on arbitrary text: any failure means the same
        return None
    return _as_object(value, raw)
