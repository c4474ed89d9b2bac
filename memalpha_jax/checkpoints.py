"""Checkpoints: the state of training, and beside it everything else a run needs to go on or to be used.

Orbax writes `DIR/<step>/` in the background. Each step is sealed (`integrity.py`) before it gets its name,
and only sealed, undamaged steps are ever read: Orbax itself notices a damaged file late and with a noise, or,
where a bit has flipped, not at all.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging as std_logging
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from absl import logging

from memalpha_jax import integrity
from memalpha_jax.distributed import is_first, on_first
from memalpha_jax.errors import UserError

_BYTES = "__bytes__"
_DISK_REASON = re.compile(
    "No space left on device|Disk quota exceeded|File too large|Read-only file system|Permission denied"
    "|Input/output error|Too many open files|Stale file handle"
)


class Restored(NamedTuple):
    """What a checkpoint held: `state` a pytree (or its `params` alone), `meta` as it was given to `save`."""

    step: int
    state: Any
    meta: dict[str, Any]


class Checkpoints:
    """The last `keep` checkpoints of a run in `directory`, saved in the background.

    A context manager: leaving it waits for the save under way. Only one run at a time may hold a
    directory (what a killed one left unfinished is removed); to look into another's, use `load_params`.
    All processes of a run make every call: each writes and reads its own shards, the first decides and seals.
    """

    def __init__(self, directory: str | Path, keep: int = 3):
        self._directory = Path(directory).absolute()
        self._saving: int | None = None
        _quieten_orbax()
        with self._disk_errors(f"cannot open the checkpoints in {directory}"):
            self._directory.mkdir(parents=True, exist_ok=True)
            self._discard_unfinished()
            self._manager = ocp.CheckpointManager(
                self._directory,
                item_names=("state", "meta"),
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=keep,
                    async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
                ),
            )

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first; whether one is damaged shows when it is read."""
        return [step for step in _steps(self._directory) if (_at(self._directory, step) / integrity.SEAL).exists()]

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> bool:
        """Starts saving and returns when `state` may be donated; waits for the save before, if it still runs.

        Args:
          state: pytree of arrays (PRNG key arrays included).
          meta: JSON-able values and bytes, nested in dicts with str keys and lists: config, iterator state,
            files of the tokenizer. Tuples come back as lists.

        Returns:
          False when `step` is saved already.

        Raises:
          UserError: this save, or the one before, met a full or unwritable disk; earlier ones are whole.
        """
        self.wait()
        if on_first(lambda: step in self.steps()):
            return False
        record = {"meta": _encode(dict(meta)), "leaves": _leaf_shapes(state)}
        json.dumps(record)  # a value that is no JSON is a bug of the caller: fail here rather than in the background
        self._saving = step
        arguments = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(record))
        with self._disk_errors(f"cannot save checkpoint {step} in {self._directory}"):
            self._manager.save(step, args=arguments, force=True)
        return True

    def restore(self, abstract_state: Any, step: int | None = None) -> Restored | None:
        """Reads the newest undamaged checkpoint, or the one of `step`.

        Damaged and unfinished steps that are newer are set aside (renamed) with a warning.

        Args:
          abstract_state: pytree of ShapeDtypeStruct, with shardings, such as `abstract(state)`.

        Returns:
          None when there is no checkpoint.

        Raises:
          UserError: `step` is absent or damaged, every checkpoint is damaged, or the shapes are not those
            asked for (the config makes another model).
        """
        self.wait()
        found = on_first(lambda: _newest_intact(self._directory, step, set_aside=True))
        self._manager.reload()
        if found is None:
            return None
        record = _read_record(_at(self._directory, found))
        _check_shapes(_at(self._directory, found), record["leaves"], _leaf_shapes(abstract_state))
        arguments = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state))
        state = self._manager.restore(found, args=arguments).state
        return Restored(found, state, _decode(record["meta"]))

    def wait(self) -> None:
        """Returns when nothing is being saved. Raises UserError when the save met a full disk."""
        with self._disk_errors(f"cannot save checkpoint {self._saving} in {self._directory}"):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def close(self) -> None:
        """Waits and ends the background threads. Raises as `wait` does."""
        try:
            self.wait()
        finally:
            with contextlib.suppress(Exception):  # wait() has told what there is to tell
                self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *exc_info: object) -> None:
        # While an error is on its way out, a failed save must not take its place.
        with contextlib.suppress(UserError) if exc_type else contextlib.nullcontext():
            self.close()

    def _seal(self) -> None:
        """Runs in the background when a step's files are written, before Orbax gives it its final name."""
        if is_first():
            (written,) = self._directory.glob(f"{self._saving}.orbax-checkpoint-tmp*")
            integrity.seal(written, ("state", "meta"))  # Orbax changes its own notes beside them later

    @contextlib.contextmanager
    def _disk_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            reason = _disk_reason(error)
            if reason is None:
                raise
            self._discard_unfinished()
            with contextlib.suppress(Exception):
                self._manager.reload()  # it counts the failed step among those to keep
            raise UserError(
                f"{what}: {reason}; earlier ones are whole. Make room there and run the same command again"
            ) from error

    def _discard_unfinished(self) -> None:
        """Removes what a failed or killed save left; what is written after that goes the next time."""
        if is_first():
            for path in self._directory.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(path, ignore_errors=True)


