"""JSON objects as language models write them: found in running text and mended, in linear time."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

MAX_REPAIR_CHARS = 64 * 1024
REPAIR_BUDGET = 4_000_000  # for all objects of a text together, about 0.1 s

# Raw line breaks inside strings are the commonest slip; a lax decoder takes them without any repair.
_DECODER = json.JSONDecoder(strict=False)
_ESCAPE_OR_QUOTE = re.compile(r'\\.|"', re.DOTALL)
_MARKS = re.compile("[][{}()\"'“”]")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Markers:
    """What bounds an object in running text.

    structure: all that matters outside strings: brackets, quotes and markers. boundary: a marker where no
    well-formed string can be, because a raw line break is next to it or in it (inside a string that would be
    an escape).
    """

    structure: re.Pattern[str]
    boundary: re.Pattern[str]


def markers(anywhere: str, boundary: str) -> Markers:
    """Compiles regular expressions for markers; ^ means the start of a line."""
    structure = re.compile(r'\\.|["{}\[\]]|' + anywhere, re.DOTALL)
    return Markers(structure, re.compile(boundary, re.MULTILINE))


class ObjectReader:
    """Reads the JSON objects of one text from left to right, in time linear in the text.

    Attributes:
      text, markers: what is read.
      budget: what may still be spent on repairs, in the units of `_repair_cost`.
    """

    def __init__(self, text: str, markers: Markers):
        self.text, self.markers, self.budget = text, markers, REPAIR_BUDGET
        self._boundary = -1

    def read(self, start: int, limit: int) -> tuple[dict[str, Any] | None, int]:
        """Reads the object whose `{` is at `start`; returns (object or None if it is beyond repair, its end).

        limit: where the next marker is, in a string or not. Markers in the strings of a well-formed object
        are data. A malformed object ends at the latest where a marker stands outside its strings or at a
        boundary, so it hides nothing that follows. One that never closes (as when a token limit cuts it) is
        not completed. Scans that start at successive markers disagree on what is inside a string, hence at
        most two pass over any character.
        """
        line_end = self.text.find("\n", start, limit)
        line = self.text[start : limit if line_end < 0 else line_end].rstrip()
        if line.endswith("}") and (value := decode_object(line)) is not None:
            return value, start + len(line)
        end, closed = _scan(self.text, start, self.markers.structure)
        if closed and (value := decode_object(self.text[start:end])) is not None:
            return value, end
        boundary = self._boundary_after(start)
        value = self._repair(self.text[start:end]) if closed and end <= boundary else None
        return value, min(end, boundary)

    def _boundary_after(self, start: int) -> int:
        """Where the first boundary after `start` is, or the end of the text; searched once per boundary."""
        if self._boundary < start:
            match = self.markers.boundary.search(self.text, start)
            self._boundary = match.start() if match else len(self.text)
        return self._boundary

    def _repair(self, raw: str) -> dict[str, Any] | None:
        """What `json_repair` makes of a closed but malformed object; None if no object or too costly."""
        if len(raw) > MAX_REPAIR_CHARS or (cost := _repair_cost(raw)) > self.budget:
            return None
        self.budget -= cost
        import json_repair  # rarely needed, and slow to import

        try:
            return _as_object(json_repair.loads(raw, skip_json_loads=True), raw)
        except Exception:  # a third-party parser on arbitrary text: any failure means the same
            return None


def decode_object(raw: str) -> dict[str, Any] | None:
    """The JSON object `raw` spells, None if it spells none. Half surrogate pairs in it become U+FFFD."""
    try:
        return _as_object(_DECODER.decode(raw), raw)
    except (ValueError, RecursionError):
        return None


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


def _repair_cost(raw: str) -> int:
    """Upper estimate of the time `json_repair` needs, in units of about 20 ns.

    It grows with the length times the number of brackets and quotes: a hostile 64 KiB could take minutes.
    """
    return 2000 + len(raw) * (50 + len(_MARKS.findall(raw)))


def _scan(text: str, start: int, structure: re.Pattern[str]) -> tuple[int, bool]:
    """Follows the brackets that open at `start`; returns (their end, True) if they close.

    Otherwise (where to stop, False): at a marker outside strings, or the end of the text.
    """
    depth, pos = 0, start
    while match := structure.search(text, pos):
        token, pos = match.group(), match.end()
        if token == '"':
            pos = _string_end(text, pos)
            if pos < 0:
                break
        elif token in "{[":
            depth += 1
        elif token in "}]":
            depth -= 1
            if depth == 0:
                return pos, True
        elif token[0] != "\\":
            return match.start(), False
    return len(text), False


def _string_end(text: str, pos: int) -> int:
    """Position after the quote that closes the string whose body starts at `pos`; -1 if none does."""
    while match := _ESCAPE_OR_QUOTE.search(text, pos):
        pos = match.end()
        if match.group() == '"':
            return pos
    return -1
