"""The commands one after another, as a person types them: warm start, training, evaluation, the agent."""

from __future__ import annotations

import json
import math
import shlex
import shutil
from pathlib import Path

import mini
import pytest

from memalpha_jax.config import build, flatten
from memalpha_jax.errors import UserError
from memalpha_jax.experiment import Config, default_config
from memalpha_jax.metrics_log import read_metrics

PRINT_CONFIG = """
import json
from memalpha_jax.command_line import define_flags, load_config_flag
from memalpha_jax.config import to_dict
from memalpha_jax.errors import run_main
from memalpha_jax.experiment import Config
define_flags()
run_main(lambda argv: print(json.dumps(to_dict(load_config_flag(Config)))))
"""
PARTS = {"part/render", "part/prefill", "part/decode", "part/apply"}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    return mini.finished_run(tmp_path_factory)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_workdir_holds_all_that_a_run_writes(workdir):
    metrics = read_metrics(workdir / "metrics.jsonl")
    assert [line["step"] for line in metrics] == list(range(1, mini.STEPS + 1))
    for line in metrics:
        assert all(math.isfinite(value) for value in line.values()), line
    assert {i + 1 for i, line in enumerate(metrics) if "eval/accuracy" in line} == {1, 3, 6}
    timings = read_metrics(workdir / "timings.jsonl")
    assert all(line.keys() >= {"rollout", "parse", "reward", "update"} for line in timings)
    assert [line["step"] for line in timings if line.keys() >= PARTS] == [mini.COST_STEP]
    assert all(line["rollout"] > 0 for line in timings)
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["2", "4", "6"]
    assert [path.name for path in (workdir / "warm_start").iterdir()] == ["6"]
    assert len(list((workdir / "tensorboard").iterdir())) == 1
    stored = build(Config, json.loads((workdir / "config.json").read_text()))
    assert stored.grpo.steps == mini.STEPS


def test_traces_show_what_was_read_said_done_and_answered(workdir):
    traces = sorted((workdir / "traces").iterdir())
    assert [path.name for path in traces] == [f"step_{step:06d}.jsonl" for step in (1, 3, 6)]
    for line in traces[-1].read_text().splitlines():
        record = json.loads(line)
        assert record["questions"]
        for chunk in record["chunks"]:
            assert "Text\n" in chunk["prompt"]
            assert chunk["prompt"].endswith("<|im_end|><|im_start|>")
            assert isinstance(chunk["reply"], str)
            assert len(chunk["statuses"]) <= mini.SETTINGS["rollout.max_calls"]
        stored = sum(status in ("ok", "truncated") for chunk in record["chunks"] for status in chunk["statuses"])
        assert len(record["items"]) <= stored


def test_a_finished_run_is_left_as_it_is(workdir, tmp_path):
    copy = shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(copy / "tensorboard")  # a fresh event file is opened before it shows that nothing is left to do
    before = contents(copy)
    assert "warm start finished" in mini.succeeded(mini.run_here("warmstart", *mini.options(), f"--workdir={copy}"))
    done = mini.run("train", *mini.options(), f"--workdir={copy}")
    assert "training finished" in mini.succeeded(done)
    assert f"continuing at step {mini.STEPS} of {mini.STEPS}" in done.stderr
    shutil.rmtree(copy / "tensorboard")
    assert contents(copy) == before


