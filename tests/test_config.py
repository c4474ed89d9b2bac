"""Config files to dataclasses: what is accepted, and that every mistake is named in one line."""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from memalpha_jax.config import build, flatten, to_dict, unknown_key
from memalpha_jax.errors import UserError


class Colour(enum.IntEnum):
    RED = 0
    BLUE = 1


@dataclasses.dataclass(frozen=True)
class Inner:
    lr: float = 0.1
    steps: int = 3
    names: tuple[str, ...] = ("a", "b")
    betas: tuple[float, float] = (0.9, 0.95)
    mode: Literal["fast", "slow"] = "fast"
    colour: Colour = Colour.RED

    def __post_init__(self):
        if self.steps < 0:
            raise ValueError(f"steps must not be negative, got {self.steps}")


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    flag: bool = False
    limit: int | None = None
    title: str = "x"
    rows: tuple[Inner, ...] = ()
    extra: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Needs:
    path: str
    anything: Any = None


inners = st.builds(
    Inner,
    lr=st.floats(allow_nan=False, allow_infinity=False),
    steps=st.integers(0, 10**12),
    names=st.lists(st.text(), max_size=3).map(tuple),
    betas=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    mode=st.sampled_from(["fast", "slow"]),
    colour=st.sampled_from(Colour),
)


@settings(max_examples=50, deadline=None)
@given(
    st.builds(
        Outer,
        inner=inners,
        flag=st.booleans(),
        limit=st.none() | st.integers(),
        title=st.text(),
        rows=st.lists(inners, max_size=2).map(tuple),
        extra=st.dictionaries(st.text(min_size=1), st.floats(allow_nan=False), max_size=2),
    )
)
def test_round_trip_through_json(config):
    assert build(Outer, json.loads(json.dumps(to_dict(config)))) == config


def test_config_dict_lists_and_whole_numbers():
    config = build(Outer, ConfigDict({"inner": {"lr": 1, "names": ["c"]}, "rows": [{"steps": 7}]}))
    assert config.inner.lr == 1.0
    assert isinstance(config.inner.lr, float)
    assert config.inner.names == ("c",)
    assert config.rows == (Inner(steps=7),)
    assert config.inner.betas == (0.9, 0.95)
    assert isinstance(hash(config.inner), int)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"inner": {"stps": 1}}, ["config.inner.stps", "did you mean config.inner.steps?"]),
        ({"zzz": 1}, ["unknown config key config.zzz", "config.inner, config.flag"]),
        ({"inner": {"steps": "3"}}, ["config.inner.steps", "expected int", "'3' (str)"]),
        ({"inner": {"steps": 1.5}}, ["config.inner.steps", "expected int", "1.5 (float)"]),
        ({"inner": {"steps": True}}, ["config.inner.steps", "expected int", "True (bool)"]),
        ({"inner": {"lr": "fast"}}, ["config.inner.lr", "expected float"]),
        ({"inner": {"lr": float("nan")}}, ["config.inner.lr", "nan"]),
        ({"inner": {"names": "core"}}, ["config.inner.names", "a list of str"]),
        ({"inner": {"names": ["a", 1]}}, ["config.inner.names[1]", "expected str", "1 (int)"]),
        ({"inner": {"betas": [0.1]}}, ["config.inner.betas", "a list of 2"]),
        ({"inner": {"mode": "quick"}}, ["config.inner.mode", "one of 'fast', 'slow'"]),
        ({"inner": {"colour": "GREEN"}}, ["config.inner.colour", "'RED', 'BLUE'"]),
        ({"inner": 3}, ["config.inner", "expected a section"]),
        ({"inner": {"steps": -1}}, ["config.inner: steps must not be negative"]),
        ({"rows": [{"lr": 1}, {"lrr": 1}]}, ["config.rows[1].lrr"]),
        ({"limit": "x"}, ["config.limit", "int or None"]),
        ({"flag": 1}, ["config.flag", "expected bool"]),
        ({"extra": {"a": "b"}}, ["config.extra.a", "expected float"]),
    ],
)
def test_errors_name_key_and_remedy(values, words):
    with pytest.raises(UserError) as caught:
        build(Outer, values)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_missing_key_without_default():
    with pytest.raises(UserError, match=r"run\.path is missing; expected str"):
        build(Needs, {}, "run")


