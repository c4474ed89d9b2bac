"""A run that is killed again and again ends as one that was left alone: the same bits, the same lines."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import jax
import mini
import numpy as np
import orbax.checkpoint as ocp
import pytest

from memalpha_jax.checkpoints import load_params
from memalpha_jax.metrics_log import read_metrics

COMMAND = """
import os, signal
from memalpha_jax import integrity, train, trainer, warmstart
from memalpha_jax.command_line import define_flags
from memalpha_jax.errors import run_main
warmstart.SAVE_EVERY = 2

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def die_at(call, function):
    def counted(*args, **kwargs):
        counted.calls += 1
        return die() if counted.calls == call else function(*args, **kwargs)
    counted.calls = 0
    return counted
"""
RUN = "\ndefine_flags()\nrun_main({}.main)\n"
# A checkpoint is written and not yet sealed when `seal` is called, in the background.
IN_FIRST_SAVE = "integrity.seal = die_at(1, integrity.seal)"
IN_SECOND_SAVE = "integrity.seal = die_at(2, integrity.seal)"
AT_THE_START = "trainer.load_episodes = die"
AFTER_STEP_3 = "train.log_step = die_at(3, train.log_step)"


def start(module: str, workdir: Path, moment: str = "") -> subprocess.Popen:
    """The command, which kills itself at the moment."""
    code = COMMAND + moment + RUN.format(module)
    return mini.start(["-c", code], [*mini.options(), f"--workdir={workdir}"])


def terminated_at(process: subprocess.Popen, words: str) -> subprocess.CompletedProcess:
    """Sends SIGTERM as soon as the log says `words`."""
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            break
    process.send_signal(signal.SIGTERM)
    return mini.finish(process)


def killed(done: subprocess.CompletedProcess) -> None:
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    return mini.finished_run(tmp_path_factory)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory) -> Path:
    return mini.made_once(tmp_path_factory, "resumed_run", interrupted)


def interrupted(workdir: Path) -> None:
    """A run that is killed at five moments and asked to stop at two others, and goes on each time."""
    killed(mini.finish(start("warmstart", workdir, IN_FIRST_SAVE)))
    assert [path.name.split(".")[0] for path in (workdir / "warm_start").iterdir()] == ["2"]
    assert load_steps(workdir / "warm_start") == []
    killed(mini.finish(start("warmstart", workdir, IN_SECOND_SAVE)))
    assert load_steps(workdir / "warm_start") == [2]
    done = terminated_at(start("warmstart", workdir), "continuing at step 2 of 6")
    assert "SIGTERM: warm start saved at step 3" in mini.succeeded(done)
    assert "warm start finished" in mini.succeeded(mini.finish(start("warmstart", workdir)))

    killed(mini.finish(start("train", workdir, AT_THE_START)))
    killed(mini.finish(start("train", workdir, AFTER_STEP_3)))
    assert len(read_metrics(workdir / "metrics.jsonl")) == 3
    killed(mini.finish(start("train", workdir, IN_SECOND_SAVE)))
    done = terminated_at(start("train", workdir), "continuing at step")
    assert "SIGTERM: saved step" in mini.succeeded(done)
    assert "training finished" in mini.succeeded(mini.finish(start("train", workdir)))


def load_steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def same_bits(a: Path, b: Path) -> int:
    """Asserts that two saved states are equal, bit by bit; returns how many numbers they hold."""
    with ocp.StandardCheckpointer() as reader:
        states = [jax.tree_util.tree_leaves_with_path(reader.restore(path.absolute() / "state")) for path in (a, b)]
    assert [path for path, _ in states[0]] == [path for path, _ in states[1]]
    for (path, x), (_, y) in zip(*states, strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape), path
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), path
    return sum(np.size(x) for _, x in states[0])


def test_parameters_and_optimizer_are_bit_identical(alone, resumed):
    parameters = sum(x.size for x in jax.tree.leaves(load_params(alone / "checkpoints").state))
    # The optimizer remembers two numbers for each parameter.
    assert same_bits(alone / "checkpoints" / "6", resumed / "checkpoints" / "6") > 3 * parameters
    assert same_bits(alone / "warm_start" / "6", resumed / "warm_start" / "6") > 2 * parameters
    metas = [load_params(workdir / "checkpoints").meta for workdir in (alone, resumed)]
    assert metas[0] == metas[1]
    assert load_steps(resumed / "checkpoints")[-1] == 6


def test_metrics_and_traces_are_the_same_bytes(alone, resumed):
    assert (resumed / "metrics.jsonl").read_bytes() == (alone / "metrics.jsonl").read_bytes()
    traces = [{path.name: path.read_bytes() for path in (w / "traces").iterdir()} for w in (alone, resumed)]
    assert traces[0] == traces[1]
    steps = [line["step"] for line in read_metrics(resumed / "timings.jsonl")]
    assert steps == list(range(1, mini.STEPS + 1))


def test_nothing_unfinished_is_left(resumed):
    left = [
        path.name for path in resumed.rglob("*") if path.name.endswith(".tmp") or "orbax-checkpoint-tmp" in path.name
    ]
    assert left == []