def abstract(state: Any) -> Any:
    """`state` as ShapeDtypeStructs that keep its shardings: the target of `Checkpoints.restore`."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def load_params(path: str | Path, targets: Callable[[Any], Any] | None = None) -> Restored:
    """Reads `state.params` and the meta of a checkpoint, leaving the optimizer and the rest on disk.

    Args:
      path: a workdir, its `checkpoints` directory, or the directory of one step.
      targets: makes, of a tree with the saved shapes and dtypes, the ShapeDtypeStructs with shardings to restore
        into; without it the parameters come as saved, nested in dicts, on the first device of each process. All
        processes of a run call it.

    Returns:
      Restored with the parameters as `state`, of the newest undamaged step.

    Raises:
      UserError: no checkpoint there, or it is damaged.
    """
    _quieten_orbax()
    directory, step = _locate(Path(path))
    found = on_first(lambda: _newest_intact(directory, step, set_aside=False))
    if found is None:
        raise UserError(
            f"no checkpoint in {path}, nor a Hugging Face model (config.json beside *.safetensors); give a workdir "
            "that train or warmstart made, or the folder of a model"
        )
    place = _at(directory, found)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        saved = reader.metadata(place / "state").item_metadata.tree
        if not isinstance(saved, dict) or "params" not in saved:
            raise UserError(f"the checkpoint {place} holds no params; it was not made by train or warmstart")
        target = jax.tree.map(lambda _: ocp.PLACEHOLDER, saved)
        target["params"] = (targets or _on_first_device)(saved["params"])
        restore_args = ocp.checkpoint_utils.construct_restore_args(target)
        arguments = ocp.args.PyTreeRestore(target, restore_args=restore_args)
        params = reader.restore(place / "state", args=arguments)["params"]
    return Restored(found, params, _decode(_read_record(place)["meta"]))


def _on_first_device(metadata: Any) -> Any:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=sharding), metadata)


def holds_checkpoint(path: str | Path) -> bool:
    """Whether `load_params` would find something under `path`, sound or not."""
    if not Path(path).is_dir():
        return False
    directory, step = _locate(Path(path))
    return step is not None or bool(_steps(directory))


def _locate(path: Path) -> tuple[Path, int | None]:
    """The directory of checkpoints that `path` means, and the step where it names one."""
    path = path.absolute()
    if not path.is_dir():
        raise UserError(
            f"there is no directory {path}; give a workdir, one of its checkpoints, or the folder of a Hugging Face "
            "model"
        )
    if path.name.isdigit() and (path / "state").exists():
        return path.parent, int(path.name)
    return (path / "checkpoints" if (path / "checkpoints").is_dir() else path), None


def _newest_intact(directory: Path, step: int | None, *, set_aside: bool) -> int | None:
    """The newest step that is as it was sealed; says which it passes over, and renames those on request."""
    if step is not None:
        fault = integrity.fault(_at(directory, step)) if _at(directory, step).is_dir() else "it does not exist"
        if fault:
            raise UserError(f"cannot use checkpoint {step} in {directory}: {fault}")
        return step
    passed_over, damaged = [], []
    for candidate in reversed(_steps(directory)):
        fault = integrity.fault(_at(directory, candidate))
        if fault is None:
            break
        logging.warning("checkpoint %d in %s is passed over: %s", candidate, directory, fault)
        passed_over.append(candidate)
        if (_at(directory, candidate) / integrity.SEAL).exists():
            damaged.append(f"{candidate}: {fault}")
    else:
        candidate = None
    if damaged and candidate is None:  # all stay where they are: it may be the disk that has a bad day
        raise UserError(f"every checkpoint in {directory} is damaged ({'; '.join(damaged)}); remove it to start over")
    if set_aside:
        for damaged_step in passed_over:
            _set_aside(_at(directory, damaged_step))
    return candidate


def _set_aside(place: Path) -> None:
    """Renames a damaged step, so that the run can save that step again."""
    aside = place.with_name(f"damaged-{place.name}")
    shutil.rmtree(aside, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.rename(place, aside)


def _steps(directory: Path) -> list[int]:
    return sorted(int(path.name) for path in directory.glob("*") if path.name.isdigit() and path.is_dir())


def _at(directory: Path, step: int) -> Path:
    return directory / str(step)


def _read_record(place: Path) -> dict[str, Any]:
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        return reader.restore(place / "meta")


def _leaf_shapes(tree: Any) -> dict[str, list[int]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): list(leaf.shape) for path, leaf in leaves}


def _check_shapes(place: Path, saved: dict[str, list[int]], wanted: dict[str, list[int]]) -> None:
    for name in sorted(saved.keys() | wanted.keys()):
        there, now = (str(tuple(tree[name])) if name in tree else "absent" for tree in (saved, wanted))
        if there != now:
            raise UserError(
                f"the checkpoint {place} is of another model: {name} is {there} there, {now} in this config; "
                "use the config and the starting policy it was made with, or another --workdir"
            )


def _encode(value: Any) -> Any:
    """JSON has no bytes: they travel as {"__bytes__": base64}."""
    if isinstance(value, bytes):
        return {_BYTES: base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_BYTES}:
            return base64.b64decode(value[_BYTES])
        return {key: _decode(item) for key, item in value.items()}
    return [_decode(item) for item in value] if isinstance(value, list) else value


def _disk_reason(error: BaseException | None) -> str | None:
    """What the system said, if `error` or its cause came from the disk; TensorStore only has it as text."""
    while error is not None:
        if isinstance(error, UserError):
            return str(error)
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        if match := _DISK_REASON.search(str(error)):
            return match[0]
        error = error.__cause__ or error.__context__
    return None


class _NoOrbaxChatter(std_logging.Filter):
    """Orbax logs each of its steps, and errors that it raises as well, through this program's logger; and after one
    failed write asyncio reports the others that Orbax had begun.
    """

    def filter(self, record: std_logging.LogRecord) -> bool:
        if record.name == "asyncio":
            return "orbax" not in record.getMessage()
        return f"{os.sep}orbax{os.sep}" not in record.pathname


_FILTER = _NoOrbaxChatter()


def _ignore_late_reads(unraisable: sys.UnraisableHookArgs) -> None:
    """After one failed access Orbax abandons the others, and each reports into an event loop that is gone."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _quieten_orbax() -> None:
    """What Orbax has to say reaches people as the UserErrors of this module."""
    for logger in (logging.get_absl_logger(), std_logging.getLogger("asyncio")):
        logger.addFilter(_FILTER)
    warnings.filterwarnings("ignore", "coroutine 'async_serialize", RuntimeWarning)  # writes not begun by then
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _ignore_late_reads
