"""Reading other people's files: every wrong or missing field is named by file, line or record, and path inside it.

Files may be gzipped, whatever their name.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from memalpha_jax.errors import UserError

T = TypeVar("T")
GZIP_MARK = b"\x1f\x8b"
_NAMES: dict[type, str] = {
    str: "text",
    list: "a list",
    dict: "an object",
    int: "a whole number",
    bool: "true or false",
}


def read_text(path: str | os.PathLike[str], encoding: str = "utf-8") -> str:
    """The whole file as text, unzipped where it is gzip; `UserError` where it cannot be read or decoded."""
    try:
        with open(path, "rb") as file:
            data = file.read()
        if data[:2] == GZIP_MARK:
            data = gzip.decompress(data)
    except (OSError, EOFError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not {encoding} text (byte {data[error.start]:#04x})") from None


def read_json(path: str | os.PathLike[str]) -> Any:
    """The decoded file, or a `UserError` with its name and what is wrong with it."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every object of a JSON-lines file with its place, "FILE, line N"; blank lines are left out.

    UserError for a line that is no JSON object, and for a file without any.
    """
    yield from _json_lines(read_text(path), path)


def _json_lines(text: str, path: str | os.PathLike[str]) -> Iterator[tuple[dict[str, Any], str]]:
    found = False
    for number, line in enumerate(text.split("\n"), 1):  # text in a line may hold other separators
        if not line.strip():
            continue
        found, where = True, f"{path}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not valid JSON ({error})") from None
        yield typed(record, dict, where), where
    if not found:
        raise UserError(f"{path} holds no records; expected one JSON object per line")


def read_records(path: str | os.PathLike[str]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every object of a JSON list ("FILE, record N", from 0) or of JSON lines ("FILE, line N"), with its place.

    A list is decoded one record at a time, so that what the caller does not keep of a large file is soon free.
    UserError as `read_jsonl` gives it.
    """
    text = read_text(path)
    start = _skip_blank(text, 0)
    if text[start : start + 1] != "[":
        yield from _json_lines(text, path)
        return
    decoder, number, at = json.JSONDecoder(), 0, _skip_blank(text, start + 1)
    while text[at : at + 1] != "]":
        where = f"{path}, record {number}"
        try:
            record, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not valid JSON ({error})") from None
        yield typed(record, dict, where), where
        at, number = _skip_blank(text, at), number + 1
        if text[at : at + 1] == ",":
            at = _skip_blank(text, at + 1)
        elif text[at : at + 1] != "]":
            raise UserError(f"{where}: not valid JSON (neither ',' nor ']' follows it, the file may be cut off)")
    if not number:
        raise UserError(f"{path} holds no records; its list is empty")


_BLANK = re.compile(r"[ \t\r\n]*+")


def _skip_blank(text: str, start: int) -> int:
    match = _BLANK.match(text, start)
    return match.end() if match else start


def read_csv(
    path: str | os.PathLike[str], columns: Sequence[str], delimiter: str = ","
) -> Iterator[tuple[dict[str, str], str]]:
    """Every row of a CSV file with a header, cut to `columns`, with its place, "FILE, line N".

    UserError for missing columns, a row that is too short, and a file without rows.
    """
    rows = csv.DictReader(io.StringIO(read_text(path), newline=""), delimiter=delimiter)
    try:
        missing = [name for name in columns if name not in (rows.fieldnames or ())]
        if missing:
            raise UserError(f"{path}, line 1: no column {missing[0]!r} in {list(rows.fieldnames or ())}")
        found = False
        for row in rows:
            found, where = True, f"{path}, line {rows.line_num}"
            for name in columns:
                typed(row[name], str, f"{where}, column {name!r}")
            yield {name: row[name] for name in columns}, where
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: not valid CSV ({error})") from None
    if not found:
        raise UserError(f"{path} has a header and no rows")


def typed(value: Any, kind: type[T], where: str) -> T:
    """`value` if it is a `kind` (str, list, dict, int or bool); else a `UserError` that opens with `where`."""
    if not isinstance(value, kind):
        found = "is missing" if value is None else f"is {type(value).__name__} {value!r:.60}"
        raise UserError(f"{where} {found}, expected {_NAMES[kind]}; is this the official layout?")
    return value


def field(record: Any, key: str, kind: type[T], where: str) -> T:
    """`record[key]` of the given kind; `where` is the path of `record`."""
    return typed(typed(record, dict, where).get(key), kind, f"{where}, field '{key}'")
