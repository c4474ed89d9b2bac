"""What people and machines get wrong: one clear sentence and an exit code, or a counted status; never a trace."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import time
from pathlib import Path

import jax.numpy as jnp
import mini
import numpy as np
import pytest

from memalpha_jax import MemoryAgent, load_policy
from memalpha_jax.episodes.episode import Episode, Question, write_episodes
from memalpha_jax.errors import UserError
from memalpha_jax.metrics_log import read_metrics
from memalpha_jax.policy.generate import Replies
from memalpha_jax.policy.policy import Policy
from memalpha_jax.rollout import steps as rollout_steps
from memalpha_jax.tools.calls import Status
from memalpha_jax.tools.reply import parse_replies
from memalpha_jax.tools.wire import call_frames
from memalpha_jax.trainer import Trainer
from memalpha_jax.workdir import Workdir

# The commands with less and less room on the disk: no file may grow beyond a limit once a save begins.
NO_ROOM = """
import resource
from memalpha_jax import train
from memalpha_jax.checkpoints import Checkpoints
from memalpha_jax.command_line import define_flags
from memalpha_jax.errors import run_main
save = Checkpoints.save
def save_without_room(self, step, *args):
    if step == 4:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    return save(self, step, *args)
Checkpoints.save = save_without_room
define_flags()
run_main(train.main)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return mini.finished_run(tmp_path_factory)


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture(scope="module")
def policy(finished) -> Policy:
    return load_policy(finished)


def train(workdir: Path, changes: dict | None = None, *more: str, run=mini.run):
    return run("train", *mini.options(changes), f"--workdir={workdir}", *more)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--config.grpo.lr=0.1", "unknown config key config.grpo.lr; did you mean config.grpo.optimizer.lr"),
        ("--config.grpo.steps=many", "--config.grpo.steps=many: expected a whole number"),
    ],
)
def test_mistyped_options_end_with_2(tmp_path, option, words):
    mini.refused(train(tmp_path / "run", {}, option, run=mini.run_here), words, code=2)
    assert not (tmp_path / "run").exists()


def test_values_that_cannot_be_end_with_1_and_leave_nothing(tmp_path):
    done = train(tmp_path / "run", {"grpo.minibatches": 3}, run=mini.run_here)
    mini.refused(done, "grpo.minibatches is 3", "must divide")
    assert not (tmp_path / "run").exists()


def test_a_workdir_of_another_config_is_refused(copied):
    done = train(copied, {"grpo.optimizer.lr": 0.5, "seed": 7}, run=mini.run_here)
    mini.refused(done, "made by another config, 2 keys differ", "grpo.optimizer.lr", "seed (0 there, 7 now)")


def refusal(start: Path, changes: dict) -> str:
    """Why training from `start` cannot begin, before its first step."""
    config = mini.config({"policy.path": str(start), "grpo.group": 4, "grpo.block_rows": 0, **changes})
    with pytest.raises(UserError) as error:
        Trainer(config, Workdir(start))
    return str(error.value)


def test_there_is_nothing_to_start_from(tmp_path):
    mini.refused(train(tmp_path / "run"), "no policy to start from", "python -m memalpha_jax.warmstart")


def test_a_policy_of_other_sizes_is_refused(finished):
    told = "another network: policy.width (16 there, 32 in this config)"
    assert told in refusal(finished, {"policy.width": 32})


# Files of episodes.


def record(number: int, **changes) -> str:
    question = {"question": f"Who likes tea {number}?", "answer": "Kelora"}
    whole = {"instance_id": f"e{number}", "data_source": "generated", "chunks": ["Kelora likes tea."]}
    return json.dumps({**whole, "questions": [question], **changes})


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([record(1), record(2), "{oops"], ["e.jsonl, line 3", "not valid JSON"]),
        ([record(1), record(2, chunks="no list")], ["e.jsonl, line 2", "'chunks'", "must be a list"]),
        ([record(1, questions=[])], ["e.jsonl, line 1", "'questions'", "empty"]),
        ([record(1), record(1)], ["'instance_id'", "occurs twice"]),
        ([record(1)], ["too few to keep some back"]),
        ([record(n, data_source="novel") for n in range(9)], ["no scoring rule", "'novel'"]),
        ([], ["holds no episodes"]),
        (
            [record(n, chunks=["Kelora " * 300]) for n in range(9)],
            ["chunk 1 of 1", "over the limit of", "prompt_tokens"],
        ),
    ],
)
def test_faults_in_a_file_of_episodes(finished, tmp_path, lines, words):
    file = tmp_path / "e.jsonl"
    file.write_text("\n".join(lines))
    for word in words:
        assert word in refusal(finished, {"episodes.source": "jsonl", "episodes.path": str(file)})


