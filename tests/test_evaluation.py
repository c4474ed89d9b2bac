"""Evaluation: memories equal those of the scan rollout, scores and intervals equal what hand counts give."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_policy import MEMORY, ROLLOUT, random_policy

from memalpha_jax import comparison, evaluate
from memalpha_jax.call_statistics import call_statistics, stored_shares
from memalpha_jax.config import build, to_dict
from memalpha_jax.episodes.batch import tokenize_episodes
from memalpha_jax.episodes.episode import Episode, Question, write_episodes
from memalpha_jax.episodes.generated import WorldConfig, generate_episode, generate_episodes, sentences
from memalpha_jax.errors import UserError
from memalpha_jax.evaluation import (
    PolicyWriter,
    WrittenCall,
    WrittenMemory,
    answer_from_chunks,
    answer_from_memories,
)
from memalpha_jax.experiment import Config, EvaluationConfig
from memalpha_jax.memory.state import MemoryConfig, MemoryType, empty_memory, grow, memory_items, unstack
from memalpha_jax.report import plots, statistics, tables
from memalpha_jax.rewards.reader import ExtractiveReader
from memalpha_jax.rollout.rollout import rollout, trajectory_keys
from memalpha_jax.rollout.scripted import Demonstrator, RandomChooser, oracle, scripted_rollout
from memalpha_jax.tools.calls import CallKind, Status, empty_call_batch

SEMANTIC = MemoryType.SEMANTIC
TIGHT = dataclasses.replace(MEMORY, items=4, arena_tokens=64)
BRIEF = WorldConfig(sentences_min=2, sentences_max=3)


# A random policy writes no calls, so a parser that finds some in any reply stands in for the real one.
def eager_parser(reply_NR, length_N):
    N, R = reply_NR.shape
    calls = empty_call_batch(8, R, (N,))
    for n in np.flatnonzero(length_N):
        first = int(reply_NR[n, 0])
        for k, size in enumerate((3 + first % 9, 5)):
            calls.kind_K[n, k] = CallKind.UPDATE if (first + k) % 5 == 0 else CallKind.INSERT
            calls.memory_type_K[n, k], calls.item_id_K[n, k] = 1 + (first + k) % 2, 1 + first % 7
            calls.content_KL[n, k, :size], calls.length_K[n, k] = reply_NR[n, k : k + size], size
            calls.status_K[n, k] = Status.OK
    return calls, np.where(np.arange(R) < length_N[:, None], 0, -1).astype(np.int32)


def eager_writer(memory: MemoryConfig, batch: int = 4) -> tuple[PolicyWriter, object]:
    policy = random_policy(memory=memory, rollout=dataclasses.replace(ROLLOUT, reply_tokens=24))
    engine = dataclasses.replace(comparison.greedy_engine(policy), parser=eager_parser)
    return PolicyWriter(engine, policy.tokenizer, batch), policy.params


@pytest.fixture(scope="module")
def writer() -> PolicyWriter:
    policy = random_policy()
    return PolicyWriter(comparison.greedy_engine(policy), policy.tokenizer, 4)


def test_memories_equal_those_of_the_scan_rollout():
    writer, params = eager_writer(TIGHT)
    episodes = [generate_episode(BRIEF, "eval", i, chunks=2 + i) for i in range(3)]
    data = tokenize_episodes(episodes, writer.tokenizer, max_chunks=4, chunk_capacity=ROLLOUT.prompt_tokens)
    keys = trajectory_keys(0, 0, jnp.arange(3), jnp.zeros(3, int))
    memory = grow(empty_memory(writer.engine.memory, (3,)), 64, 2048)
    arrays = (data.chunk_BTC, data.chunk_len_BT, data.num_chunks_B)
    whole = jax.jit(lambda p, m, k, *a: rollout(writer.engine, p, m, k, *a))(params, memory, keys, *arrays)
    for written, state, calls in zip(
        writer.write(params, episodes), unstack(whole.memory), np.asarray(whole.statuses_NTK), strict=True
    ):
        expected = [(item.type, writer.tokenizer.decode(item.tokens)) for item in memory_items(state)]
        assert len(expected) > 2
        assert list(written.items) == expected
        assert [int(c.status) for chunk in written.calls for c in chunk] == [s for s in calls.flat if s >= 0]


def test_a_memory_does_not_depend_on_the_batch_it_was_written_in():
    writer, params = eager_writer(MEMORY, batch=2)
    lengths = (3, 1, 4, 2, 2)
    episodes = [generate_episode(BRIEF, "eval", i, chunks=n) for i, n in enumerate(lengths)]
    together = writer.write(params, episodes)
    assert together == [writer.write(params, [episode])[0] for episode in episodes]
    assert [len(memory.calls) for memory in together] == list(lengths)


def test_scripted_memories_equal_those_of_the_scripted_rollout(writer):
    episodes = generate_episodes(BRIEF, "eval", 3, chunks=3)
    data = tokenize_episodes(episodes, writer.tokenizer, max_chunks=3, chunk_capacity=ROLLOUT.prompt_tokens)
    chooser = RandomChooser(0.6)
    expected = scripted_rollout(writer.steps, writer.tokenizer, episodes, data, chooser, seed=0)
    for written, state in zip(writer.write_scripted(episodes, chooser), unstack(expected.memory), strict=True):
        items = [(item.type, writer.tokenizer.decode(item.tokens)) for item in memory_items(state)]
        assert list(written.items) == items


def test_oracle_answers_and_is_counted_as_a_perfect_copier(writer):
    episodes = generate_episodes(BRIEF, "eval", 6, chunks=4)
    memories = writer.write_scripted(episodes, oracle)
    scores = answer_from_memories(episodes, memories, ExtractiveReader())
    assert [len(own) for own in scores] == [len(episode.questions) for episode in episodes]
    assert np.mean([s for own in scores for s in own]) >= 0.95
    found = call_statistics(episodes, memories)
    asked = sum(line.asked for episode in episodes for chunk in sentences(episode) for line in chunk)
    assert found.calls == asked
    assert found.chunks == 24
    assert found.exact_copy_share == found.right_list_share == found.useful_share == found.success_share == 1
    assert found.near_duplicate_share == 0
    assert 0 < found.memory_share < 1


def test_an_undiscerning_writer_is_seen_to_store_chatter_in_random_lists(writer):
    episodes = generate_episodes(dataclasses.replace(BRIEF, correction_rate=0.0), "eval", 6, chunks=2)
    memories = writer.write_scripted(episodes, Demonstrator(1.0, 1.0, 0.5))
    found = call_statistics(episodes, memories)
    lines = [line for episode in episodes for chunk in sentences(episode) for line in chunk]
    assert found.useful_share == pytest.approx(sum(line.useful for line in lines) / len(lines))
    assert 0.3 < found.right_list_share < 0.7
    assert found.calls_per_chunk == pytest.approx(len(lines) / 12)
    assert {share for _, share in stored_shares(episodes, memories).values()} == {1.0}
    shares = stored_shares(episodes, writer.write_scripted(episodes, oracle))
    for kind, (n, share) in shares.items():
        own = [line for line in lines if line.kind == kind]
        assert (n, share) == (len(own), sum(line.asked for line in own) / len(own))


def test_call_statistics_of_a_case_counted_by_hand():
    episode = Episode("e", "squad", ("A red fox ran.\nIt rained.", "Nothing."), (Question("q?", "a"),))

    def call(kind, text, status=Status.OK, item_id=-1):
        return WrittenCall(kind, int(SEMANTIC), item_id, text, status)

    calls = (
        (
            call(CallKind.INSERT, "It rained."),
            call(CallKind.INSERT, "It rained.", Status.SKIPPED),
            call(CallKind.INSERT, "A red fox sat."),
        ),
        (
            call(CallKind.UPDATE, "A red fox ran!", item_id=2),
            call(CallKind.INSERT, "a red fox ran"),
            call(CallKind.DELETE, "", item_id=1),
            call(CallKind.NO_CALL, "", Status.UNKNOWN_TOOL),
        ),
    )
    items = ((SEMANTIC, "A red fox ran!"), (SEMANTIC, "a red fox ran"))
    memory = WrittenMemory("", items, tokens=10, stream_tokens=40, calls=calls, dropped=1)
    found = call_statistics([episode], [memory])
    assert (found.calls, found.chunks, found.calls_per_chunk) == (8, 2, 4.0)
    assert found.success_share == 5 / 8
    assert found.exact_copy_share == 2 / 5  # "It rained." twice; the second chunk has another text
    assert found.near_duplicate_share == 2 / 8  # the skipped one, and the fox that item 2 already is
    assert (found.update_calls, found.delete_calls) == (1, 1)
    assert found.right_list_share is None
    assert found.memory_share == 0.25


def test_retrieval_answers_from_the_two_best_chunks_only():
    chunks = ("Kelora likes tea.", "Kelora likes rice.", "Kelora likes rice. Kelora likes rice.", "Rain.")
    questions = (Question("Kelora likes what?", "tea"), Question("Rain where?", "here"))
    episode = Episode("e", "generated", chunks, questions)
    assert answer_from_chunks([episode], ExtractiveReader(), chunks=4)[0][0] == 1.0
    assert answer_from_chunks([dataclasses.replace(episode, chunks=chunks[:1])], ExtractiveReader()) == [[1.0, 0.0]]


def test_a_chunk_that_cannot_fit_is_refused_by_name():
    policy = random_policy(rollout=dataclasses.replace(random_policy().rollout, prompt_tokens=200, reply_tokens=8))
    writer = PolicyWriter(comparison.greedy_engine(policy), policy.tokenizer, 1)
    fine = Episode("small", "squad", ("word",), (Question("q?", "a"),))
    for text in ("x" * 201, "x" * 199):
        large = dataclasses.replace(fine, instance_id="large", chunks=("word", text))
        with pytest.raises(UserError, match=r"large.*chunk 2 of 2.*prompt_tokens"):
            writer.write(policy.params, [fine, large][1:])


def test_bootstrap_interval_agrees_with_the_normal_one_and_covers():
    rng = np.random.default_rng(0)
    values = rng.normal(3.0, 2.0, 400)
    found = statistics.bootstrap_mean(values, 4000)
    assert found.mean == pytest.approx(values.mean())
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)
    draws = [statistics.bootstrap_mean(rng.random(40), 400, seed=i) for i in range(200)]
    assert 0.88 < np.mean([d.low <= 0.5 <= d.high for d in draws]) <= 0.99


def test_bootstrap_of_ratios_pairs_and_independent_samples():
    one, other = np.array([1.0, 0.0, 1.0, 1.0]), np.array([0.0, 0.0, 1.0, 0.0])
    assert statistics.paired_difference(one, one).high == 0.0
    assert statistics.paired_difference(one, other).mean == 0.5
    assert statistics.bootstrap_ratio([3, 0, 0], [4, 2, 0]).mean == 0.5
    assert statistics.bootstrap_ratio([5], [10]) == statistics.Estimate(0.5, 0.5, 0.5)
    found = statistics.independent_difference(np.full(5, 2.0), np.full(9, 1.5))
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="counted"):
        statistics.bootstrap_ratio([0.0], [0.0])


def test_rows_weigh_episodes_equally_in_all_and_questions_equally_in_a_kind():
    def episode(*kinds):
        return Episode("e", "squad", ("c",), tuple(Question("q?", "a", kind) for kind in kinds))

    episodes = [episode("x", "y", "y", "y"), episode("x")]
    outcome = comparison.Outcome([[1.0, 0.0, 0.0, 1.0], [0.0]], None, 7.0)
    place = {"source": "squad", "length": "1x"}
    rows = comparison.rows_of("p", outcome, episodes, place, EvaluationConfig(bootstrap=200))
    assert [(r.kind, r.n, r.accuracy) for r in rows] == [("all", 2, 0.25), ("x", 2, 0.5), ("y", 3, 1 / 3)]
    assert all(r.ci_low <= r.accuracy <= r.ci_high for r in rows)
    assert list(dataclasses.asdict(rows[0])) == [
        "policy", "source", "kind", "length", "n", "accuracy", "ci_low", "ci_high", "memory_tokens",
    ]  # fmt: skip


def small_config(**episodes) -> Config:
    settings = {"lengths": [1, 2], "episodes": [3, 2], "batch": 4, "bootstrap": 50}
    return build(Config, {"episodes": {"chunks": 2, "world": to_dict(BRIEF), **episodes}, "evaluation": settings})


def test_comparison_has_every_policy_kind_and_length():
    results = comparison.compare({"warm_start": random_policy(0), "trained": random_policy(1)}, small_config())
    rows = [tables.Row(**row) for row in json.loads(json.dumps(results["rows"]))]
    assert {r.policy for r in rows} == set(tables.POLICIES)
    assert {r.length for r in rows} == {"1x", "2x"}
    assert {(r.length, r.n) for r in rows if r.kind == "all"} == {("1x", 3), ("2x", 2)}
    best = {(r.policy, r.length): r.accuracy for r in rows if r.kind == "all"}
    assert best["oracle", "1x"] == best["oracle", "2x"] == 1.0
    assert best["trained", "1x"] == 0.0
    calls = {(c["policy"], c["length"]): c["calls_per_chunk"] for c in results["calls"]}
    assert calls["random_chooser", "1x"] == calls["trained", "1x"] == 0.0
    lift = {(d["baseline"], d["length"]): d["difference"] for d in results["differences"]}
    assert lift["oracle", "2x"] == -1.0
    assert [d["length"] for d in results["length_losses"]] == ["2x"]
    stored = {(c["policy"], c["kind"], c["length"]): c["stored_share"] for c in results["choices"]}
    assert stored["trained", "chatter_early", "1x"] == stored["oracle", "chatter_early", "2x"] == 0.0
    markdown = tables.results_markdown(results)
    assert "chatter_early" in markdown
    assert "random_chooser" in markdown
    assert "No random_chooser" not in markdown
    png = plots.draw_curves([{"step": 1, "reward/all/total": 0.5, "eval/accuracy": None}], rows, "generated")
    assert png.startswith(b"\x89PNG")


def test_sources_without_sentence_records_have_no_scripted_writers(tmp_path):
    path = tmp_path / "episodes.jsonl"
    question = Question("Where does Ada live?", "Paris")
    episodes = [Episode(f"e{i}", "squad", ("Ada lives in Paris.", "Rain."), (question,)) for i in range(4)]
    write_episodes(path, episodes)
    config = small_config(source="jsonl", path=str(path), eval_path=str(path))
    results = comparison.compare({"trained": random_policy()}, config)
    assert {row["policy"] for row in results["rows"]} == {"trained", "bm25_rag"}
    assert {row["length"] for row in results["rows"]} == {"1x"}
    rag = [row["accuracy"] for row in results["rows"] if row["policy"] == "bm25_rag"]
    assert rag == [1.0] * len(rag)
    assert "No random_chooser and no oracle for squad" in tables.results_markdown(results)


def test_results_of_other_sources_are_kept_and_the_same_are_replaced(tmp_path):
    def results(source, value):
        return {section: [{"source": source, "v": value}] for section in comparison.SECTIONS}

    path = tmp_path / "results.json"
    assert evaluate.read_results(path) == {}
    path.write_text(json.dumps(evaluate.merge_results(results("squad", 1), results("generated", 2))))
    merged = evaluate.merge_results(evaluate.read_results(path), results("generated", 3))
    assert merged["rows"] == [{"source": "generated", "v": 3}, {"source": "squad", "v": 1}]
    for broken in ("", "[]", '{"rows": [1]}', "\xff"):
        path.write_text(broken, encoding="latin-1")
        assert evaluate.read_results(path) == {}


def test_a_workdir_without_policies_and_a_bad_name_are_refused(tmp_path):
    with pytest.raises(UserError, match="neither warm_start nor checkpoints"):
        evaluate.find_policies(tmp_path, [])
    for entry in ("x", "=x", "trained=x", "x="):
        with pytest.raises(UserError, match="NAME=PATH"):
            evaluate.find_policies(tmp_path, [entry])


def test_markdown_table_lines_up():
    table = tables.markdown_table(["a", "number"], [["long name", "1"], ["b", "22.5"]])
    assert len({len(line) for line in table.split("\n")}) == 1
    assert table.split("\n")[1] == "| --------- | -----: |"
