"""Several processes are one run: they find each other, share the work and the errors, and end where one would."""

from __future__ import annotations

import http.server
import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mini
import pair
import pytest

from memalpha_jax.distributed import recognise
from memalpha_jax.errors import UserError
from memalpha_jax.metrics_log import read_metrics

SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_NTASKS": "16",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "3",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
}
NO_METADATA = {"GCE_METADATA_IP": "127.0.0.1:9"}  # the port that discards


def no_tpu() -> bool:
    return False


def tpu() -> bool:
    return True


# What is recognised


def test_a_process_alone_is_no_distributed_run():
    assert recognise({}) is None
    one_task = {**SLURM, "SLURM_NTASKS": "1"}
    in_the_batch_script = {name: value for name, value in SLURM.items() if name != "SLURM_STEP_NODELIST"}
    assert recognise(one_task, tpu=no_tpu) is recognise(in_the_batch_script, tpu=no_tpu) is None


def test_flags_come_before_what_surrounds_the_process():
    found = recognise(SLURM, "10.0.0.1:8476", 2, 1, tpu=tpu)
    assert found is not None
    assert found.arguments == {
        "coordinator_address": "10.0.0.1:8476",
        "num_processes": 2,
        "process_id": 1,
        "cluster_detection_method": "deactivate",
    }


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((None, 2, None), "--num_processes needs --coordinator=HOST:PORT"),
        ((None, None, 0), "--process_id needs --coordinator=HOST:PORT"),
        (("host:1", None, 0), "--coordinator needs --num_processes"),
        (("host:1", 2, None), "--coordinator needs --num_processes"),
        (("host:1", 0, 0), "--num_processes=0: a run has at least one process"),
        (("host:1", 2, 2), "--process_id=2 is out of range: 2 processes are numbered from 0 to 1"),
        (("host:1", 2, -1), "--process_id=-1 is out of range"),
        (("host", 2, 0), "--coordinator=host: expected HOST:PORT"),
        (("host:99999", 2, 0), "--coordinator=host:99999: expected HOST:PORT"),
    ],
)
def test_flags_that_make_no_sense_are_told(given, words):
    with pytest.raises(UserError, match=words):
        recognise({}, *given, tpu=no_tpu)


def test_slurm_steps_are_recognised_and_use_all_gpus_of_a_node():
    found = recognise(SLURM, tpu=no_tpu)
    assert found is not None
    assert found.name == "Slurm job 4711, task 3"
    assert found.arguments == {"cluster_detection_method": "slurm"}
    a_task_per_node = {**SLURM, "SLURM_STEP_TASKS_PER_NODE": "1(x16)", "SLURM_GPUS_ON_NODE": "8"}
    found = recognise(a_task_per_node, tpu=no_tpu)
    assert found is not None
    assert found.arguments["local_device_ids"] == list(range(8))
    a_task_per_gpu = {**a_task_per_node, "SLURM_STEP_TASKS_PER_NODE": "8(x2)"}
    assert recognise(a_task_per_gpu, tpu=no_tpu) == recognise(SLURM, tpu=no_tpu)


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"TPU_WORKER_HOSTNAMES": "a,b,c,d"}, "TPU slice of 4 hosts"),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, "TPU slice of 1 hosts, 2 slices"),
        ({"TPU_WORKER_HOSTNAMES": "a"}, None),
        ({"TPU_SKIP_MDS_QUERY": "1"}, None),
        (NO_METADATA, None),
    ],
)
def test_tpu_slices_are_recognised_by_their_hosts(environ, name):
    found = recognise(environ, tpu=tpu)
    assert (found and found.name) == name
    assert found is None or found.arguments == {}
    assert recognise(environ, tpu=no_tpu) is None


class Metadata(http.server.BaseHTTPRequestHandler):
    hosts = "10.0.0.1,10.0.0.2"

    def do_GET(self):
        known = self.path.endswith("/attributes/worker-network-endpoints") and self.headers["Metadata-Flavor"]
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(self.hosts.encode() if known else b"")

    def log_message(self, *args):
        pass


