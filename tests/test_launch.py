"""The files in launch/: they parse, print what they would run, run that and nothing else, and stop at the first error.

Programs that are not here (gcloud, srun, ...) are stood in for by one that notes how it was called.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mini
import pytest
import yaml
from typed_commands import given_to

LAUNCH = mini.ROOT / "launch"
SCRIPTS = ("single_gpu.sh", "tpu_pod.sh", "slurm.sbatch")
SETTINGS = {
    "single_gpu.sh": {
        "EXPERIMENT": "experiments/grpo_0_6b_lora.py",
        "MODEL": "/m o/Qwen3-0.6B",
        "DATA": "/d/it's.json",
    },
    "tpu_pod.sh": {"PROJECT": "mine", "SHARE": "10.0.0.2:/share"},
    "slurm.sbatch": {"MODEL": "/m/Qwen3-4B", "DATA": "/d/train.json", "WORKDIR": "runs/it is"},
}
CALLS = [
    ("single_gpu.sh",),
    ("slurm.sbatch",),
    *(("tpu_pod.sh", s) for s in ("create", "install", "train", "logs", "delete")),
]

# Appends its arguments to $CALLED as JSON; fails where one contains $FAIL_AT; as srun, waits for the file $SRUN_UNTIL.
STAND_IN = f"""#!{sys.executable}
import json, os, sys, time
name = os.path.basename(sys.argv[0])
with open(os.environ["CALLED"], "a") as file:
    file.write(json.dumps([name, *sys.argv[1:]]) + "\\n")
if os.environ.get("FAIL_AT") and any(os.environ["FAIL_AT"] in arg for arg in sys.argv[1:]):
    sys.exit(3)
until = os.environ.get("SRUN_UNTIL")
while until and name == "srun" and not os.path.exists(until):
    time.sleep(0.01)
if until and name == "scancel":
    open(until, "w").close()
