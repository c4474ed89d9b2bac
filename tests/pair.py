"""Training by one process with two devices, by two with a device each, and what the two are compared by."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import mini
import numpy as np
import orbax.checkpoint as ocp

PATIENCE = 600
"""Seconds: two processes that compile at once, on a machine that may be busy with other tests."""
CHANGES: dict[str, Any] = {
    "grpo.episodes": 4,
    "grpo.block_rows": 4,
    "grpo.minibatches": 2,
    "grpo.scale": "batch",
    "mesh.fsdp": 2,
    "rewards.credit": "gain",
    "rollout.rows": 4,
}
COUNTED = """
import dataclasses, json, os, signal
from memalpha_jax import distributed, integrity, train, trainer
from memalpha_jax.command_line import define_flags
from memalpha_jax.errors import run_main
from memalpha_jax.policy import sharding
from memalpha_jax.episodes import feed

asked, drawn, scored, tokenised = [], [], [], []
class Counted(trainer.ClockedParser):
    def __call__(self, reply_NR, length_N):
        asked.append(len(length_N))
        return super().__call__(reply_NR, length_N)
trainer.ClockedParser = Counted
tokenize = feed.tokenize_episodes
def tokenize_episodes(episodes, *args, **kwargs):
    tokenised.append(len(episodes))
    return tokenize(episodes, *args, **kwargs)
feed.tokenize_episodes = tokenize_episodes
following = feed.EpisodeIterator.__next__
def next_drawn(self):
    found = following(self)
    drawn.append(found.batch.episode_index_B.tolist())
    return found
feed.EpisodeIterator.__next__ = next_drawn
score = trainer.Scorer.score
def counted(self, trajectory, episodes_N, *args):
    scored.append(len(episodes_N))
    if "TERMINATED" in os.environ:
        os.kill(os.getpid(), signal.SIGTERM)
    rewards, *others = score(self, trajectory, episodes_N, *args)
    # So young a policy is hardly ever paid; here it is for odd tokens, so that there is something to learn.
    total_NT = rewards.total_NT + rewards.chunk_mask_NT * (sharding.own_part(trajectory.reply_NTR) % 2).mean(axis=-1)
    return dataclasses.replace(rewards, total_NT=total_NT.astype("float32")), *others
trainer.Scorer.score = counted
seal, sealed = integrity.seal, []
def killed_at_the_second(*args):  # when a checkpoint is written and not yet sealed
    sealed.append(args)
    return os.kill(os.getpid(), signal.SIGKILL) if len(sealed) == 2 else seal(*args)
if "KILLED" in os.environ:
    integrity.seal = killed_at_the_second
define_flags()
distributed.define_flags()
try:
    run_main(train.main)
finally:
    print(json.dumps({"asked": asked, "drawn": drawn, "scored": scored, "tokenised": tokenised}))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start(
    workdir: Path, changes: Mapping[str, Any], devices: int, *flags: str, **variables: str
) -> mini.subprocess.Popen:
    """The command; with TERMINATED set it asks itself to end in its first step, with KILLED it dies in its second
    save.
    """
    args = [*mini.options({**CHANGES, **changes}), f"--workdir={workdir}", *flags]
    return mini.start(["-c", COUNTED], args, {"JAX_NUM_CPU_DEVICES": str(devices), **variables})


def start_two(
    workdir: Path, changes: Mapping[str, Any], *variables_of: Mapping[str, str]
) -> list[mini.subprocess.Popen]:
    """Process 0 and process 1 of a run, with environment variables for each of them."""
    flags = [f"--coordinator=localhost:{free_port()}", "--num_processes=2"]
    variables = [*variables_of, {}, {}][:2]
    return [start(workdir, changes, 1, *flags, f"--process_id={i}", **variables[i]) for i in range(2)]


def finish(*processes: mini.subprocess.Popen) -> list[mini.subprocess.CompletedProcess]:
    """Waits for all of them."""
    with ThreadPoolExecutor() as pool:  # none may wait until somebody reads what it says
        return list(pool.map(lambda process: mini.finish(process, PATIENCE), processes))


def counts(done: mini.subprocess.CompletedProcess) -> dict[str, list]:
    """How many trajectories were parsed and scored at a time, and which episodes were drawn."""
    return json.loads(mini.succeeded(done).splitlines()[-1])


def saved_state(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """The state of a checkpoint, by the path of each leaf."""
    place = workdir / "checkpoints" / str(step) / "state"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        tree = reader.metadata(place).item_metadata.tree
        numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        state = reader.restore(place, args=ocp.args.PyTreeRestore(restore_args=numpy))
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def assert_same(one: Path, two: Path, step: int) -> dict[str, np.ndarray]:
    """Asserts that two runs have saved the same bits at a step and logged the same until then; returns the state."""
    states = [saved_state(workdir, step) for workdir in (one, two)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert value.tobytes() == states[1][name].tobytes(), name
    logged = [(workdir / "metrics.jsonl").read_text().splitlines()[:step] for workdir in (one, two)]
    assert logged[0] == logged[1]
    return states[0]
