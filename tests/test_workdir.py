"""Workdirs, files that are whole or absent, and metrics that a resume leaves bit-identical."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memalpha_jax import workdir as workdir_lib
from memalpha_jax.errors import UserError
from memalpha_jax.metrics_log import MetricsLog, read_metrics
from memalpha_jax.stop_signal import StopSignal
from memalpha_jax.tensorboard import EventWriter
from memalpha_jax.workdir import Workdir, atomic_write, exclusive, open_workdir, read_config, write_traces

CONFIG: dict[str, Any] = {"grpo": {"lr": 0.1, "steps": 10}, "seed": 0, "names": ["a", "b"]}
ROOT = str(Path(__file__).parents[1])


def changed(**grpo):
    return {**CONFIG, "grpo": {**CONFIG["grpo"], **grpo}}


def test_same_config_goes_on_and_another_is_refused(tmp_path):
    made = open_workdir(tmp_path / "a/b", CONFIG)
    assert read_config(made.root) == CONFIG
    assert open_workdir(tmp_path / "a/b", {**CONFIG, "names": ("a", "b")}) == made
    with pytest.raises(UserError, match=r"grpo\.lr \(0\.1 there, 0\.2 now\); seed \(0 there, absent now\)"):
        open_workdir(made.root, {key: value for key, value in changed(lr=0.2).items() if key != "seed"})
    assert read_config(made.root) == CONFIG


@pytest.mark.parametrize("free", ["grpo.steps", "grpo"])
def test_keys_that_may_change_are_taken_over(tmp_path, free):
    open_workdir(tmp_path, CONFIG)
    open_workdir(tmp_path, changed(steps=20), may_change=[free])
    assert read_config(tmp_path)["grpo"]["steps"] == 20
    with pytest.raises(UserError, match="seed"):
        open_workdir(tmp_path, {**changed(steps=30), "seed": 1}, may_change=[free])


def test_a_run_that_fails_before_it_writes_anything_leaves_the_place_to_another_config(tmp_path):
    def fails(config):
        workdir = open_workdir(tmp_path, config)
        with exclusive(workdir):
            (workdir.root / "checkpoints").mkdir(exist_ok=True)
            raise UserError("no policy")

    for config in (CONFIG, changed(lr=0.2)):
        with pytest.raises(UserError, match="no policy"):
            fails(config)
    (tmp_path / "checkpoints" / "5").write_text("x")
    with pytest.raises(UserError, match="no policy"):
        fails(CONFIG)
    with pytest.raises(UserError, match="made by another config"):
        fails(changed(lr=0.3))
    assert read_config(tmp_path) == CONFIG


def test_unusable_workdirs(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        open_workdir(tmp_path / "file", CONFIG)
    with pytest.raises(UserError, match="cannot create the workdir"):
        open_workdir(tmp_path / "file" / "below", CONFIG)
    with pytest.raises(UserError, match="is not a workdir"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"torn":')
    with pytest.raises(UserError, match=r"cannot read .*config\.json"):
        open_workdir(tmp_path, CONFIG)


def test_one_writer_at_a_time(tmp_path):
    workdir = open_workdir(tmp_path, CONFIG)
    code = (
        "import sys; from pathlib import Path; from memalpha_jax.workdir import Workdir, exclusive\n"
        "with exclusive(Workdir(Path(sys.argv[1]))): print('held')"
    )
    run = [sys.executable, "-c", code, str(tmp_path)]
    with exclusive(workdir):
        second = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "another process is writing" in second.stderr
    assert subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=60).stdout == "held\n"


def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    atomic_write(path, "old")

    def no_space(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(workdir_lib.os, "fsync", no_space)
    with pytest.raises(UserError, match=r"cannot write .*results\.json: No space left on device"):
        atomic_write(path, "new" * 1000)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_traces_hold_any_text(tmp_path):
    workdir = Workdir(tmp_path)
    records: list[dict[str, Any]] = [{"reply": "✿FUNCTION✿ \u2028 \x00", "n": 1}, {"reply": "caf\udce9"}]
    path = write_traces(workdir, 12, records)
    assert path == tmp_path / "traces/step_000012.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")
    assert json.loads(lines[0]) == records[0]
    assert len(lines) == 3


finite = st.floats(-1e30, 1e30)


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(finite, min_size=1, max_size=8),
    restored=st.integers(0, 8),
    torn=st.integers(0, 200),
)
def test_resumed_metrics_equal_uninterrupted(tmp_path_factory, values, restored, torn):
    folder = tmp_path_factory.mktemp("m")
    rows = {step: {"a": value, "b": np.float32(value / 3)} for step, value in enumerate(values, start=1)}
    whole, broken = Workdir(folder / "whole"), Workdir(folder / "broken")
    for workdir in (whole, broken):
        with MetricsLog(workdir, tensorboard=False) as log:
            for step, row in rows.items():
                log.log(step, row, {"decode": 0.5})
    # A checkpoint is saved after its step is logged, so what a kill tears lies behind the restored step.
    data = broken.metrics_file.read_bytes()
    kept = sum(len(line) for line in data.splitlines(keepends=True)[:restored])
    broken.metrics_file.write_bytes(data[: max(kept, len(data) - torn)])
    with MetricsLog(broken, restored_step=restored, tensorboard=False) as log:
        assert [row["step"] for row in read_metrics(broken.metrics_file)] == [s for s in rows if s <= restored]
        for step in [s for s in rows if s > restored]:
            log.log(step, rows[step], {"decode": 0.7})
    assert broken.metrics_file.read_bytes() == whole.metrics_file.read_bytes()
    for row, read in zip(rows.values(), read_metrics(whole.metrics_file), strict=True):
        assert (read["a"], np.float32(read["b"])) == (row["a"], row["b"])


def test_fresh_start_drops_lines_of_a_run_without_checkpoint(tmp_path):
    workdir = Workdir(tmp_path)
    for _ in range(2):
        with MetricsLog(workdir, tensorboard=False) as log:
            log.log(0, {"x": 1})
    assert len(read_metrics(workdir.metrics_file)) == 1


def test_special_values_and_scalars(tmp_path):
    with MetricsLog(Workdir(tmp_path), tensorboard=False) as log:
        log.log(1, {"nan": math.nan, "inf": -math.inf, "n": np.int64(3), "yes": np.bool_(True), "word": "w"})
    text = (tmp_path / "metrics.jsonl").read_text()
    row = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert row == {"step": 1, "nan": None, "inf": "-inf", "n": 3, "yes": True, "word": "w"}
    (read,) = read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(read["nan"])
    assert read["inf"] == -math.inf


def test_full_disk_while_logging_keeps_whole_lines(tmp_path):
    """A limit on the size of files stands in for the full disk: the write stops in the middle of a line."""
    code = """
