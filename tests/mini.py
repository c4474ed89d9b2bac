"""The commands at a size of seconds: a few steps of a few thousand parameters, in processes of their own."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import io
import os
import runpy
import shutil
import subprocess
import sys
import unittest.mock
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import pytest
from absl.testing import flagsaver
from fast_compile import XLA_FLAGS

from memalpha_jax.config import build
from memalpha_jax.experiment import Config

ROOT = Path(__file__).parents[1]
STEPS = 6
SAVE_EVERY = 2
COST_STEP = 2
SETTINGS: dict[str, Any] = {
    "policy.width": 16,
    "policy.layers": 1,
    "policy.heads": 2,
    "policy.kv_heads": 1,
    "policy.head_dim": 8,
    "policy.ff": 16,
    "memory.core_tokens": 8,
    "memory.arena_tokens": 48,
    "memory.shown_items": 1,
    "memory.similar_items": 0,
    "rollout.prompt_tokens": 176,
    "rollout.reply_tokens": 24,
    "rollout.max_calls": 2,
    "warmstart.batch": 4,
    "warmstart.block_rows": 4,
    "warmstart.buckets": 1,  # every width is compiled
    "warmstart.round_rows": 16,
    "warmstart.copy_short.steps": 2,
    "warmstart.copy_long.steps": 0,
    "warmstart.revise_short.steps": 2,
    "warmstart.revise_long.steps": 0,
    "warmstart.correct.steps": 0,
    "warmstart.demonstrate.steps": 2,
    "warmstart.demonstrate.chunks": 2,
    "episodes.chunks": 2,
    "episodes.num_train": 8,
    "episodes.num_eval": 4,
    "grpo.episodes": 2,
    "grpo.group": 2,
    "grpo.block_rows": 2,
    "grpo.buckets": 2,
    "grpo.minibatches": 1,
    "grpo.steps": STEPS,
    "evaluation.episodes": (2, 2),
    "evaluation.lengths": (1, 2),
    "evaluation.bootstrap": 20,
    "run.save_every": SAVE_EVERY,
    "run.trace_every": 3,
    "run.evaluate_every": 3,
    "run.evaluate_episodes": 2,
    "run.cost_step": COST_STEP,
}


def options(changes: Mapping[str, Any] | None = None) -> list[str]:
    """The tiny experiment cut to `SETTINGS`, and `changes` to it, as command line options."""
    settings = {**SETTINGS, **(changes or {})}
    return ["--config=experiments/tiny.py", *(f"--config.{key}={value}" for key, value in settings.items())]


def config(changes: Mapping[str, Any] | None = None) -> Config:
    """The same as `options`, without a command line."""
    spec = importlib.util.spec_from_file_location("tiny", ROOT / "experiments" / "tiny.py")
    assert spec is not None
    assert spec.loader is not None
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    values = tiny.get_config().to_dict()
    for name, value in {**SETTINGS, **(changes or {})}.items():
        *sections, last = name.split(".")
        section = values
        for part in sections:
            section = section[part]
        assert last in section
        section[last] = value
    return build(Config, values)


def environment() -> dict[str, str]:
    """Compiled code is kept for the next process, and made in haste: what it computes is what matters."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir or "",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": XLA_FLAGS,
    }


def start(command: Sequence[str], args: Sequence[str], variables: Mapping[str, str] | None = None) -> subprocess.Popen:
    """A command, `["-m", "memalpha_jax.train"]` or `["-c", CODE]`, with its output in pipes."""
    argv = [sys.executable, *command, *map(str, args)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(argv, cwd=ROOT, env={**environment(), **(variables or {})}, text=True, **pipes)


def run(module: str, *args: Any) -> subprocess.CompletedProcess:
    """`python -m memalpha_jax.MODULE ARGS` to its end."""
    return finish(start(["-m", f"memalpha_jax.{module}"], args))


def run_here(module: str, *args: Any) -> subprocess.CompletedProcess:
    """The same as `run` inside this process, for a command to which it does not matter how many devices there are."""
    argv, out, err, code = [module, *map(str, args)], io.StringIO(), io.StringIO(), 0
    said = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with flagsaver.flagsaver(), unittest.mock.patch.object(sys, "argv", argv), contextlib.chdir(ROOT), said[0], said[1]:
        entry = f"memalpha_jax.{module}"
        imported = sys.modules.pop(entry, None)  # `python -m` runs a module that nobody has imported
        try:
            runpy.run_module(entry, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            code = ended.code or 0
        finally:
            if imported is not None:
                sys.modules[entry] = imported
    assert isinstance(code, int)
    return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())


def finish(process: subprocess.Popen, seconds: int = 200) -> subprocess.CompletedProcess:
    """Waits for the end of a started process."""
    with process:
        try:
            out, err = process.communicate(timeout=seconds)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def succeeded(done: subprocess.CompletedProcess) -> str:
    """The output of a command that must have ended well."""
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done.stdout


def refused(done: subprocess.CompletedProcess, *words: str, code: int = 1) -> None:
    """Asserts one clear sentence with all `words`, the exit code, and no trace."""
    assert done.returncode == code, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr[-3000:]
    for word in words:
        assert word in errors[0], errors[0]


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The workdir that `make` fills, once for all tests, whichever process asks first.

    Look at it, copy it to change it.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    workdir, made = shared / name, shared / f"{name}.made"
    with open(shared / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(workdir, ignore_errors=True)
            make(workdir)
            made.touch()
    return workdir


def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir that was warm started and trained without interruption; see `made_once`."""

    def make(workdir: Path) -> None:
        for module in ("warmstart", "train"):
            succeeded(run(module, *options(), f"--workdir={workdir}"))

    return made_once(tmp_path_factory, "mini_run", make)
