"""The directory of one run: its config, where its files lie, and writes that are whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from memalpha_jax.config import flatten
from memalpha_jax.distributed import is_first, on_first, together
from memalpha_jax.errors import UserError

LOCK = ".lock"


@dataclasses.dataclass(frozen=True)
class Workdir:
    """Names of everything a run keeps under `root`."""

    root: Path

    @property
    def config_file(self) -> Path:
        return self.root / "config.json"

    @property
    def metrics_file(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def timings_file(self) -> Path:
        return self.root / "timings.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def traces(self) -> Path:
        return self.root / "traces"


def open_workdir(path: str | Path, config: Mapping[str, Any], *, may_change: Sequence[str] = ()) -> Workdir:
    """Creates the workdir with `config` in it, or goes on with one that the same config made.

    Of several processes the first does so; the others look whether they see the same.

    Args:
      config: the resolved config as JSON-able nested dictionaries (`config.to_dict`).
      may_change: dotted keys, or sections, that may differ from the stored config, such as the number of
        steps; the stored config then takes the new values.

    Raises:
      UserError: not a directory, not writable, or made by another config (the differing keys are listed).
    """
    workdir, resolved = Workdir(Path(path)), json.loads(json.dumps(config))
    on_first(lambda: _make_workdir(workdir, resolved, may_change))
    together(lambda: _check_seen(workdir, resolved))
    return workdir


def _make_workdir(workdir: Workdir, resolved: Mapping[str, Any], may_change: Sequence[str]) -> None:
    path = workdir.root
    if workdir.root.exists() and not workdir.root.is_dir():
        raise UserError(f"--workdir={path} is a file; give a directory")
    with disk_errors(f"cannot create the workdir {path}"):
        workdir.root.mkdir(parents=True, exist_ok=True)
    if workdir.config_file.exists():
        stored = read_config(path)
        _check_same_config(workdir, stored, resolved, may_change)
        if stored == resolved:
            return
    atomic_write(workdir.config_file, json.dumps(resolved, indent=2) + "\n")


def _check_seen(workdir: Workdir, resolved: Mapping[str, Any]) -> None:
    if is_first():
        return
    if not workdir.config_file.exists():
        raise UserError(
            f"{workdir.config_file}, which the first process has written, is not there for this one; give all "
            "processes the same --workdir, on a file system that they share"
        )
    _check_same_config(workdir, read_config(workdir.root), resolved, ())


def read_config(path: str | Path) -> dict[str, Any]:
    """The resolved config that a workdir holds. Raises UserError when there is none or it cannot be read."""
    file = Workdir(Path(path)).config_file
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is not a workdir: it has no {file.name}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}; use another --workdir") from error
    if not isinstance(config, dict):
        raise UserError(f"{file} does not hold a config; use another --workdir")
    return config


def _check_same_config(workdir: Workdir, stored: Mapping, wanted: Mapping, may_change: Sequence[str]) -> None:
    old, new = flatten(stored), flatten(wanted)
    differing = [
        f"{key} ({_shown(old, key)} there, {_shown(new, key)} now)"
        for key in sorted(old.keys() | new.keys())
        if (key not in old or key not in new or old[key] != new[key])
        and not any(key == free or key.startswith(f"{free}.") for free in may_change)
    ]
    if differing:
        shown = "; ".join(differing[:8]) + ("; ..." if len(differing) > 8 else "")
        raise UserError(
            f"the workdir {workdir.root} was made by another config, {len(differing)} keys differ: {shown}. "
            "Use another --workdir or the same settings"
        )


def _shown(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key]) if key in flat else "absent"


@contextlib.contextmanager
def exclusive(workdir: Workdir) -> Iterator[None]:
    """Holds the workdir against a second writer; the lock dies with the process, however it ends.

    Of the processes of one run the first holds it. A run that a UserError ends before it has written anything leaves no
    config behind, so that the corrected command can have the place.

    Raises:
      UserError: another run's process holds it.
    """
    handle = together(lambda: _locked(workdir) if is_first() else contextlib.nullcontext())
    with handle:
        try:
            yield
        except UserError:
            if is_first() and not _holds_results(workdir):
                with contextlib.suppress(OSError):
                    workdir.config_file.unlink()
            raise


def _holds_results(workdir: Workdir) -> bool:
    own = (workdir.config_file.name, LOCK)
    return any(path.is_file() and path.name not in own for path in workdir.root.rglob("*"))


def _locked(workdir: Workdir) -> IO[str]:
    with disk_errors(f"cannot lock {workdir.root}"):
        handle = open(workdir.root / LOCK, "a+")  # noqa: SIM115  closed by the caller
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise UserError(f"another process is writing to {workdir.root}; wait for it to end") from None
    except OSError:
        pass  # a file system without locks: nothing to hold on to
    return handle


def write_traces(workdir: Workdir, step: int, records: Iterable[Mapping[str, Any]]) -> Path:
    """Writes sampled trajectories of one step as `traces/step_000012.jsonl`, whole or not at all.

    A step that is run again after a resume replaces its file.
    """
    path = workdir.traces / f"step_{step:06d}.jsonl"
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    return atomic_write(path, "".join(lines))


def atomic_write(path: str | Path, data: str | bytes) -> Path:
    """Writes `data` (str as UTF-8) under another name and renames it: the file is whole, or as it was.

    Raises:
      UserError: the disk is full, the directory is not writable, and the like; nothing is left behind.
    """
    path = Path(path)
    # Lone surrogates may reach a trace through a reply of broken bytes; they must not lose the file.
    payload = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(f"cannot write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as handle:
                handle.write(payload)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    return path


@contextlib.contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turns an OSError inside into a UserError: `what`, the system's reason, and what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{what}: {reason}; make room or permission there and run the same command again") from error