import resource, sys
from pathlib import Path
from memalpha_jax.errors import UserError
from memalpha_jax.metrics_log import MetricsLog
from memalpha_jax.workdir import Workdir
log = MetricsLog(Workdir(Path(sys.argv[1])), tensorboard=False)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    for step in range(100):
        log.log(step, {"loss": step / 3})
except UserError as error:
    print(error)
"""
    run = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "metrics.jsonl: File too large" in done.stdout, done.stderr
    data = (tmp_path / "metrics.jsonl").read_bytes()
    assert data.endswith(b"\n")
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == len(data.splitlines()) > 0


def test_event_file_is_what_tensorboard_reads(tmp_path):
    """The protocol buffers and checksums of tensorboardX are the oracle."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    from tensorboardX.record_writer import masked_crc32c

    writer = EventWriter(tmp_path, first_step=5)
    writer.scalars(5, {"reward/total": 0.25, "loss": -3.0})
    writer.scalars(300, {"loss": 1e-8})
    writer.scalars(301, {"loss": -1e300})
    writer.close()
    (file,) = tmp_path.iterdir()
    data, events = file.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        payload = data[12 : 12 + length]
        assert data[8:12] == struct.pack("<I", masked_crc32c(data[:8]))
        assert data[12 + length : 16 + length] == struct.pack("<I", masked_crc32c(payload))
        events.append(event_pb2.Event.FromString(payload))
        data = data[16 + length :]
    assert events[0].file_version == "brain.Event:2"
    assert (events[1].step, events[1].session_log.status) == (5, 1)
    assert {v.tag: v.simple_value for v in events[2].summary.value} == {"reward/total": 0.25, "loss": -3.0}
    assert (events[3].step, events[3].summary.value[0].simple_value) == (300, np.float32(1e-8))
    assert events[4].summary.value[0].simple_value == -math.inf


@pytest.fixture
def interruptible():
    """SIGINT raises KeyboardInterrupt; a shell starts background jobs with SIGINT ignored."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.mark.usefixtures("interruptible")
def test_stop_signal_is_noted_once_and_handlers_come_back():
    former = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        assert stop.name == "SIGTERM"
        assert signal.getsignal(signal.SIGTERM) == former
    assert signal.getsignal(signal.SIGTERM) == former
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.name == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