def test_evaluation_then_the_agent_on_the_example_it_leaves(workdir, tmp_path):
    copy = shutil.copytree(workdir, tmp_path / "run")
    out = mini.succeeded(mini.run("evaluate", f"--workdir={copy}"))
    results = json.loads((copy / "results.json").read_text())
    fields = {"policy", "source", "kind", "length", "n", "accuracy", "ci_low", "ci_high", "memory_tokens"}
    assert all(row.keys() == fields for row in results["rows"])
    overall = [(row["policy"], row["length"]) for row in results["rows"] if row["kind"] == "all"]
    policies = ("warm_start", "trained", "random_chooser", "oracle", "bm25_rag")
    assert sorted(overall) == sorted((name, length) for name in policies for length in ("1x", "2x"))
    for row in results["rows"]:
        assert 0 <= row["ci_low"] <= row["accuracy"] <= row["ci_high"] <= 1
    assert (copy / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (copy / "results.md").read_text() in out
    for words in ("warm start accuracy", "trained accuracy", "lift", "pictures", "try next"):
        assert f"\n{words}" in out

    # The command that evaluation proposes works as it stands.
    proposed = shlex.split(next(line for line in out.splitlines() if line.startswith("try next"))[8:])
    assert proposed[1:3] == ["-m", "memalpha_jax.agent"]
    memory = tmp_path / "memory.json"
    asked = [arg for arg in proposed if arg.startswith("--ask=")]
    said = mini.succeeded(mini.run("agent", *proposed[3:], f"--memory={memory}"))
    assert said.count("\nQ: ") == len(asked) > 0
    assert said.count("\nA: ") == len(asked)
    text = (copy / "example.txt").read_text()
    first = json.loads(memory.read_text())
    read = first["chunks_read"]
    assert read >= 1

    # Going on from the saved memory adds to it.
    more = [f"--checkpoint={copy}", f"--input={copy / 'example.txt'}", f"--memory={memory}", "--list"]
    mini.succeeded(mini.run_here("agent", *more))
    second = json.loads(memory.read_text())
    assert second["chunks_read"] == 2 * read
    assert text.strip()


@pytest.mark.parametrize("module", ["warmstart", "train", "evaluate", "agent"])
def test_help_is_the_docstring_and_the_options(module):
    out = mini.succeeded(mini.run_here(module, "--help"))
    assert f"python -m memalpha_jax.{module}" in out
    assert "Options:" in out
    assert ("--checkpoint" if module == "agent" else "--workdir") in out


def test_every_key_can_be_set_on_the_command_line():
    """One experiment turned into another, key by key."""
    wanted = flatten(default_config().to_dict())
    args = ["--config=experiments/tiny.py", *(f"--config.{key}={value}" for key, value in wanted.items())]
    said = mini.succeeded(mini.finish(mini.start(["-c", PRINT_CONFIG], [*args, "--workdir=unused"])))
    assert build(Config, json.loads(said)) == Config()


BAD_VALUES = [
    ("seed", -1, "at least 0"),
    ("seed", 1 << 40, "below"),
    ("policy.kv_heads", 3, "multiple of policy.kv_heads"),
    ("policy.head_dim", 7, "even"),
    ("policy.init", "zeros", "one of qwen3, copying"),
    ("policy.vocab_size", -9, "at least 0"),
    ("policy.lora.targets", ("q", "norm"), "may name q, k, v"),
    ("policy.dtype", "float16", "one of float32, bfloat16"),
    ("policy.yarn.factor", 0.5, "at least 1"),
    ("rollout.rows", 3, "into whole groups of 2"),
    ("grpo.optimizer.moment_dtype", "int8", "one of float32, bfloat16"),
    ("policy.rope_theta", 0.0, "above 0"),
    ("rollout.reply_tokens", 0, "at least 1"),
    ("rollout.temperature", -1.0, "at least 0"),
    ("rollout.wire", "xml", "one of qwen_agent, hermes"),
    ("grpo.grouping", "all", "one of episode, chunk, source"),
    ("grpo.objective.averaging", "mean", "one of subaction, token, sequence, constant"),
    ("grpo.optimizer.name", "sgd", "one of adamw, muon"),
    ("grpo.optimizer.lr", math.inf, "finite"),
    ("grpo.optimizer.b2", 1.0, "below 1"),
    ("grpo.minibatches", 3, "must divide"),
    ("grpo.block_rows", 3, "must divide the 4 trajectories"),
    ("grpo.logprob_slice", 7, "must divide rollout.reply_tokens"),
    ("warmstart.batch", 6, "must divide warmstart.batch"),
    ("warmstart.demonstrate.lines_min", 20, "above lines_max"),
    ("warmstart.demonstrate.rate", 1.5, "between 0 and 1"),
    ("evaluation.lengths", (), "at least 1"),
    ("evaluation.episodes", (3,), "for each of evaluation.lengths"),
    ("evaluation.episodes", (3, 0), "for each of evaluation.lengths"),
    ("run.save_every", 0, "at least 1"),
    ("memory.enabled", ("core", "notes"), "notes"),
    ("episodes.source", "nonsense", "choose one of generated, jsonl, prepared"),
    ("episodes.source", "squad", "set config.episodes.path"),
]


@pytest.mark.parametrize(("key", "value", "words"), BAD_VALUES)
def test_values_that_cannot_be_are_told_by_key(key, value, words):
    with pytest.raises(UserError) as error:
        mini.config({key: value})
    assert key.rpartition(".")[2] in str(error.value)
    assert words in str(error.value)