def test_a_tpu_machine_is_asked_for_the_hosts_of_its_slice(monkeypatch):
    with http.server.HTTPServer(("localhost", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environ = {"GCE_METADATA_IP": f"localhost:{server.server_port}"}
        found = recognise(environ, tpu=tpu)
        monkeypatch.setattr(Metadata, "hosts", "10.0.0.1")
        alone = recognise(environ, tpu=tpu)
        server.shutdown()
    assert found is not None
    assert found.name == "TPU slice of 2 hosts"
    assert alone is None


# What processes agree on

AGREE = """
import json, sys
import jax, numpy as np
from absl import flags
from memalpha_jax import distributed as d
from memalpha_jax.errors import UserError
from memalpha_jax.policy.sharding import MeshConfig, check_rows, make_mesh, own_part, own_rows, place, place_rows, whole

def told(function):
    try:
        return function()
    except UserError as error:
        return str(error)

def refuse(me):
    if jax.process_index() == me:
        raise UserError("no")

d.define_flags()
flags.FLAGS(sys.argv[:1])
d.initialize()
me, mesh = jax.process_index(), make_mesh(MeshConfig(fsdp=2))
rows = own_rows(mesh, 8)
placed = place_rows({"x": 10 * rows, "y": np.arange(8.0).reshape(4, 2) + 8 * me}, mesh, 8)
table = place({"q": jax.device_put(np.arange(32.0).reshape(1, 8, 4), jax.local_devices()[0])}, mesh)["q"]
found = {
    "gathered": d.gather({"me": me, "long": "é" * 100 * me}),
    "refused by 1": told(lambda: d.together(lambda: refuse(1))),
    "refused by 0": told(lambda: d.on_first(lambda: refuse(0))),
    "decided": d.on_first(lambda: [me, "first"]),
    "rows": rows.tolist(),
    "own": jax.tree.map(np.ndarray.tolist, own_part(placed)),
    "whole": jax.tree.map(np.ndarray.tolist, whole(placed)),
    "table": whole(table).ravel().tolist(),
    "sliced": [shard.data.shape for shard in table.addressable_shards],
    "fine": told(lambda: check_rows(mesh, 2, 2)),
    "split": told(lambda: check_rows(mesh, 4, 3)) or told(lambda: check_rows(mesh, 1, 4)),
    "uneven": told(lambda: check_rows(mesh, 3, 2)),
}
print(json.dumps(found))
sys.stdout.flush()
with d.all_or_none():
    if me == 1:
        raise UserError("the disk of process 1 is full")
    d.gather("waits for the other")
"""


@pytest.fixture(scope="module")
def agreed() -> tuple[list[dict], list]:
    """What two processes that Slurm starts say, and how they ended."""
    job = str(pair.free_port() % 4096)  # JAX derives the port from the number of the job
    common = {**SLURM, "SLURM_JOB_ID": job, "SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "localhost"}
    started = [
        mini.start(
            ["-c", AGREE],
            [],
            {**common, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i), "JAX_NUM_CPU_DEVICES": "2"},
        )
        for i in range(2)
    ]
    ended = pair.finish(*started)
    assert all("2 of 4 devices" in done.stdout for done in ended), ended[0].stderr[-2000:] + ended[1].stderr[-2000:]
    return [json.loads(done.stdout.splitlines()[-1]) for done in ended], ended


def test_processes_gather_values_and_share_errors(agreed):
    for found in agreed[0]:
        assert found["gathered"] == [{"me": 0, "long": ""}, {"me": 1, "long": "é" * 100}]
        assert found["decided"] == [0, "first"]
    assert [found["refused by 1"] for found in agreed[0]] == ["process 1: no", "no"]
    assert [found["refused by 0"] for found in agreed[0]] == ["no", "process 0: no"]


def test_each_process_places_and_finds_its_own_rows(agreed):
    for me, found in enumerate(agreed[0]):
        mine = list(range(4 * me, 4 * me + 4))
        assert found["rows"] == mine
        assert found["own"]["x"] == [10 * n for n in mine]
        assert found["own"]["y"] == [[2 * n, 2 * n + 1] for n in mine]
        assert found["whole"] == {"x": [10 * n for n in range(8)], "y": [[2 * n, 2 * n + 1] for n in range(8)]}
        assert found["table"] == list(range(32))
        assert found["sliced"] == [[1, 4, 4]] * 2


def test_groups_that_processes_would_split_are_told(agreed):
    for found in agreed[0]:
        assert found["fine"] is None
        assert "grpo.episodes is 1, so that the 4 trajectories" in found["split"]
        assert "over 2 processes" in found["split"]
        assert found["split"].endswith("make it a multiple of 2")
        assert "grpo.episodes x grpo.group is 6, which 4 shards do not divide" in found["uneven"]


def test_a_process_with_an_error_takes_the_others_with_it(agreed):
    other, failed = agreed[1]
    mini.refused(failed, "the disk of process 1 is full")
    assert other.returncode != 0


def test_a_coordinator_that_is_not_there_is_told_in_time():
    flags = [f"--coordinator=localhost:{pair.free_port()}", "--num_processes=2", "--connect_seconds=3"]
    begin = time.monotonic()
    done = mini.run("train", *mini.options(), "--workdir=x", *flags, "--process_id=1")
    mini.refused(done, "did not find each other within 3 s", "--coordinator=localhost", "--connect_seconds")
    assert time.monotonic() - begin < 180  # JAX alone would take 300
    mini.refused(
        mini.run_here("train", *mini.options(), "--workdir=x", flags[1]), "--num_processes needs --coordinator"
    )


# Two processes train as one does

STEPS, STOPPED = 3, 2
CHANGES = {"grpo.steps": STEPS, "run.save_every": 1, "run.evaluate_every": STEPS, "run.trace_every": STOPPED}
G, N, T = mini.SETTINGS["grpo.group"], 8, mini.SETTINGS["episodes.chunks"]


@pytest.fixture(scope="module")
def changes(tmp_path_factory) -> dict[str, object]:
    return {**CHANGES, "policy.path": mini.finished_run(tmp_path_factory) / "warm_start"}


@pytest.fixture(scope="module")
def one(tmp_path_factory, changes) -> tuple[Path, dict[str, list]]:
    """The run of one process with two devices."""
    workdir = tmp_path_factory.mktemp("one")
    return workdir, pair.counts(*pair.finish(pair.start(workdir, {**changes, "run.cost_step": 0}, 2)))


@pytest.fixture(scope="module")
def two(tmp_path_factory, changes) -> tuple[Path, list[dict[str, list]]]:
    """The run of two processes with a device each, and what they counted at their second start.

    The first start ends by SIGKILL, while the checkpoint of step 2 is written. The second does step 2 again, in which
    one of the processes is told to end; both do, before step 3.
    """
    workdir = tmp_path_factory.mktemp("two")
    killed, other = pair.start_two(workdir, {**changes, "run.cost_step": 0}, {"KILLED": "yes"})
    with ThreadPoolExecutor() as pool:
        others_end = pool.submit(mini.finish, other, pair.PATIENCE)
        assert mini.finish(killed, pair.PATIENCE).returncode == -signal.SIGKILL
        other.kill()
        assert others_end.result().returncode != 0
    assert len(read_metrics(workdir / "metrics.jsonl")) == STOPPED
    assert sorted(path.name.split(".")[0] for path in (workdir / "checkpoints").iterdir()) == ["1", "2"]
    assert not (workdir / "checkpoints" / "2").exists()
    ended = pair.finish(*pair.start_two(workdir, changes, {}, {"TERMINATED": "yes"}))
    assert f"SIGTERM: saved step {STOPPED} of {STEPS}" in ended[0].stdout
    assert "SIGTERM" not in ended[1].stdout  # one process speaks for all
    return workdir, [pair.counts(done) for done in ended]


def test_each_process_works_for_its_own_trajectories_only(one, two):
    rows = pair.CHANGES["rollout.rows"]
    for process in two[1]:
        assert process["asked"] == [rows // 2] * (T * N // rows)
        assert process["scored"] == [N // 2]
        assert [len(drawn) for drawn in process["drawn"]] == [N // G // 2]
        assert set(process["tokenised"]) == {N // G // 2}  # of the steps ahead too
    together = [a + b for a, b in zip(two[1][0]["drawn"], two[1][1]["drawn"], strict=True)]
    assert together == one[1]["drawn"][STOPPED - 1 : STOPPED]


def test_two_processes_end_with_the_bits_of_one(one, two):
    """Also when they were killed between: the devices compute the same, whichever process they belong to."""
    pair.assert_same(one[0], two[0], STOPPED)
    metrics = read_metrics(two[0] / "metrics.jsonl")
    assert [line["step"] for line in metrics] == list(range(1, STOPPED + 1))
    assert all(line["update/grad_norm"] > 0 for line in metrics)  # or they would agree on nothing much
    traces = [(workdir / "traces" / f"step_{STOPPED:06d}.jsonl").read_bytes() for workdir in (one[0], two[0])]
    assert traces[0] == traces[1]


def test_one_process_writes_and_nothing_unfinished_is_left(one, two):
    assert len(list((two[0] / "tensorboard").iterdir())) == 2  # a file per start, not per process
    files = [{p.relative_to(w).parts[0] for p in w.rglob("*")} for w in (one[0], two[0])]
    assert files[0] == files[1]
    assert not list(two[0].rglob("*tmp*"))
