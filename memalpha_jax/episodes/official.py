"""Reading other people's JSON: every wrong or missing field is named by file and path inside it."""

from __future__ import annotations

import json
import os
from typing import Any, TypeVar

from memalpha_jax.errors import UserError

T = TypeVar("T")
_NAMES: dict[type, str] = {str: "text", list: "a list", dict: "an object"}


def read_json(path: str | os.PathLike[str]) -> Any:
    """The decoded file, or a `UserError` with its name and what is wrong with it."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None


def typed(value: Any, kind: type[T], where: str) -> T:
    """`value` if it is a `kind` (str, list or dict); else a `UserError` that opens with `where`."""
    if not isinstance(value, kind):
        found = "is missing" if value is None else f"is {type(value).__name__} {value!r:.60}"
        raise UserError(f"{where} {found}, expected {_NAMES[kind]}; is this the official layout?")
    return value


def field(record: Any, key: str, kind: type[T], where: str) -> T:
    """`record[key]` of the given kind; `where` is the path of `record`."""
    return typed(typed(record, dict, where).get(key), kind, f"{where}, field '{key}'")