"""


@pytest.fixture
def place(tmp_path) -> Path:
    """A folder whose bin/ holds the stand-ins."""
    for name in ("python", "python3", "gcloud", "srun", "scancel", "scontrol", "git", "pip", "kubectl"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(STAND_IN)
        program.chmod(0o755)
    return tmp_path


def environment(place: Path, script: str = "", **settings: str) -> dict[str, str]:
    path = f"{place / 'bin'}:{os.environ['PATH']}"
    kept = {name: os.environ[name] for name in ("HOME", "TMPDIR", "LANG") if name in os.environ}
    own = SETTINGS.get(script, {})
    return {**kept, "PATH": path, "CALLED": str(place / "called"), "VENV": str(place), **own, **settings}


def launch(place: Path, script: str, *args: str, **settings: str) -> subprocess.CompletedProcess:
    command = ["bash", str(LAUNCH / script), *args]
    env = environment(place, script, **settings)
    return subprocess.run(command, cwd=place, env=env, text=True, capture_output=True, timeout=60)


def called(place: Path) -> list[list[str]]:
    """What was run, in order; programs by their name."""
    path = place / "called"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def printed(out: str) -> list[list[str]]:
    """The commands that a script says it runs; programs by their name."""
    # bash prints newlines within an argument as $'..\n..', which Python does not read.
    lines = [line[2:] for line in out.splitlines() if line.startswith("+ ")]
    words = [json.loads(line) for line in map(_by_bash, lines)]
    return [[Path(command[0]).name, *command[1:]] for command in words]


def _by_bash(line: str) -> str:
    code = "import json, sys; print(json.dumps(sys.argv[1:]))"
    command = ["bash", "-c", f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} {line}"]
    return subprocess.run(command, check=True, text=True, capture_output=True).stdout


def without_names_of_files(commands: list[list[str]]) -> list[list[str]]:
    return [[re.sub(r"/\S*tmp\.\w+\.tar\.gz", "ARCHIVE", word) for word in command] for command in commands]


def training(words: list[str]) -> list[str]:
    """The part of a command that is `python -m memalpha_jax.train ...`."""
    at = words.index("memalpha_jax.train")
    return words[at - 2 :]


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_bash(script):
    done = subprocess.run(["bash", "-n", str(LAUNCH / script)], text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_script_is_tested():
    assert {path.name for path in LAUNCH.iterdir()} == {*SCRIPTS, "jobset.yaml", "colab.ipynb"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_the_head_of_the_file_and_runs_nothing(place, script):
    command = ["bash", str(LAUNCH / script), "--help"]
    bare = {"PATH": f"{place / 'bin'}:{os.environ['PATH']}", "CALLED": str(place / "called")}
    done = subprocess.run(command, env=bare, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert f"launch/{script}" in done.stdout
    assert "#" not in done.stdout
    head = (LAUNCH / script).read_text().split("set -euo pipefail")[0].splitlines()
    assert done.stdout.splitlines() == [line[2:] for line in head if line.startswith("# ")]
    assert called(place) == []


@pytest.mark.parametrize("call", CALLS)
def test_a_dry_run_prints_what_would_be_run_and_runs_none_of_it(place, call):
    dry = launch(place, *call, "--config.seed=5", DRY_RUN="1")
    assert dry.returncode == 0, dry.stderr
    assert called(place) == []
    done = launch(place, *call, "--config.seed=5")
    assert done.returncode == 0, done.stderr
    run = without_names_of_files(called(place))
    assert run
    assert without_names_of_files(printed(dry.stdout)) == run
    assert without_names_of_files(printed(done.stdout)) == run


def test_one_gpu_makes_an_environment_trains_and_evaluates(place, monkeypatch):
    monkeypatch.chdir(mini.ROOT)
    assert launch(place, "single_gpu.sh", "--config.grpo.steps=7").returncode == 0
    made, installed, trained, evaluated = called(place)
    assert made == ["python3", "-m", "venv", str(place)]
    assert installed[-2:] == ["--editable", ".[gpu]"]
    config, others = given_to(trained, monkeypatch)
    wanted = SETTINGS["single_gpu.sh"]
    assert (config.policy.path, config.episodes.path) == (wanted["MODEL"], wanted["DATA"])
    assert (config.grpo.steps, config.policy.width) == (7, 1024)
    assert evaluated[1:] == ["-m", "memalpha_jax.evaluate", f"--workdir={others['workdir']}"]


def test_one_gpu_without_a_model_begins_with_a_warm_start(place, monkeypatch):
    monkeypatch.chdir(mini.ROOT)
    tiny = {"EXPERIMENT": "experiments/tiny.py", "MODEL": "", "DATA": ""}
    assert launch(place, "single_gpu.sh", **tiny).returncode == 0
    modules = [command[2] for command in called(place) if command[1] == "-m"]
    assert modules == ["venv", "pip", "memalpha_jax.warmstart", "memalpha_jax.train", "memalpha_jax.evaluate"]
    warm, trained = called(place)[2:4]
    assert warm[3:] == trained[3:]
    assert given_to(trained, monkeypatch)[0].policy.path == ""


def test_a_tpu_slice_trains_on_all_hosts_with_rows_and_parameters_over_all_chips(place, monkeypatch):
    monkeypatch.chdir(mini.ROOT)
    assert (
        launch(place, "tpu_pod.sh", "train", "--config.grpo.steps=7", CHIPS="8", MODEL="/mnt/share/m o").returncode == 0
    )
    (ssh,) = called(place)
    assert ssh[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "memalpha"]
    assert {"--worker=all", "--project=mine", "--zone=us-east5-a"} <= set(ssh)
    remote = next(word for word in ssh if word.startswith("--command=")).partition("=")[2]
    background = re.fullmatch(
        r"cd memalpha_jax && mountpoint /mnt/share && \{ nohup (.*)>train.log 2>&1 </dev/null & \}", remote
    )
    assert background is not None
    config, _ = given_to(training(shlex.split(background[1])), monkeypatch)
    assert (config.mesh.fsdp, config.grpo.block_rows, config.grpo.steps) == (8, 8, 7)
    assert config.policy.path == "/mnt/share/m o"


def test_the_commands_for_the_hosts_of_a_slice_are_shell(place):
    for step in ("install", "train", "logs"):
        assert launch(place, "tpu_pod.sh", step).returncode == 0
    remote = [word[10:] for command in called(place) for word in command if word.startswith("--command=")]
    assert len(remote) == 3
    for command in remote:
        subprocess.run(["bash", "-n", "-c", command], check=True)


@pytest.mark.parametrize("missing", ["PROJECT", "SHARE"])
def test_a_slice_without_a_project_or_a_share_is_refused(place, missing):
    done = launch(place, "tpu_pod.sh", "create", **{missing: ""})
    assert done.returncode != 0
    assert missing in done.stderr
    assert called(place) == []


def test_an_unknown_step_is_refused(place):
    done = launch(place, "tpu_pod.sh", "crate")
    assert done.returncode == 2
    assert "'crate'" in done.stderr
    assert called(place) == []


@pytest.mark.parametrize(
    ("call", "fail_at", "last"),
    [
        (("single_gpu.sh",), "memalpha_jax.train", "memalpha_jax.train"),
        (("single_gpu.sh",), "venv", "venv"),
        (("tpu_pod.sh", "install"), "scp", "scp"),
        (("slurm.sbatch",), "memalpha_jax.train", "memalpha_jax.train"),
    ],
)
def test_scripts_stop_at_the_first_error(place, call, fail_at, last):
    done = launch(place, *call, FAIL_AT=fail_at)
    assert done.returncode == 3
    assert last in called(place)[-1]


def slurm_options() -> dict[str, str]:
    text = (LAUNCH / "slurm.sbatch").read_text()
    return dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", text, re.MULTILINE))


def test_slurm_starts_one_process_per_gpu(place, monkeypatch):
    # jax gives each process of a Slurm step the one GPU that has its number.
    options = slurm_options()
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    monkeypatch.chdir(mini.ROOT)
    done = launch(place, "slurm.sbatch", SLURM_NTASKS="32", SLURM_NTASKS_PER_NODE="8", SLURM_CPUS_PER_TASK="5")
    assert done.returncode == 0, done.stderr
    (srun,) = called(place)
    assert srun[:3] == ["srun", "--kill-on-bad-exit=1", "--cpus-per-task=5"]
    config, others = given_to(training(srun), monkeypatch)
    assert (config.mesh.fsdp, config.grpo.block_rows) == (8, 32)
    assert others == {"workdir": "runs/it is"}


def test_slurm_is_told_where_the_environment_is_missing(place):
    done = launch(place, "slurm.sbatch", VENV=str(place / "absent"))
    assert done.returncode == 1
    assert "pip install" in done.stderr
    assert called(place) == []


def test_slurm_saves_and_queues_again_before_the_time_is_over(place):
    assert slurm_options()["signal"].startswith("B:USR1@")
    assert slurm_options().keys() >= {"requeue", "open-mode"}
    env = environment(place, "slurm.sbatch", SRUN_UNTIL=str(place / "stopped"), SLURM_JOB_ID="17")
    command = ["bash", str(LAUNCH / "slurm.sbatch")]
    with subprocess.Popen(command, cwd=place, env=env, text=True, stdout=subprocess.PIPE) as job:
        try:
            wait_until(lambda: len(called(place)) == 1)
            job.send_signal(signal.SIGUSR1)
            job.communicate(timeout=30)
        finally:
            job.kill()
            (place / "stopped").touch()
    assert job.returncode == 0
    assert [" ".join(call) for call in called(place)[1:]] == ["scancel --signal=TERM 17", "scontrol requeue 17"]


def wait_until(condition) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def jobset() -> dict:
    return yaml.safe_load((LAUNCH / "jobset.yaml").read_text())


def pod_of(jobset: dict) -> dict:
    (job,) = jobset["spec"]["replicatedJobs"]
    return job["template"]["spec"]["template"]["spec"]


def test_the_jobset_asks_for_one_whole_slice(jobset):
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (job,) = jobset["spec"]["replicatedJobs"]
    spec, pod = job["template"]["spec"], pod_of(jobset)
    hosts = spec["parallelism"]
    assert (job["replicas"], spec["completions"], spec["completionMode"], spec["backoffLimit"]) == (
        1,
        hosts,
        "Indexed",
        0,
    )
    (container,) = pod["containers"]
    chips_of_a_host = container["resources"]["limits"]["google.com/tpu"]
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = math.prod(map(int, topology.split("x")))
    assert hosts * chips_of_a_host == chips
    values = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert (values["HOSTS"], values["CHIPS"]) == (str(hosts), str(chips))
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"].startswith("tpu-")


def test_the_jobset_names_a_coordinator_that_exists(jobset):
    spec = jobset["spec"]
    (job,) = spec["replicatedJobs"]
    assert spec["coordinator"] == {"replicatedJob": job["name"], "jobIndex": 0, "podIndex": 0}
    assert spec["network"] == {"enableDNSHostnames": True, "subdomain": jobset["metadata"]["name"]}
    (container,) = pod_of(jobset)["containers"]
    source = next(entry for entry in container["env"] if entry["name"] == "COORDINATOR")["valueFrom"]
    assert source == {"fieldRef": {"fieldPath": "metadata.annotations['jobset.sigs.k8s.io/coordinator']"}}
    assert {port["containerPort"] for port in container["ports"]} >= {8476}
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod_of(jobset)["volumes"]}


def test_the_jobset_starts_training_as_one_of_its_processes(jobset, place, monkeypatch):
    """Its own script is run, with stand-ins for what it calls and a checkout that is a folder."""
    (container,) = pod_of(jobset)["containers"]
    code = place / "code"
    code.mkdir()
    values = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    pod = {"COORDINATOR": "memalpha-hosts-0-0.memalpha", "JOB_COMPLETION_INDEX": "3", "CODE": str(code)}
    (script,) = container["args"]
    script = script.replace("/tmp/memalpha_jax", shlex.quote(str(place / "copy")))
    env = {**environment(place), **values, **pod}
    program, *options = container["command"]
    subprocess.run([program, *options, script], env=env, check=True, timeout=60)
    pip, python = called(place)
    assert pip == ["pip", "install", "--quiet", ".[tpu]"]
    monkeypatch.chdir(mini.ROOT)
    config, others = given_to(python, monkeypatch)
    assert others == {
        "workdir": values["WORKDIR"],
        "coordinator": "memalpha-hosts-0-0.memalpha:8476",
        "num_processes": values["HOSTS"],
        "process_id": "3",
    }
    assert (config.mesh.fsdp, config.grpo.block_rows) == (16, 16)
    assert (config.policy.path, config.episodes.path) == (values["MODEL"], values["DATA"])
    shutil.rmtree(place / "copy")
    assert subprocess.run([program, *options, script], env={**env, "FAIL_AT": "install"}, timeout=60).returncode == 3
    assert called(place)[2:] == [pip]