@pytest.mark.parametrize(
    ("source", "content", "words"),
    [
        ("squad", None, "No such file"),
        ("squad", "[1, 2]", "official layout"),
        ("locomo", '{"data": []}', "official layout"),
        ("locomo", "\udcff", "line 1: not utf-8 text"),
    ],
)
def test_files_of_another_kind(finished, tmp_path, source, content, words):
    file = tmp_path / "data.json"
    if content is not None:
        file.write_bytes(content.encode("utf-8", "surrogateescape"))
    said = refusal(finished, {"episodes.source": source, "episodes.path": str(file)})
    assert "data.json" in said
    assert words in said


def test_a_chunk_over_the_budget_is_refused_by_evaluation_too(copied, tmp_path):
    questions = (Question("Who?", "Kelora"),)
    file = tmp_path / "long.jsonl"
    write_episodes(file, [Episode(f"e{n}", "generated", ("Kelora " * 300,), questions) for n in range(4)])
    changes = {"episodes.source": "jsonl", "episodes.path": file}
    done = mini.run_here("evaluate", f"--workdir={copied}", *mini.options(changes))
    mini.refused(done, "'e", "over the limit of 176")


# Disks and checkpoints.


def test_a_full_disk_costs_one_save_and_no_run(finished, copied):
    shutil.rmtree(copied / "checkpoints")
    process = mini.start(["-c", NO_ROOM], [*mini.options({"run.cost_step": 0}), f"--workdir={copied}"])
    mini.refused(mini.finish(process), "cannot save checkpoint 4", "File too large", "earlier ones are whole")
    assert [path.name for path in (copied / "checkpoints").iterdir()] == ["2"]
    mini.succeeded(train(copied))
    assert (copied / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()


def damage(folder: Path) -> None:
    """Flips a bit in the middle of the largest file."""
    file = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_a_corrupt_newest_checkpoint_falls_back_to_the_one_before(finished, copied, tmp_path):
    damage(copied / "checkpoints" / "6")
    (tmp_path / "notes.txt").write_text("Kelora likes tea.\n")
    read = [f"--checkpoint={copied}", f"--input={tmp_path / 'notes.txt'}", f"--memory={tmp_path / 'm.json'}"]
    done = mini.run("agent", *read)
    mini.succeeded(done)
    assert "checkpoint 6" in done.stderr
    assert "is passed over: state/" in done.stderr

    done = train(copied)
    mini.succeeded(done)
    assert "is passed over" in done.stderr
    assert "continuing at step 4 of 6" in done.stderr
    assert (copied / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()


def test_when_every_checkpoint_is_corrupt_it_is_said(copied):
    for step in ("2", "4", "6"):
        damage(copied / "checkpoints" / step)
    for done in (train(copied), mini.run_here("evaluate", f"--workdir={copied}")):
        mini.refused(done, "every checkpoint in", "is damaged", "remove it to start over")


# Wrong places.


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["evaluate", "--workdir={tmp}"], "is not a workdir: it has no config.json"),
        (["evaluate", "--workdir={run}", "--also=new"], "expected NAME=PATH"),
        (["evaluate", "--workdir={tmp}/model"], "is a Hugging Face model, not the workdir of a run"),
        (["agent", "--checkpoint={tmp}", "--input={tmp}/notes.txt"], "no checkpoint in"),
        (
            ["agent", "--checkpoint={run}", "--input={tmp}/binary"],
            "binary is not a text file: byte 3 is zero",
        ),
        (["agent", "--checkpoint={run}", "--input={tmp}/notes.txt", "--memory={tmp}/binary"], "binary"),
        (
            ["agent", "--checkpoint={run}", "--input={tmp}/notes.txt", "--memory={tmp}/binary/m.json"],
            "binary/m.json: File exists",
        ),
        (
            ["warmstart", "--config=experiments/tiny.py", "--workdir={tmp}/notes.txt"],
            "is a file; give a directory",
        ),
    ],
)
def test_wrong_places(finished, tmp_path, command, words):
    (tmp_path / "notes.txt").write_text("Kelora likes tea.\n")
    (tmp_path / "binary").write_bytes(b"abc\0\xff")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "qwen3"}')
    module, *args = (part.format(tmp=tmp_path, run=finished) for part in command)
    args = (
        args if any("--memory" in arg for arg in args) or module != "agent" else [*args, f"--memory={tmp_path}/m.json"]
    )
    mini.refused(mini.run_here(module, *args), words)


