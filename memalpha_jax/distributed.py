"""One run over several processes, by JAX's own runtime: who starts it, and what the processes agree on.

    python -m memalpha_jax.train ... --coordinator=10.0.0.1:8476 --num_processes=2 --process_id=0

and the same with --process_id=1 on the other machine. Under Slurm (`srun`) and on the hosts of a TPU slice no flag is
needed. A process that runs alone takes part in nothing here and waits for nobody. All processes of a run must see the
same workdir.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import importlib.util
import json
import os
import re
import sys
import threading
import traceback
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from memalpha_jax.errors import UserError

T = TypeVar("T")
FLAGS = flags.FLAGS
METADATA_SECONDS = 2.0
"""A TPU host's metadata server answers from the same machine."""
CONNECT_SECONDS = 300
GRACE_SECONDS = 30
"""How much later than this module JAX gives up connecting; it would end the process without a sentence."""
flags.disclaim_key_flags()


@dataclasses.dataclass(frozen=True)
class Runtime:
    """What was recognised, in words, and the arguments of `jax.distributed.initialize` that follow from it."""

    name: str
    arguments: Mapping[str, Any]


def define_flags() -> None:
    """Defines `--coordinator`, `--num_processes`, `--process_id` and `--connect_seconds`."""
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT at which process 0 can be reached, where several processes share a run and neither Slurm nor a TPU "
        "slice says so by itself; needs --num_processes and --process_id.",
    )
    flags.DEFINE_integer("num_processes", None, "Number of processes of the run; only with --coordinator.")
    flags.DEFINE_integer("process_id", None, "Number of this process, from 0; only with --coordinator.")
    flags.DEFINE_integer(
        "connect_seconds", CONNECT_SECONDS, "How long to wait at the start for the other processes.", 1
    )


def initialize() -> None:
    """Joins this process to the others of its run, as the flags or the surroundings say; prints what was recognised.

    Call it before anything that uses a device. Raises UserError for flags that make no sense; ends the process with a
    sentence and exit code 1 when the others cannot be reached in time.
    """
    given = FLAGS.flag_values_dict()  # a command need not have the flags
    runtime = recognise(os.environ, *(given.get(name) for name in ("coordinator", "num_processes", "process_id")))
    if runtime is None:
        return
    seconds = given.get("connect_seconds", CONNECT_SECONDS)
    with _ended_after(seconds, runtime):
        jax.distributed.initialize(**runtime.arguments, initialization_timeout=seconds + GRACE_SECONDS)
    if jax.default_backend() == "cpu":
        # Code that jaxlib 0.10 reads back from its cache no longer keeps independent transfers between CPU processes in
        # one order (on GPUs and TPUs other code runs them): two processes then wait, each in another one, for ever.
        jax.config.update("jax_enable_compilation_cache", False)
    print(
        f"process {jax.process_index()} of {jax.process_count()} ({runtime.name}): {jax.local_device_count()} of "
        f"{jax.device_count()} devices",
        flush=True,
    )


def recognise(
    environ: Mapping[str, str],
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    tpu: Callable[[], bool] | None = None,
) -> Runtime | None:
    """The runtime that the flags ask for, else the one that the environment shows; None for a single process.

    tpu: whether this machine has TPU chips, looked up by default. Raises UserError for flags that make no sense.
    """
    if coordinator is not None or num_processes is not None or process_id is not None:
        return _from_flags(coordinator, num_processes, process_id)
    if _int(environ, "SLURM_NTASKS") > 1 and all(environ.get(f"SLURM_{name}") for name in _IN_A_SLURM_STEP):
        words = f"Slurm job {environ['SLURM_JOB_ID']}, task {environ['SLURM_PROCID']}"
        return Runtime(words, {"cluster_detection_method": "slurm", **_slurm_devices(environ)})
    if (_has_tpu if tpu is None else tpu)():
        hosts = _tpu_hosts(environ)
        slices = max(_int(environ, "MEGASCALE_NUM_SLICES"), 1)
        if hosts * slices > 1:
            return Runtime(f"TPU slice of {hosts} hosts" + f", {slices} slices" * (slices > 1), {})
    return None


# Without the last, `sbatch` runs the script itself, of which there is one whatever SLURM_NTASKS says.
_IN_A_SLURM_STEP = ("JOB_ID", "PROCID", "LOCALID", "STEP_NODELIST")