def test_unknown_key_finds_other_section():
    assert "grpo.lr" in unknown_key("policy.lr", ["grpo.lr", "grpo.steps"])


def test_flatten():
    assert flatten({"a": {"b": 1, "c": {}}, "d": [1]}) == {"a.b": 1, "a.c": {}, "d": [1]}


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Runs a small command of the usual form: `run(*args) -> CompletedProcess`."""
    folder = tmp_path_factory.mktemp("command")
    (folder / "good.py").write_text(
        textwrap.dedent("""
        from ml_collections import ConfigDict
        def get_config():
            inner = {"lr": 0.5, "steps": 2, "names": ("a",), "mode": "fast"}
            return ConfigDict({"inner": inner, "flag": False, "title": "t"})
        """)
    )
    (folder / "broken.py").write_text("def get_config(:\n")
    (folder / "raises.py").write_text("def get_config():\n    return undefined_name\n")
    (folder / "empty.py").write_text("x = 1\n")
    (folder / "main.py").write_text(
        '"""Prints the config it was given.\n\nRun: main.py --config=good.py --workdir=DIR\n"""\n'
        + "from tests.test_config import Outer\n"
        + textwrap.dedent("""
        from absl import flags
        from memalpha_jax.command_line import define_flags, load_config_flag
        from memalpha_jax.errors import UserError, run_main

        define_flags()
        SHOUT = flags.DEFINE_bool("shout", False, "Whether to raise.")

        def main(argv):
            config = load_config_flag(Outer)
            if SHOUT.value:
                raise UserError("the file notes.txt is binary; give a text file")
            print(config.inner.lr, config.inner.steps, config.inner.names, config.flag, flags.FLAGS.workdir)

        if __name__ == "__main__":
            run_main(main)
        """)
    )

    def run(*args):
        env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]))
        argv = [sys.executable, "main.py", *args]
        return subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=60)

    return run


def test_command_runs_with_overrides(command):
    done = command(
        "--config=good.py",
        "--config.inner.lr=1",
        "--config.inner.names=('x','y')",
        "--config.flag",
        "--workdir=w",
    )
    assert (done.returncode, done.stdout) == (0, "1.0 2 ('x', 'y') True w\n"), done.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--config.inner.lrr=1"], "unknown config key config.inner.lrr; did you mean config.inner.lr"),
        (["--config.inner.steps=many"], "--config.inner.steps=many: expected a whole number"),
        (["--config.flag=maybe"], "expected true or false"),
        (["--config.inner=3"], "config.inner is a section; set one of its keys: --config.inner.lr"),
        (["--wrkdir=x"], "unknown option --wrkdir; Did you mean: workdir"),
        (["stray"], "unexpected argument 'stray'"),
    ],
)
def test_command_line_mistakes_are_one_line(command, args, words):
    done = command("--config=good.py", "--workdir=w", *args)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--config=absent.py"], "there is no file 'absent.py'"),
        (["--config=broken.py"], "broken.py: line 1: "),
        (["--config=raises.py"], "raises.py: line 2: NameError"),
        (["--config=empty.py"], "no get_config()"),
        (["--config.inner.lr=1"], "--config.inner.lr needs --config=FILE before it"),
        ([], "--config is required"),
    ],
)
def test_config_file_mistakes_are_one_line(command, args, words):
    done = command("--workdir=w", *args)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_user_error_is_one_line_and_exit_code_one(command):
    done = command("--config=good.py", "--workdir=w", "--shout")
    assert (done.returncode, done.stderr) == (1, "error: the file notes.txt is binary; give a text file\n")


def test_help_shows_docstring_options_and_keys(command):
    done = command("--config=good.py", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Prints the config it was given.")
    for word in ("--workdir", "--[no]shout", "--config.inner.lr=0.5"):
        assert word in done.stdout
    assert "--pdb" not in done.stdout
