"""The length study: what it measures, what it keeps, and what is made of it; with a method that needs no model."""

from __future__ import annotations

import json
import runpy
from types import SimpleNamespace

import mini
import numpy as np
import pytest

from memalpha_jax import evaluate
from memalpha_jax.config import build
from memalpha_jax.episodes.generated import WorldConfig
from memalpha_jax.errors import UserError
from memalpha_jax.leaderboard import length
from memalpha_jax.leaderboard.length import LengthConfig, Study, stream_episode
from memalpha_jax.leaderboard.length_report import draw_lengths, length_markdown, length_results, short
from memalpha_jax.leaderboard.page import read_lengths
from memalpha_jax.methods.method import Context, Entry, Passage
from memalpha_jax.rewards.reader import ExtractiveReader
from memalpha_jax.workdir import Workdir

WORLD = WorldConfig(sentences_min=4, sentences_max=6)


def count(text: str) -> int:
    return len(text.split())


class Killed(Exception):
    pass


class Remembering:
    """Keeps every chunk and hands over those that share a name with the question; dies when it has read `limit`."""

    identity = "remembering"

    def __init__(self, limit: float = np.inf):
        self.policy = SimpleNamespace(tokenizer=SimpleNamespace(encode=str.split))
        self.limit, self.read = limit, 0

    def open(self, n: int) -> list[Kept]:
        return [Kept(self) for _ in range(n)]


class Kept:
    def __init__(self, method: Remembering):
        self.method, self.chunks = method, []
        self.stream = SimpleNamespace(growth_seconds=0.0, memory_bytes=0, index_bytes=0)

    def write(self, chunk: str) -> None:
        self.method.read += 1
        if self.method.read > self.method.limit:
            raise Killed
        self.chunks.append(chunk)
        self.stream.memory_bytes += 10 * count(chunk)
        if len(self.chunks) == 1:
            self.stream.growth_seconds += 1e-9

    def read(self, question: str) -> Context:
        names = {word for word in question.split() if word[0].isupper()}
        lines = [line for chunk in self.chunks for line in chunk.split("\n") if names & set(line.split())]
        return Context(tuple(Passage(line, "semantic", place=i) for i, line in enumerate(lines)))

    def entries(self) -> list[Entry]:
        return [Entry(str(i), "semantic", chunk, i) for i, chunk in enumerate(self.chunks)]

    @property
    def memory_tokens(self) -> int:
        return sum(map(count, self.chunks))

    def close(self) -> None:
        pass


CONFIG = LengthConfig(lengths=(100, 400, 900), episodes=(3, 2, 1), reference=400, bootstrap=50, budget=200)


def study(method: Remembering) -> Study:
    return Study(CONFIG, method, WORLD, ExtractiveReader(one_value=True))


def timeless(records: list[dict]) -> list[dict]:
    clocks = {"seconds": None, "cpu_seconds": None}
    return [{**r, "episodes": [{**episode, **clocks} for episode in r["episodes"]]} for r in records]


def test_an_episode_has_about_the_tokens_asked_for():
    for tokens in (60, 1000, 5000):
        episode = stream_episode(WORLD, tokens, 3, 0, count)
        assert sum(map(count, episode.chunks)) == pytest.approx(tokens, rel=0.15, abs=30)
    assert len(stream_episode(WORLD, 1, 3, 0, count).chunks) == 1


def test_a_record_says_what_was_read_kept_and_answered(tmp_path):
    records = study(Remembering()).run(Workdir(tmp_path))
    assert [record["tokens"] for record in records] == [100, 400, 900]
    assert [len(record["episodes"]) for record in records] == [3, 2, 1]
    for record in records:
        for n, found in enumerate(record["episodes"]):
            episode = stream_episode(WORLD, record["tokens"], CONFIG.first + n, 0, count)
            assert found["chunk_tokens"] == [count(chunk) for chunk in episode.chunks]
            assert len(found["seconds"]) == len(found["cpu_seconds"]) == len(episode.chunks)
            assert found["cpu_seconds"][0] is None  # making room is not a chunk's cost
            assert found["memory_tokens"] == sum(found["chunk_tokens"])
            assert found["memory_bytes"] == 10 * found["memory_tokens"]
            asked = [(q["question"], q["gold"]) for q in found["questions"]]
            assert asked == [(q.question, q.answer) for q in episode.questions]
            assert all(q["score"] == (q["gold"].lower() in q["answer"].lower()) for q in found["questions"])
    assert any(q["score"] for q in records[0]["episodes"][0]["questions"])


def test_an_interrupted_study_goes_on_with_the_length_it_was_at(tmp_path):
    whole, method = timeless(study(Remembering()).run(Workdir(tmp_path / "whole"))), Remembering()
    chunks = {r["tokens"]: sum(len(e["chunk_tokens"]) for e in r["episodes"]) for r in whole}
    with pytest.raises(Killed):
        study(Remembering(limit=chunks[100] + chunks[400] + 2)).run(Workdir(tmp_path / "again"))
    assert timeless(study(method).run(Workdir(tmp_path / "again"))) == whole
    assert method.read == 1 + chunks[900]  # one is read so that all is compiled
    assert timeless(study(method).run(Workdir(tmp_path / "again"))) == whole
    assert method.read == 1 + chunks[900]
    other = Remembering()
    other.identity = "another policy"
    study(other).run(Workdir(tmp_path / "again"))
    assert other.read == 1 + sum(chunks.values())


