"""The command line: `--config=FILE` with `--config.key=value` overrides, `--workdir`, and `--help`.

absl and ml_collections raise half a dozen kinds of exception for a mistyped option; `parse_flags` turns
every one into a line that names the option and says what would have been right.
"""

from __future__ import annotations

import functools
import importlib.util
import operator
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from absl import flags
from ml_collections.config_flags import config_flags, config_path

from memalpha_jax.config import build, flatten, unknown_key
from memalpha_jax.errors import UserError

C = TypeVar("C")
FLAGS = flags.FLAGS
HELP = ("--help", "-help", "-h", "--helpshort", "-?")
# The flags defined here belong, in `--help`, to the command that asks for them.
flags.disclaim_key_flags()


def _value_of(key: str, config: Any) -> Any:
    """In place of ml_collections' own, which for the key `memory.items` finds the method `items` instead."""
    return functools.reduce(operator.getitem, key.split("."), config)


config_path.get_value = _value_of


def define_flags(*, config: bool = True, workdir: bool = True) -> None:
    """Defines the options `--config` (with its overrides) and `--workdir`, both required where defined."""
    if config:
        config_flags.DEFINE_config_file(
            "config",
            help_string="Python file whose get_config() gives the configuration, e.g. experiments/tiny.py; "
            "any key is set by --config.KEY=VALUE after it (--config=FILE --help lists the keys).",
            lock_config=True,
        )
        flags.mark_flag_as_required("config")
    if workdir:
        flags.DEFINE_string(
            "workdir",
            None,
            "Directory for everything the run writes: config, metrics, checkpoints, traces. The same command "
            "on the same directory goes on where it stopped.",
        )
        flags.mark_flag_as_required("workdir")


def load_config_flag(cls: type[C]) -> C:
    """The dataclass `cls` made from `--config` and its overrides; a UserError names the key at fault."""
    return build(cls, FLAGS.config, "config")


def parse_flags(argv: Sequence[str]) -> list[str]:
    """absl's flag parser with one-line errors: exits with 2 after an error, with 0 after `--help`."""
    try:
        if any(arg in HELP for arg in argv[1:]):
            print(help_text(argv))
            sys.exit(0)
        if "config" in FLAGS:
            _check_overrides(argv)
        rest = FLAGS(list(argv))
        if len(rest) > 1:
            raise UserError(f"unexpected argument {rest[1]!r}; every option is written --name=value")
        return rest
    except (UserError, flags.Error, AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        print(f"error: {_explain(error)}", file=sys.stderr)
        print("see --help", file=sys.stderr)
        sys.exit(2)


def help_text(argv: Sequence[str]) -> str:
    """The command's own docstring, its own options, and the config keys where `--config=FILE` is given."""
    doc = (sys.modules["__main__"].__doc__ or "").strip()
    lines = [doc, "", "Options:"]
    for flag in FLAGS.get_key_flags_for_module(sys.argv[0]):
        lines.append(f"  --{'[no]' if flag.boolean else ''}{flag.name}")
        shown = "" if flag.default in (None, "") else f" (default: {flag.default})"
        lines += textwrap.wrap(f"{flag.help}{shown}", 100, initial_indent=" " * 8, subsequent_indent=" " * 8)
    path = _config_path(argv)
    if "config" in FLAGS and path:
        lines += ["", f"Keys of {path}:"]
        lines += [f"  --config.{key}={value!r}" for key, value in flatten(_read_config(path)).items()]
    lines += ["", "--helpfull lists the options of every library as well."]
    return "\n".join(lines)


def _config_path(argv: Sequence[str]) -> str | None:
    """The value of `--config` on the command line, in either spelling."""
    for i, arg in enumerate(argv):
        if re.fullmatch(r"--?config", arg):
            return argv[i + 1] if i + 1 < len(argv) else None
        if match := re.match(r"--?config=(.*)", arg, re.DOTALL):
            return match[1]
    return None


def _overrides(argv: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Dotted key and whether it is written `--noconfig.key`, for each override."""
    for arg in argv[1:]:
        if match := re.match(r"--?(no)?config\.([^=]+)", arg):
            yield match[2], bool(match[1])


def _check_overrides(argv: Sequence[str]) -> None:
    """Raises UserError for a config file that cannot be read and for an override that names no key of it."""
    argv = FLAGS.read_flags_from_files(list(argv), force_gnu=False)
    path, overrides = _config_path(argv), list(_overrides(argv))
    if not path:
        if overrides:
            raise UserError(f"--config.{overrides[0][0]} needs --config=FILE before it")
        return
    config = _read_config(path)
    for key, negated in overrides:
        value: Any = config
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise UserError(unknown_key(f"config.{key}", [f"config.{name}" for name in flatten(config)]))
            value = value[part]
        if isinstance(value, Mapping):
            names = ", ".join(f"--config.{key}.{name}" for name in flatten(value))
            raise UserError(f"config.{key} is a section; set one of its keys: {names}")
        if negated and not isinstance(value, bool):
            raise UserError(f"--noconfig.{key}: config.{key} is not a switch but {value!r}")


def _read_config(path: str) -> dict[str, Any]:
    """The dictionary that `get_config()` of a config file returns; every fault of the file is a UserError."""
    name, _, argument = path.partition(":")
    if not os.path.isfile(name):
        raise UserError(f"--config={path}: there is no file {name!r} (looked in {Path.cwd()})")
    try:
        spec = importlib.util.spec_from_file_location("memalpha_config", name)
        if spec is None or spec.loader is None:
            raise UserError(f"--config={path}: not a Python file; expected something like experiments/tiny.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"--config={path}: the file has no get_config() function")
        config = module.get_config(argument) if argument else module.get_config()
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"--config={path}: line {error.lineno}: {error.msg}") from error
    except Exception as error:  # whatever the file does wrong is the file's fault, not a bug here
        raise UserError(f"--config={path}: {_line_in(error, name)}{type(error).__name__}: {error}") from error
    if not hasattr(config, "to_dict") and not isinstance(config, Mapping):
        raise UserError(f"--config={path}: get_config() must return a ConfigDict, got {type(config).__name__}")
    return dict(config.to_dict() if hasattr(config, "to_dict") else config)


def _line_in(error: Exception, filename: str) -> str:
    """`line N: ` of the deepest frame within the file, if there is one."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if os.path.exists(frame.filename) and os.path.samefile(frame.filename, filename)
    ]
    return f"line {lines[-1]}: " if lines else ""


def _explain(error: Exception) -> str:
    """One line for whatever absl or ml_collections raised."""
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return text
    if match := re.match(r"flag --(\S+?)=None: Flag --\S+ must have a value", text):
        return f"--{match[1]} is required"
    if match := re.match(r"Unknown command line flag '(.*?)'\.?(.*)", text):
        return f"unknown option --{match[1]};{match[2].rstrip() or ' see the list of options'}"
    if match := re.match(r"flag --(\S+?)=(.*?): (.*)", text):
        kind = _expected_kind(match[1])
        return f"--{match[1]}={match[2]}: {f'expected {kind}' if kind else match[3]}"
    return text


def _expected_kind(name: str) -> str:
    """What a value for the override `config.key` must be, in words; empty where nothing better is known."""
    path = _config_path(sys.argv)
    if not name.startswith("config.") or not path:
        return ""
    value = flatten(_read_config(path)).get(name.removeprefix("config."))
    words = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        tuple: "a tuple such as \"('a', 'b')\"",
    }
    return f"{words[type(value)]}, as in {name}={value!r}" if type(value) in words else ""
