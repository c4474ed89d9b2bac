"""English files in their official layout go through training, evaluation and the agent with a policy of toy size."""

from __future__ import annotations

import json
import math
from pathlib import Path

import mini
import pytest

from memalpha_jax import load_policy
from memalpha_jax.episodes.episode import Episode
from memalpha_jax.episodes.sources import EpisodesConfig, load_episodes
from memalpha_jax.metrics_log import read_metrics

DATA = mini.ROOT.parent / "shared" / "data"
FILES = {"squad": DATA / "squad" / "dev-v1.1.rebuilt.json", "locomo": DATA / "locomo" / "locomo_first5.json"}


@pytest.fixture(params=FILES)
def source(request) -> str:
    if not FILES[request.param].exists():
        pytest.skip(f"there is no {FILES[request.param]}")
    return request.param


def settings(source: str, start: Path) -> dict:
    """Two steps; a prompt three times as long as the policy was made with. A LoCoMo conversation is over 100 chunks."""
    return {
        "policy.path": start,
        "episodes.source": source,
        "episodes.path": FILES[source],
        "episodes.chunk_tokens": 400,
        "rollout.prompt_tokens": 512,
        "memory.core_tokens": 24,
        "grpo.episodes": 1,
        "grpo.steps": 2,
        "evaluation.lengths": (1,),
        "evaluation.episodes": (1,),
        "run.trace_every": 1,
        "run.evaluate_every": 0,
        "run.cost_step": 0,
    }


def test_files_go_through_every_command(source, tmp_path_factory, tmp_path):
    start, workdir = mini.finished_run(tmp_path_factory), tmp_path / "run"
    changes = settings(source, start)
    mini.succeeded(mini.run("train", *mini.options(changes), f"--workdir={workdir}"))
    for line in read_metrics(workdir / "metrics.jsonl"):
        assert all(math.isfinite(value) for value in line.values()), line
        assert f"reward/{source}/r1" in line
    traces = sorted((workdir / "traces").iterdir())
    assert len(traces) == 2
    records = [json.loads(line) for path in traces for line in path.read_text().splitlines()]
    episodes = {episode.instance_id: episode for episode in train_episodes(source, workdir)}
    for record in records:
        episode = episodes[record["instance_id"]]
        asked = [question["question"] for question in record["questions"]]
        assert asked == [question.question for question in episode.questions]
        for chunk, shown in zip(episode.chunks, record["chunks"], strict=True):
            assert f"Text\n{chunk}<|im_end|>" in shown["prompt"]

    said = mini.succeeded(mini.run_here("evaluate", f"--workdir={workdir}"))
    rows = json.loads((workdir / "results.json").read_text())["rows"]
    assert {row["source"] for row in rows} == {source}
    assert {row["policy"] for row in rows} == {"warm_start", "trained", "bm25_rag"}
    assert {row["length"] for row in rows} == {"1x"}
    accuracy = {row["policy"]: row["accuracy"] for row in rows if row["kind"] == "all"}
    assert accuracy["bm25_rag"] > 0  # the reader does find answers in English text
    assert "trained accuracy" in said

    text, memory = tmp_path / "text.txt", tmp_path / "memory.json"
    text.write_text("\n\n".join(records[0]["chunks"][0]["prompt"].split("Text\n")[1:]))
    args = [f"--checkpoint={workdir}", f"--input={text}", f"--memory={memory}", f"--ask={asked[0]}"]
    said = mini.succeeded(mini.run_here("agent", *args))
    assert f"Q: {asked[0]}\nA: " in said
    assert json.loads(memory.read_text())["chunks_read"] >= 1


def train_episodes(source: str, workdir: Path) -> list[Episode]:
    """What the run was trained on, loaded as its config says."""
    stored = json.loads((workdir / "config.json").read_text())["episodes"]
    keys = ("source", "path", "eval_share", "num_train", "num_eval", "chunks", "seed", "chunk_tokens")
    tokenizer = load_policy(workdir).tokenizer
    config = EpisodesConfig(**{key: stored[key] for key in keys})
    return load_episodes(config, "train", lambda text: len(tokenizer.encode(text)))
