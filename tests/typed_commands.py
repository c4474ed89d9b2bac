"""Commands as they are written in docstrings and launch files, read the way the commands themselves read them."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence

import pytest
from absl import flags
from ml_collections import config_flags

from memalpha_jax.config import build
from memalpha_jax.experiment import Config


def commands(text: str) -> list[list[str]]:
    """The words of every `python -m memalpha_jax...` command of a text, continued lines joined."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return [shlex.split(line) for line in joined.splitlines() if line.lstrip().startswith("python -m memalpha_jax")]


def given_to(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> tuple[Config, dict[str, str]]:
    """What `python -m MODULE ...` is given: its config, and its options besides.

    Relative paths are those from the working directory.
    """
    assert list(words[1:2]) == ["-m"]
    monkeypatch.setattr(sys, "argv", list(words[2:]))  # where config_flags looks for overrides
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values)
    others = ("workdir", "coordinator", "num_processes", "process_id")
    for name in others:
        flags.DEFINE_string(name, None, "", flag_values=values)
    assert values(list(words[2:]))[1:] == []
    return build(Config, values.config), {name: values[name].value for name in others if values[name].value}