def test_a_damaged_record_is_named(tmp_path):
    study(Remembering()).run(Workdir(tmp_path))
    broken = next((tmp_path / "lengths").iterdir())
    broken.write_text("{")
    with pytest.raises(UserError, match=broken.name):
        study(Remembering()).run(Workdir(tmp_path))


def make_record(tokens: int, seconds: list[list[float]], scores: list[list[float]]) -> dict:
    questions = [[{"score": s, "kind": "fact" if i else "event"} for i, s in enumerate(own)] for own in scores]
    episodes = [
        {
            "chunk_tokens": [10] * len(own),
            "seconds": own,
            "cpu_seconds": [None, *own[1:]],
            "growth_seconds": 2.0,
            "memory_tokens": 100 * (i + 1),
            "items": 7,
            "memory_bytes": 1000,
            "index_bytes": 500,
            "questions": asked,
        }
        for i, (own, asked) in enumerate(zip(seconds, questions, strict=True))
    ]
    return {"tokens": tokens, "episodes": episodes}


def test_rows_and_ratios_are_those_of_plain_means(tmp_path):
    short_record = make_record(100, [[9.0, 1.0, 1.0], [9.0, 3.0]], [[1.0, 0.0], [1.0]])
    long_record = make_record(900, [[*[1.0] * 18, 4.0, 2.0]], [[0.0, 0.0, 1.0]])
    results = length_results([short_record, long_record], 100, 50)
    first, last = results["rows"]
    assert (first["accuracy"], first["by_kind"]) == (0.75, {"event": [1.0, 2], "fact": [0.0, 1]})
    assert first["seconds"]["mean"] == pytest.approx(23 / 5)
    assert first["cpu_seconds"]["mean"] == pytest.approx(5 / 3)
    assert (first["cpu_seconds"]["last_mean"], last["seconds"]["last_mean"]) == (2.0, 3.0)
    assert first["bytes_per_token"] == pytest.approx(3000 / 300)
    assert (first["growth_seconds"], first["chunks"], first["stream_tokens"]) == (4.0, 5, 25.0)
    assert results["ratios"]["seconds"]["last_median"] == pytest.approx(3 / 2)
    assert results["ratios"]["cpu_seconds"]["median"] == pytest.approx(1 / 1)
    markdown = length_markdown(results)
    assert "900 over 100" in markdown
    assert "75.0" in markdown
    assert draw_lengths(results).startswith(b"\x89PNG")
    assert json.loads(json.dumps(results)) == results
    (tmp_path / "length.json").write_text(json.dumps(results))
    shown = read_lengths(tmp_path)
    assert [(e["length_tokens"], e["accuracy"], e["seconds_per_chunk"]) for e in shown] == [
        (row["stream_tokens"], row["accuracy"], row["seconds"]["median"]) for row in results["rows"]
    ]


def test_a_stream_of_which_nothing_is_kept_has_no_bytes_per_token():
    record = make_record(100, [[1.0, 1.0]], [[0.0]])
    record["episodes"][0]["memory_tokens"] = 0
    results = length_results([record], 100, 10)
    assert results["rows"][0]["bytes_per_token"] is None
    assert "| 100 " in length_markdown(results)


@pytest.mark.parametrize(("tokens", "text"), [(999, "999"), (1000, "1k"), (1500, "1.5k"), (10**6, "1M")])
def test_lengths_are_written_short(tokens, text):
    assert short(tokens) == text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lengths": ()}, "rising numbers"),
        ({"lengths": (4000, 1000), "episodes": (1, 1)}, "rising numbers"),
        ({"episodes": (1, 1)}, "for each of the lengths"),
        ({"reference": 17}, "none of the lengths"),
        ({"top_k": 0}, "at least 1"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        build(LengthConfig, changes)


def test_a_study_needs_a_policy(tmp_path):
    with pytest.raises(UserError, match=r"config\.policy\.path"):
        length.evaluate_lengths(length.default_config(), str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_the_experiment_is_a_length_study(monkeypatch, tmp_path):
    experiment = runpy.run_path(str(mini.ROOT / "experiments" / "eval_length.py"))
    config = build(LengthConfig, experiment["get_config"]())
    assert config.lengths[-1] == 1_000_000
    given = []
    monkeypatch.setattr(evaluate, "evaluate_lengths", lambda values, path: given.append((values, path)))
    flags = SimpleNamespace(config=experiment["get_config"](), workdir="runs/length")
    monkeypatch.setattr(evaluate, "flags", SimpleNamespace(FLAGS=flags))
    evaluate.main([])
    assert given == [(flags.config, "runs/length")]
