"""From a config file's nested dictionary to frozen dataclasses, with errors that name the key, and back."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from memalpha_jax.errors import UserError

C = TypeVar("C")


def build(cls: type[C], values: Mapping[str, Any], path: str = "config") -> C:
    """Makes a (nested) dataclass of type `cls` from a ConfigDict, a dict or parsed JSON.

    Absent keys take the dataclass defaults. Lists become tuples, whole numbers become floats where a float is
    declared; nothing else is converted.

    Args:
      cls: a dataclass; its fields may be dataclasses, bool, int, float, str, enums (by member name), Literal,
        Optional/Union, tuple, dict or Any.
      values: the dictionary; `path` is the dotted name it goes by in error messages.

    Raises:
      UserError: unknown or missing key, wrong type, or a `ValueError`/`UserError` of `__post_init__`.
    """
    values = _as_dict(values, cls, path)
    known = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise UserError(unknown_key(f"{path}.{key}", [f"{path}.{name}" for name in known]))
    for name, field in known.items():
        has_default = not (field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING)
        if name not in values and not has_default:
            raise UserError(f"{path}.{name} is missing; expected {_describe(_hints(cls)[name])}")
    fields = {key: _convert(_hints(cls)[key], value, f"{path}.{key}") for key, value in values.items()}
    try:
        return cls(**fields)
    except (ValueError, UserError) as error:
        raise UserError(f"{path}: {error}") from error


def to_dict(value: Any) -> Any:
    """The JSON-able form of a config dataclass: `build(type(c), to_dict(c)) == c`, also through JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Mapping):
        return {str(key): to_dict(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_dict(item) for item in value]
    return value


def with_tuples(value: Any) -> Any:
    """Lists as tuples, which are the only sequences that the command line can set."""
    if isinstance(value, Mapping):
        return {key: with_tuples(item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`; an empty section stays as `{}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The sentence for a dotted key that does not exist, with the closest ones that do."""
    known = list(known)
    section, _, last = key.rpartition(".")
    siblings = {name.rsplit(".", 1)[-1]: name for name in known if name.rpartition(".")[0] == section}
    close = [siblings[name] for name in difflib.get_close_matches(last, siblings, n=3, cutoff=0.6)]
    # A right name in the wrong section is as likely as a slip of the finger.
    close += [name for name in known if name.rpartition(".")[2] == last and name not in close]
    close = close or difflib.get_close_matches(key, known, n=3, cutoff=0.75)
    if close:
        return f"unknown config key {key}; did you mean {' or '.join(close[:3])}?"
    return f"unknown config key {key}; known: {', '.join(known) if known else 'none'}"


def _as_dict(values: Any, cls: type, path: str) -> dict[str, Any]:
    if hasattr(values, "to_dict"):  # a ConfigDict; references are resolved
        values = values.to_dict()
    if not isinstance(values, Mapping):
        raise UserError(f"{path}: expected a section ({cls.__name__}), got {_shown(values)}")
    return dict(values)


def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _convert(hint: Any, value: Any, path: str) -> Any:
    """`value` as the type `hint`, or a UserError that names `path`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _convert_union(hint, value, path)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else build(hint, value, path)
    if origin is typing.Literal:
        if any(type(value) is type(choice) and value == choice for choice in args):
            return value
        raise _wrong(hint, value, path)
    if origin is tuple or hint is tuple:
        return _convert_tuple(hint, value, path)
    if origin is not None and issubclass(origin, Mapping):
        return {key: _convert(args[1], item, f"{path}.{key}") for key, item in _as_dict(value, dict, path).items()}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _convert_enum(hint, value, path)
    return _convert_scalar(hint, value, path)


def _convert_scalar(hint: Any, value: Any, path: str) -> Any:
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if math.isnan(value):
            raise UserError(f"{path}: nan is not a setting; expected a number")
        return float(value)
    # bool is a subclass of int, but `steps=True` is a mistake.
    if isinstance(value, bool) and hint is not bool:
        raise _wrong(hint, value, path)
    if hint is types.NoneType or hint is None:
        if value is not None:
            raise _wrong(hint, value, path)
        return None
    if not isinstance(value, hint):
        raise _wrong(hint, value, path)
    return value


def _convert_union(hint: Any, value: Any, path: str) -> Any:
    for option in typing.get_args(hint):
        try:
            return _convert(option, value, path)
        except UserError as error:
            # A section with a fault inside deserves its own message rather than "expected A or B".
            if dataclasses.is_dataclass(option) and hasattr(value, "keys"):
                raise error
    raise _wrong(hint, value, path)


def _convert_tuple(hint: Any, value: Any, path: str) -> tuple:
    if not isinstance(value, (tuple, list)):
        raise _wrong(hint, value, path)
    args = typing.get_args(hint) or (Any, ...)
    if len(args) == 2 and args[1] is Ellipsis:
        args = (args[0],) * len(value)
    if len(args) != len(value):
        raise UserError(f"{path}: expected {_describe(hint)}, got {len(value)} values")
    return tuple(_convert(arg, item, f"{path}[{i}]") for i, (arg, item) in enumerate(zip(args, value, strict=True)))


def _convert_enum(hint: type[enum.Enum], value: Any, path: str) -> enum.Enum:
    if isinstance(value, hint):
        return value
    if isinstance(value, str) and value in hint.__members__:
        return hint[value]
    raise _wrong(hint, value, path)


def _wrong(hint: Any, value: Any, path: str) -> UserError:
    return UserError(f"{path}: expected {_describe(hint)}, got {_shown(value)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def _describe(hint: Any) -> str:
    """A type as a person would say it: `int`, `one of 'a', 'b'`, `a list of str`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(choice) for choice in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(arg) for arg in args)
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        return f"a list of {_describe(args[0])}"
    if origin is tuple:
        return f"a list of {len(args)}: {', '.join(_describe(arg) for arg in args)}"
    if hint in (types.NoneType, None):
        return "None"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return "one of " + ", ".join(repr(name) for name in hint.__members__)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return f"a section ({hint.__name__})"
    return getattr(hint, "__name__", str(hint))