# Replies that no grammar foresaw.


def garbage(kind: str, length: int, policy: Policy, rng: np.random.Generator) -> np.ndarray:
    """Tokens of a reply: anything at all, frames and control tokens only, or calls opened and never closed."""
    V, frames = policy.config.vocab_size, policy.tokenizer.encode_trusted("".join(call_frames("qwen_agent")))
    control = policy.tokenizer.encode_trusted("<|im_start|><think></think>")
    if kind == "any":
        return rng.integers(1, V, length)
    if kind == "control":
        return rng.choice([*control, *frames], length)
    return np.full(length, frames[0])


@pytest.mark.parametrize("kind", ["any", "control", "unclosed"])
def test_ten_megabytes_of_garbage_are_parsed_and_counted(policy, kind):
    rng = np.random.default_rng(0)
    ids = garbage(kind, 200_000, policy, rng)
    size = np.mean([len(policy.tokenizer.token_bytes(int(token))) for token in ids[:5000]])
    reply_NR = np.resize(ids, (1, math.ceil(1e7 / size)))
    begin = time.monotonic()
    calls, subaction_NR = parse_replies(
        reply_NR, np.array([reply_NR.shape[1]]), policy.tokenizer, "qwen_agent", max_calls=8, max_tokens=24
    )
    assert time.monotonic() - begin < 60
    assert subaction_NR.min() >= 0
    made = calls.status_K[calls.status_K != Status.NO_CALL]
    assert len(made) + int(calls.dropped.sum()) > 0
    assert calls.length_K.max() <= 24


@pytest.mark.parametrize("kind", ["any", "control", "unclosed"])
def test_the_agent_survives_any_reply(policy, kind, tmp_path, monkeypatch):
    rng, R = np.random.default_rng(1), policy.rollout.reply_tokens

    def generate(config, params, prompt_NP, length_N, key_N, active_N, sampling, layout):
        N = prompt_NP.shape[0]
        tokens_NR = jnp.asarray(np.tile(garbage(kind, R, policy, rng), (N, 1)), jnp.int32)
        length_N = jnp.where(active_N, R, 0)
        nothing_NR = jnp.zeros((N, R))
        return Replies(tokens_NR, nothing_NR, length_N, jnp.zeros(N, bool), nothing_NR, nothing_NR > 0)

    monkeypatch.setattr(rollout_steps, "generate", generate)
    fresh = dataclasses.replace(policy, path=kind)  # compiled code is kept per policy
    agent = MemoryAgent(fresh)
    results = agent.observe("Kelora likes tea.\n\n" * 20)
    assert all(isinstance(result.status, Status) for result in results)
    stored = sum(result.status.success for result in results)
    assert len(agent.notebook.notes) <= stored
    agent.save(tmp_path / "m.json")
    again = MemoryAgent(fresh)
    again.load(tmp_path / "m.json")
    assert again.memory == agent.memory


def test_training_on_garbage_stays_finite(finished, tmp_path):
    """So hot that every token is as likely as any other: frames, control tokens and broken bytes at random."""
    changes = {
        "policy.path": finished / "warm_start",
        "rollout.temperature": 1000.0,
        "grpo.steps": 2,
        "run.cost_step": 0,
    }
    mini.succeeded(train(tmp_path / "run", changes))
    for line in read_metrics(tmp_path / "run" / "metrics.jsonl"):
        assert all(math.isfinite(value) for value in line.values()), line
        assert line["update/skipped"] == 0
    assert load_policy(tmp_path / "run").step == 2