def _from_flags(coordinator: str | None, num_processes: int | None, process_id: int | None) -> Runtime:
    if coordinator is None:
        flag = "num_processes" if num_processes is not None else "process_id"
        raise UserError(f"--{flag} needs --coordinator=HOST:PORT, where process 0 listens")
    if num_processes is None or process_id is None:
        raise UserError("--coordinator needs --num_processes=N and --process_id=I (from 0 to N - 1)")
    if num_processes < 1:
        raise UserError(f"--num_processes={num_processes}: a run has at least one process")
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process_id={process_id} is out of range: {num_processes} processes are numbered from 0 to "
            f"{num_processes - 1}"
        )
    match = re.fullmatch(r"(.+):(\d+)", coordinator)
    if not match or not 0 < int(match[2]) < 65536:
        raise UserError(f"--coordinator={coordinator}: expected HOST:PORT, such as 10.0.0.1:8476")
    arguments = {"coordinator_address": coordinator, "num_processes": num_processes, "process_id": process_id}
    # JAX would otherwise ask the surroundings which of the devices to use.
    return Runtime(f"--coordinator={coordinator}", {**arguments, "cluster_detection_method": "deactivate"})


def _slurm_devices(environ: Mapping[str, str]) -> dict[str, Any]:
    """A task that has a node to itself takes all of its GPUs; JAX gives every task the one of its local number."""
    alone = re.fullmatch(r"1(\(x\d+\))?", environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    gpus = _int(environ, "SLURM_GPUS_ON_NODE")
    return {"local_device_ids": list(range(gpus))} if alone and gpus > 1 else {}


def _has_tpu() -> bool:
    chips = glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def _tpu_hosts(environ: Mapping[str, str]) -> int:
    """Hosts of the TPU slice: from the environment (GKE), else from the machine's metadata server, else 1."""
    names = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")
    if names is None and "TPU_SKIP_MDS_QUERY" not in environ:
        server = environ.get("GCE_METADATA_IP", "metadata.google.internal")
        url = f"http://{server}/computeMetadata/v1/instance/attributes/worker-network-endpoints"
        request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with contextlib.suppress(OSError):  # a TPU machine that is none of Google Cloud's
            names = opener.open(request, timeout=METADATA_SECONDS).read().decode()
    return len((names or "localhost").split(","))


def _int(environ: Mapping[str, str], name: str) -> int:
    value = environ.get(name, "")
    return int(value) if value.isdecimal() else 0


@contextlib.contextmanager
def _ended_after(seconds: int, runtime: Runtime) -> Iterator[None]:
    """Ends the process when the block takes longer: it hangs inside JAX, where no exception can reach it."""

    def end() -> None:
        print(
            f"error: the processes of this run did not find each other within {seconds} s ({runtime.name}); check that "
            "all of them were started, that each can reach the coordinator, and that its port is free, or raise "
            "--connect_seconds",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except RuntimeError as error:  # such as a port that is taken
        raise UserError(f"cannot start the run's processes ({runtime.name}): {str(error).splitlines()[0]}") from error
    finally:
        timer.cancel()


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return _alone() or jax.process_index() == 0


def say(words: str) -> None:
    """Prints the words once for all processes."""
    if is_first():
        print(words, flush=True)


def _alone() -> bool:
    # Asking for the number of processes instead would start the devices, which not everything here needs.
    return not jax.distributed.is_initialized()


def gather(value: Any) -> list[Any]:
    """The JSON-able value of every process, in their order, on all of them; every process must call it."""
    if _alone():
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(data)))
    padded = np.zeros(1 << int(sizes.max()).bit_length(), np.uint8)  # few sizes, few compilations
    padded[: len(data)] = data
    everyone = multihost_utils.process_allgather(padded)
    return [json.loads(row[:size].tobytes()) for row, size in zip(everyone, sizes, strict=True)]


def together(function: Callable[[], T]) -> T:
    """Calls `function`, on every process; a UserError on one of them is raised on all."""
    value, error, cause = None, "", None
    try:
        value = function()
    except UserError as caught:
        error, cause = str(caught), caught
    errors = gather(error)
    if cause is not None:
        raise cause
    for process, other in enumerate(errors):
        if other:
            raise UserError(f"process {process}: {other}")
    return value  # type: ignore[return-value]


def on_first(function: Callable[[], T]) -> T:
    """The JSON-able result of `function`, called on process 0 alone, on every process; a UserError is raised on all."""
    value = together(lambda: function() if is_first() else None)
    return gather(value)[0]


@contextlib.contextmanager
def all_or_none() -> Iterator[None]:
    """An exception inside ends this process for good when it is one of several, so that JAX ends the others as well.

    On the way out of a process in order JAX waits for the others, which would wait for this one.
    """
    try:
        yield
    except BaseException as error:
        if _alone():
            raise
        if isinstance(error, UserError):
            print(f"error: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
