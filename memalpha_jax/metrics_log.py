"""Metrics of a run: one JSON object per line, and the same numbers for TensorBoard.

`metrics.jsonl` holds only what the run determines, so that a resumed run's file equals an uninterrupted one's
byte for byte; durations go to `timings.jsonl`. For that a step is logged before its checkpoint is saved.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memalpha_jax.distributed import is_first
from memalpha_jax.errors import UserError
from memalpha_jax.tensorboard import EventWriter
from memalpha_jax.workdir import Workdir, disk_errors

_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf}


class MetricsLog:
    """Appends metrics of successive steps to a workdir; lines after the restored step are dropped first.

    Of several processes the first writes, and the others do nothing here.

    Args:
      restored_step: the step of the checkpoint the run goes on from; None, a fresh start, drops all lines.
      tensorboard: whether to write event files as well.
    """

    def __init__(self, workdir: Workdir, restored_step: int | None = None, *, tensorboard: bool = True):
        self._where = workdir.root
        self._events: EventWriter | None = None
        self._writes = is_first()
        if not self._writes:
            return
        self._metrics = _LineFile(workdir.metrics_file, restored_step)
        self._timings = _LineFile(workdir.timings_file, restored_step)
        if tensorboard:
            with disk_errors(f"cannot write to {workdir.tensorboard}"):
                first_step = 0 if restored_step is None else restored_step + 1
                self._events = EventWriter(workdir.tensorboard, first_step)

    def log(self, step: int, metrics: Mapping[str, Any], timings: Mapping[str, Any] | None = None) -> None:
        """Writes the line of `step`; values are numbers (Python, numpy or JAX scalars), strings or None.

        Floats are written so that they read back exactly (float32 through float64). Timings are in seconds.
        The lines have left the process when this returns: a SIGKILL loses none of them.

        Raises:
          UserError: the disk is full; the file keeps its whole lines.
        """
        if not self._writes:
            return
        self._metrics.append({"step": int(step), **{key: _plain(value) for key, value in metrics.items()}})
        if timings:
            self._timings.append({"step": int(step), **{key: _plain(value) for key, value in timings.items()}})
        if self._events is not None:
            named = {**metrics, **{f"seconds/{key}": value for key, value in (timings or {}).items()}}
            numbers = {key: _plain(value) for key, value in named.items()}
            with disk_errors(f"cannot write metrics in {self._where}"):
                self._events.scalars(int(step), {k: v for k, v in numbers.items() if isinstance(v, (int, float))})

    def close(self) -> None:
        if not self._writes:
            return
        self._metrics.close()
        self._timings.close()
        if self._events is not None:
            self._events.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics file as dictionaries, without a last line that a killed run left unfinished.

    Raises:
      UserError: there is no such file.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read metrics from {path}: {error.strerror}") from error
    return [{key: _read(value) for key, value in line.items()} for line, _ in _whole_lines(data)]


def _whole_lines(data: bytes) -> list[tuple[dict[str, Any], int]]:
    """Parsed lines with the offset of their end, up to the first one that is torn or no JSON object."""
    lines: list[tuple[dict[str, Any], int]] = []
    end = 0
    while (newline := data.find(b"\n", end)) >= 0:
        try:
            line = json.loads(data[end:newline])
        except ValueError:
            break
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            break
        end = newline + 1
        lines.append((line, end))
    return lines


class _LineFile:
    """A JSONL file cut to the lines of steps up to `last_step`, open for appending."""

    def __init__(self, path: Path, last_step: int | None):
        self._path = path
        with disk_errors(f"cannot write {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115  closed by close()
            os.truncate(path, _kept_bytes(path.read_bytes(), last_step))

    def append(self, record: Mapping[str, Any]) -> None:
        data = (json.dumps(record, allow_nan=False) + "\n").encode()
        size = os.fstat(self._file.fileno()).st_size
        with disk_errors(f"cannot write {self._path}"):
            try:
                # An unbuffered write may take only the first part when the disk is nearly full.
                while data:
                    data = data[self._file.write(data) :]
            except OSError:
                os.truncate(self._path, size)
                raise

    def close(self) -> None:
        self._file.close()


def _kept_bytes(data: bytes, last_step: int | None) -> int:
    kept = 0
    for line, end in _whole_lines(data):
        if last_step is None or line["step"] > last_step:
            break
        kept = end
    return kept


def _plain(value: Any) -> Any:
    """A JSON value; not-a-number becomes null and infinities strings, which JSON has no numbers for."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, (bool, int)):
        return value
    value = float(value)
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)


def _read(value: Any) -> Any:
    if value is None:
        return math.nan
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value
