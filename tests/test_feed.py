"""Feeding training: what steps draw, in which mixture and order, ahead of time, and again after an interruption."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import threading
import types
from collections import Counter
from fractions import Fraction
from pathlib import Path

import grain
import mini
import numpy as np
import pytest
from absl import logging
from hypothesis import given, settings
from hypothesis import strategies as st
from qwen_folder import small_folder
from tiny_tokenizer import TinyTokenizer

from memalpha_jax import bench
from memalpha_jax.benchmarks import feed as bench_feed
from memalpha_jax.episodes import registry
from memalpha_jax.episodes.batch import tokenize_episodes
from memalpha_jax.episodes.episode import Episode, Question, episode_to_json, write_episodes
from memalpha_jax.episodes.feed import Drawn, check_lengths, make_feed
from memalpha_jax.episodes.generated import WorldConfig, generate_episodes, vocabulary_texts
from memalpha_jax.episodes.iterator import EpisodeIterator
from memalpha_jax.episodes.locomo import load_locomo
from memalpha_jax.episodes.prepared import EVAL, MANIFEST, TRAIN, to_record
from memalpha_jax.episodes.prepared_writer import write_prepared
from memalpha_jax.episodes.schedule import Head, Schedule, heads_of, parse_weights
from memalpha_jax.episodes.source import BuildOptions
from memalpha_jax.episodes.sources import EpisodesConfig, load_episodes
from memalpha_jax.episodes.squad import load_squad
from memalpha_jax.errors import UserError
from memalpha_jax.experiment import Config
from memalpha_jax.metrics_log import read_metrics
from memalpha_jax.policy.tokenizer_files import load_tokenizer
from memalpha_jax.warmstart import train_tokenizer

DATA = mini.ROOT.parent / "shared" / "data"
TOKENIZER = TinyTokenizer()


def heads(lengths=(), **sources: int) -> list[Head]:
    """Episodes of one source with these lengths, or so many of each source, of a chunk each and mixed up."""
    if not sources:
        return [Head(f"{i}", "generated", chunks) for i, chunks in enumerate(lengths)]
    names = [name for name, count in sources.items() for _ in range(count)]
    order = np.random.default_rng(0).permutation(len(names))
    return [Head(f"{i}", names[j], 1) for i, j in enumerate(order)]


def drawn(schedule: Schedule, steps: int) -> list[list[int]]:
    return [schedule[step].tolist() for step in range(steps)]


# Without weights: the stream that runs have had so far


@pytest.mark.parametrize(("episodes", "batch", "seed"), [(2048, 16, 0), (562, 32, 42), (8, 2, 0), (7, 5, 3), (3, 3, 1)])
def test_without_weights_every_pass_is_a_shuffle_without_its_incomplete_batch(episodes, batch, seed):
    """The oracle is Grain's own pipeline. 2048, 16 and seed 0 are those of the tiny run."""
    indices = grain.MapDataset.range(episodes).seed(seed).shuffle().batch(batch, drop_remainder=True).repeat()
    steps = 3 * (episodes // batch) + 2
    found = drawn(Schedule(heads([1] * episodes), batch, seed), steps)
    assert found == [indices[step].tolist() for step in range(steps)]


def test_any_step_may_be_asked_for():
    make = lambda: Schedule(heads(a=20, b=9), 4, 1, parse_weights("a=1,b=1"))
    assert make()[37].tolist() == drawn(make(), 38)[37]
    schedule = make()
    assert schedule[5].tolist() == schedule[5].tolist() == drawn(schedule, 6)[5]


# Mixing


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_sources_are_drawn_by_weight_exactly_over_a_period_and_nearly_at_any_time(weights, batch, seed):
    names = "abcde"[: len(weights)]
    every = heads(**dict.fromkeys(names, 20 * batch))
    exact = {name: Fraction(weight, 7) for name, weight in zip(names, weights, strict=True)}
    schedule, source_of = Schedule(every, batch, seed, exact), [head.source for head in every]
    total = sum(weights)
    sources = [source_of[i] for step in drawn(schedule, 2 * total) for i in step]
    for period in range(0, len(sources), total):
        assert [sources[period : period + total].count(name) for name in names] == weights
    for name, weight in zip(names, weights, strict=True):
        count_K = np.cumsum([source == name for source in sources])
        assert np.abs(count_K - np.arange(1, len(sources) + 1) * weight / total).max() < len(weights)


@pytest.mark.parametrize(("batch", "weights"), [(6, "squad=3,nlu=2,trec=1"), (4, "squad=1,nlu=1,trec=2"), (5, "nlu=1")])
def test_every_episode_of_a_source_is_met_once_a_pass_and_none_twice_in_a_batch(batch, weights):
    every = heads(squad=12, nlu=7, trec=5)
    share = {name: weight / sum(parse_weights(weights).values()) for name, weight in parse_weights(weights).items()}
    every = [head for head in every if head.source in share]
    batches = drawn(Schedule(every, batch, 0, parse_weights(weights)), 80)
    assert all(len(set(one)) == batch for one in batches)
    counts = Counter(itertools.chain.from_iterable(batches))
    assert counts.keys() == set(range(len(every)))
    for name, part in share.items():
        met = [counts[i] for i, head in enumerate(every) if head.source == name]
        assert sum(met) == 80 * batch * part
        # The incomplete rest of each pass is left out, so the counts of a few dozen passes may differ a little.
        assert max(met) - min(met) <= 0.35 * max(met), (name, met)


def test_one_at_a_time_a_source_is_gone_through_completely_before_it_starts_again():
    every = heads(a=6, b=3)
    batches = drawn(Schedule(every, 2, 5, parse_weights("a=1,b=1")), 18)
    for name, size in (("a", 6), ("b", 3)):
        own = [i for i in itertools.chain(*batches) if every[i].source == name]
        passes = [own[i : i + size] for i in range(0, len(own), size)]
        assert len(passes) == 18 // size
        assert all(len(set(one)) == size for one in passes)
        assert len(set(map(tuple, passes))) > 1  # in another order


def test_the_order_of_a_source_does_not_depend_on_what_it_is_mixed_with():
    every = heads(a=9, b=9, c=9)
    orders = []
    for weights in ("a=1,b=1,c=0", "a=1,b=0,c=1"):
        found = itertools.chain(*drawn(Schedule(every, 2, 3, parse_weights(weights)), 9))
        orders.append([i for i in found if every[i].source == "a"])
    assert orders[0] == orders[1]
    assert len(orders[0]) == 9


def test_a_weight_of_zero_leaves_a_source_out():
    every = heads(a=4, b=4)
    batches = drawn(Schedule(every, 2, 0, parse_weights("a=0.5,b=0")), 20)
    assert {every[i].source for one in batches for i in one} == {"a"}


@pytest.mark.parametrize("text", ["squad", "squad=", "=2", "squad=-1", "squad=two", "squad=1/0", "squad=1,,nlu=1"])
def test_weights_that_are_none_are_refused(text):
    with pytest.raises(UserError, match=r"expected SOURCE=NUMBER"):
        parse_weights(text)


def test_weights_are_exact_numbers_and_are_refused_where_they_cannot_be_followed():
    assert parse_weights("squad=0.1, nlu=2") == {"squad": Fraction(1, 10), "nlu": Fraction(2)}
    assert parse_weights("") == {}
    with pytest.raises(UserError, match="twice"):
        parse_weights("a=1,a=2")
    with pytest.raises(UserError, match="all 0"):
        parse_weights("a=0")
    with pytest.raises(UserError, match=r"no weight for source 'b'.*b=0"):
        Schedule(heads(a=4, b=4), 2, 0, parse_weights("a=1"))
    with pytest.raises(UserError, match=r"takes 3 episodes of source 'b'.*there are 2"):
        Schedule(heads(a=9, b=2), 4, 0, parse_weights("a=1,b=3"))
    with pytest.raises(UserError, match=r"source 'c'.*there are 0"):
        Schedule(heads(a=9), 4, 0, parse_weights("a=1,c=1"))
    with pytest.raises(UserError, match="weights"):
        EpisodesConfig(weights="squad")


# Short episodes first


def test_the_longest_episode_allowed_grows_from_the_shortest():
    lengths = [1 + i % 10 for i in range(200)]
    schedule = Schedule(heads(lengths), 8, 0, curriculum_steps=30)
    longest = [max(lengths[i] for i in one) for one in drawn(schedule, 60)]
    for step, found in enumerate(longest):
        assert found <= 1 + 9 * min(step, 30) // 30
    assert longest[0] == 1
    assert set(longest[30:]) <= {8, 9, 10}
    met = {i for one in drawn(schedule, 90) for i in one}
    assert met == set(range(200))


def test_a_curriculum_lets_in_longer_episodes_where_a_batch_would_not_be_full():
    schedule = Schedule(heads([5, 1, 9, 2, 5, 7]), 4, 0, curriculum_steps=100)
    assert set(drawn(schedule, 1)[0]) == {0, 1, 3, 4}


def test_every_source_has_its_own_shortest_and_longest():
    every = [Head(f"{i}", "ab"[i % 2], (1 if i % 2 else 20) + i // 2) for i in range(20)]
    schedule = Schedule(every, 4, 0, parse_weights("a=1,b=1"), curriculum_steps=50)
    for step, one in enumerate(drawn(schedule, 50)):
        for name, shortest in (("a", 20), ("b", 1)):
            own = [every[i].chunks for i in one if every[i].source == name]
            assert len(own) == 2
            assert max(own) <= shortest + max(1, 9 * step // 50)


# In the background, and resumed


def texts(name: str, source: str, chunks: int) -> Episode:
    return Episode(
        name, source, tuple(f"{name} has {t} things" for t in range(chunks)), (Question(f"what has {name}?", "things"),)
    )


EPISODES = [texts(f"{source}{i}", source, 1 + i % 4) for source in ("squad", "nlu", "generated") for i in range(7)]
SIZES = {"max_chunks": 4, "chunk_capacity": 40}


def mixed(curriculum_steps: int = 6) -> Schedule:
    weights = parse_weights("squad=2,nlu=1,generated=3")
    return Schedule(heads_of(EPISODES), 4, 9, weights, curriculum_steps)


def feed(schedule: Schedule, own=(0, 1, 2, 3)) -> EpisodeIterator[Drawn]:
    return make_feed(schedule, EPISODES, TOKENIZER, own_B=np.array(own), **SIZES)


def flat(one: Drawn) -> list:
    arrays = [value.tolist() for value in vars(one.batch).values()]
    return [one.index_B.tolist(), [episode.instance_id for episode in one.episodes], *arrays]


def test_what_comes_is_what_the_foreground_would_have_made():
    stream, schedule = feed(mixed()), mixed()
    for step in range(12):
        index_B = schedule[step]
        chosen = [EPISODES[i] for i in index_B]
        batch = tokenize_episodes(chosen, TOKENIZER, episode_indices=index_B, **SIZES)
        assert flat(next(stream)) == flat(Drawn(index_B, tuple(chosen), batch))
    stream.close()


@pytest.fixture(scope="module")
def states_and_steps() -> list[tuple[str, list]]:
    """The state of a stream before each of its steps, as JSON, and what the step draws."""
    whole = feed(mixed())
    found = [(json.dumps(whole.get_state()), flat(next(whole))) for _ in range(24)]
    whole.close()
    return found


@pytest.mark.parametrize("saved_after", range(16))
def test_the_stream_resumes_at_every_position(states_and_steps, saved_after):
    fresh = feed(mixed())
    next(fresh)  # with steps made ahead, which then must not come
    fresh.set_state(json.loads(states_and_steps[saved_after][0]))
    following = states_and_steps[saved_after : saved_after + 8]
    assert [flat(next(fresh)) for _ in following] == [step for _, step in following]
    fresh.close()


def test_a_longer_run_keeps_the_curriculum_that_it_began():
    began = feed(mixed(6))
    for _ in range(3):
        next(began)
    longer = feed(mixed(12))
    longer.set_state(began.get_state())
    assert [flat(next(longer)) for _ in range(9)] == [flat(next(began)) for _ in range(9)]
    assert [one.tolist() for one in (mixed(6)[2], mixed(12)[2])] != [mixed(6)[2].tolist()] * 2


def test_a_state_of_other_episodes_or_weights_is_refused():
    state = feed(mixed()).get_state()
    renamed = [dataclasses.replace(EPISODES[0], instance_id="other"), *EPISODES[1:]]
    for episodes, weights in ((EPISODES, "squad=1,nlu=1,generated=3"), (renamed, "squad=2,nlu=1,generated=3")):
        other = Schedule(heads_of(episodes), 4, 9, parse_weights(weights))
        with pytest.raises(UserError, match="cannot resume the data"):
            feed(other).set_state(state)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_every_batch_without_overlap(processes):
    shards = [feed(mixed(), own) for own in np.array_split(np.arange(4), processes)]
    whole = feed(mixed())
    for _ in range(10):
        parts, expected = [next(shard) for shard in shards], next(whole)
        assert all(part.index_B.tolist() == expected.index_B.tolist() for part in parts)
        names = [episode.instance_id for part in parts for episode in part.episodes]
        assert names == [episode.instance_id for episode in expected.episodes]
        chunks = np.concatenate([part.batch.chunk_BTC for part in parts])
        np.testing.assert_array_equal(chunks, expected.batch.chunk_BTC)
        assert {len(part.episodes) for part in parts} == {4 // processes}
    for stream in (*shards, whole):
        stream.close()


def test_the_following_steps_are_made_while_this_one_is_at_work():
    made, main = {step: threading.Event() for step in range(10)}, threading.get_ident()
    schedule = Schedule(heads([1] * 10), 1, 0)
    order = {schedule[step].item(): step for step in range(10)}

    def make(index_B):
        assert threading.get_ident() != main
        made[order[index_B.item()]].set()
        return index_B

    stream = EpisodeIterator(schedule, make)
    next(stream)
    assert made[1].wait(60)
    assert made[2].wait(60)
    assert not made[5].is_set()  # but not all at once
    stream.close()


def test_an_error_comes_with_its_own_step():
    schedule = Schedule(heads([1] * 10), 1, 0)

    def make(index_B):
        if index_B == schedule[3]:
            raise UserError("episode three")
        return index_B

    stream = EpisodeIterator(schedule, make)
    assert [next(stream).item() for _ in range(3)] == [schedule[step].item() for step in range(3)]
    with pytest.raises(UserError, match="episode three"):
        next(stream)
    stream.close()


def test_an_episode_that_does_not_fit_is_told_before_the_first_step():
    check_lengths(EPISODES, TOKENIZER, range(21), **SIZES)
    with pytest.raises(UserError, match=r"'squad3': chunk 1 of 4 has 19 tokens, over the limit of 18"):
        check_lengths(EPISODES, TOKENIZER, range(3, 21, 4), max_chunks=4, chunk_capacity=18)
    with pytest.raises(UserError, match=r"'squad3' has 4 chunks"):
        check_lengths(EPISODES, TOKENIZER, range(3, 21), max_chunks=3, chunk_capacity=40)


# Where the episodes come from


def prepared(folder: Path, **splits: list[Episode]) -> Path:
    """A folder as `memalpha_jax.prepare` builds it, of these episodes."""
    rows = {
        split: [(episode.instance_id, to_record(episode, [len(chunk) for chunk in episode.chunks])) for episode in own]
        for split, own in splits.items()
    }
    write_prepared(folder, rows, shard_mb=1)
    (folder / MANIFEST).write_text(json.dumps({"episodes": {split: len(own) for split, own in rows.items()}}))
    return folder


def test_prepared_episodes_are_a_source(tmp_path):
    folder = prepared(tmp_path / "made", **{TRAIN: EPISODES[2:], EVAL: EPISODES[:2]})
    config = EpisodesConfig("prepared", str(folder), num_eval=1)
    train, held_out = (load_episodes(config, split, len) for split in ("train", "eval"))
    by_name = {episode.instance_id: episode for episode in EPISODES}
    assert len(train) == 19
    assert {episode.instance_id for episode in train} == {episode.instance_id for episode in EPISODES[2:]}
    assert all(by_name[episode.instance_id] == episode for episode in [*train, *held_out])
    assert [len(train[3:]), len(train[:0]), len(held_out)] == [16, 0, 1]
    second = load_episodes(config, "eval", len, first=1)
    assert {episode.instance_id for episode in [*held_out, *second]} == {"squad0", "squad1"}
    few = load_episodes(dataclasses.replace(config, num_train=5), "train", len)
    assert list(few) == list(train)[:5]
    with pytest.raises(IndexError):
        few[5]
    with pytest.raises(UserError, match="has its own eval split"):
        dataclasses.replace(config, eval_path="elsewhere")
    with pytest.raises(UserError, match="number 2 on"):
        load_episodes(config, "eval", len, first=2)
    with pytest.raises(UserError, match="holds no prepared episodes"):
        load_episodes(EpisodesConfig("prepared", str(tmp_path)), "train", len)


def conversation(name: str) -> dict:
    turns = [{"speaker": "Ann", "dia_id": f"D1:{i}", "text": f"{name} bought {i} cups."} for i in range(6)]
    asked = {"question": f"How many cups has {name}?", "answer": "4", "category": 4, "evidence": ["D1:4"]}
    return {
        "sample_id": name,
        "conversation": {"session_1": turns, "session_1_date_time": "1 May 2023"},
        "qa": [asked],
    }


@pytest.mark.parametrize("place", ["file", "folder"])
def test_every_registered_source_is_a_source(tmp_path, place):
    path = tmp_path / "locomo10.json"
    path.write_text(json.dumps([conversation(f"Ann{i}") for i in range(5)]))
    config = EpisodesConfig("locomo", str(path if place == "file" else tmp_path), chunk_tokens=60, eval_share=0.4)
    found = [*load_episodes(config, "train", len), *load_episodes(config, "eval", len)]
    expected = load_locomo(path, chunk_tokens=60, count_tokens=len)
    assert sorted(episode.instance_id for episode in found) == [f"Ann{i}" for i in range(5)]
    assert sorted(map(json.dumps, map(episode_to_json, found))) == sorted(
        map(json.dumps, map(episode_to_json, expected))
    )


def test_a_source_of_several_files_asks_for_their_folder(tmp_path):
    path = tmp_path / "train.label"
    path.write_text("")
    with pytest.raises(UserError, match=r"not a folder.*trec_coarse.*train, test"):
        load_episodes(EpisodesConfig("trec_coarse", str(path)), "train", len)
    with pytest.raises(UserError, match=r"'wiki' is unknown.*generated, jsonl, prepared.*squad"):
        EpisodesConfig("wiki", str(path))


def test_reading_in_threads_leaves_the_log_as_it_is(tmp_path):
    """Were it quietened around every read, threads would restore what they found when others had quietened it."""
    folder = prepared(tmp_path / "made", **{TRAIN: EPISODES})
    episodes = load_episodes(EpisodesConfig("prepared", str(folder)), "train", len)
    before, seen = logging.get_verbosity(), set()
    logging.set_verbosity(logging.INFO)
    try:
        stream = make_feed(Schedule(heads_of(episodes), 1, 0), episodes, TOKENIZER, own_B=np.arange(1), **SIZES)
        for _ in range(60):
            next(stream)
            seen.add(logging.get_verbosity())
        stream.close()
    finally:
        logging.set_verbosity(before)
    assert seen == {logging.INFO}


# How fast it is


def test_the_benchmark_counts_the_tokens_of_one_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_feed, "EPISODES", 5)
    folder = small_folder(tmp_path / "tokenizer", vocabulary_texts(), 300)
    data = prepared(tmp_path / "made", **{TRAIN: EPISODES[:4]})
    device = types.SimpleNamespace(sample=lambda: None)
    result = bench_feed.bench_feed(bench_feed.FeedSettings(4, 2, str(folder), str(data)), device, 2)
    own, other = result.measured
    tiny = train_tokenizer(Config())
    generated = generate_episodes(WorldConfig(), "train", 5, chunks=2)
    met = Schedule(heads_of(generated), 4, 0)[0]  # a pass of five has one batch of four
    assert own.work.tokens == sum(len(tiny.encode(chunk)) for i in met for chunk in generated[i].chunks)
    theirs = load_tokenizer(folder)
    assert other.work.tokens == sum(len(theirs.encode(chunk)) for one in EPISODES[:4] for chunk in one.chunks)
    assert (own.part, other.part) == ("tiny tokenizer, generated", "tokenizer, prepared")
    assert own.timing.min > 0
    assert result.checks["tiny tokenizer, generated, tokens per second of processor time"] > 0


@pytest.mark.parametrize(
    ("command", "options", "words"),
    [
        ("feed", {"data": "x"}, "tokenizer of --tokenizer"),
        ("step", {"tokenizer": "x"}, "are for feed"),
        ("feed", {"peer": "hf"}, "no such feed"),
    ],
)
def test_options_of_the_benchmark_that_do_nothing_are_refused(command, options, words):
    with pytest.raises(UserError, match=words):
        bench.check(command, bench.Options(**options))


# A run on a mixture

CHUNK_TOKENS = 300
COMMAND = """
import json, os, signal
from memalpha_jax import train
from memalpha_jax.command_line import define_flags
from memalpha_jax.episodes.iterator import EpisodeIterator
from memalpha_jax.errors import run_main

following, log = EpisodeIterator.__next__, train.log_step

def next_drawn(self):
    found = following(self)
    tokens = found.batch.chunk_BTC.sum(axis=(1, 2)).tolist()
    with open(os.environ["DRAWN"], "a") as file:
        print(json.dumps([[episode.instance_id for episode in found.episodes], tokens]), file=file)
    return found

def log_step(step, *args):
    log(step, *args)
    if step == int(os.environ["DIES_AT"]):
        os.kill(os.getpid(), signal.SIGKILL)

EpisodeIterator.__next__, train.log_step = next_drawn, log_step
define_flags()
run_main(train.main)
"""


@functools.cache
def three_sources() -> list[Episode]:
    """Real ones where they are at hand, else invented ones of the same names."""
    tokenizer = train_tokenizer(mini.config())
    count = lambda text: len(tokenizer.encode(text))
    squad, locomo = DATA / "squad" / "dev-v1.1.rebuilt.json", DATA / "locomo" / "locomo_first5.json"
    if not (squad.exists() and locomo.exists() and (DATA / "trec").exists()):
        return [
            texts(f"{source}{i}", source, 1 + i % 2) for source in ("squad", "locomo", "trec_coarse") for i in range(5)
        ]
    sizes = {"chunk_tokens": CHUNK_TOKENS, "count_tokens": count}
    (trec,) = registry.select(["trec_coarse:training"])
    options = BuildOptions(count, chunk_tokens=CHUNK_TOKENS, chunks=2)
    return [
        *load_squad(squad, chunks_per_episode=2, seed=0, **sizes)[:5],
        *(dataclasses.replace(one, chunks=one.chunks[:2]) for one in map(asked_of_two, load_locomo(locomo, **sizes))),
        *itertools.islice(trec.load(registry.find_files(trec, DATA), options), 5),
    ]


def asked_of_two(episode: Episode) -> Episode:
    """A conversation with the questions about its first two chunks; no evidence is none."""
    return dataclasses.replace(
        episode,
        questions=tuple(q for q in episode.questions if max(q.evidence, default=9) < 2) or episode.questions[:1],
    )


def run(workdir: Path, dies_at: int, changes: dict) -> tuple[int, list]:
    """Trains, and returns the exit code and what this start drew."""
    log = workdir.with_name(f"{workdir.name}.{dies_at}.drawn")
    args = [*mini.options(changes), f"--workdir={workdir}"]
    done = mini.finish(mini.start(["-c", COMMAND], args, {"DRAWN": str(log), "DIES_AT": str(dies_at)}))
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done.returncode, [json.loads(line) for line in log.read_text().splitlines()]


def test_a_mixture_killed_and_resumed_sees_the_episodes_of_an_uninterrupted_run(tmp_path, tmp_path_factory):
    world = generate_episodes(WorldConfig(), "train", 6, chunks=2)
    train = [dataclasses.replace(e, questions=e.questions[:3]) for e in [*three_sources(), *world]]
    held_out = generate_episodes(WorldConfig(), "eval", 2, chunks=2)
    folder = prepared(tmp_path / "made", **{TRAIN: train, EVAL: held_out})
    changes = {
        "policy.path": mini.finished_run(tmp_path_factory) / "warm_start",
        "episodes.source": "prepared",
        "episodes.path": folder,
        "episodes.weights": "squad=1,locomo=1,trec_coarse=1,generated=3",
        "episodes.curriculum": 0.5,
        "rollout.prompt_tokens": 512,
        "memory.core_tokens": 24,
        "grpo.episodes": 3,
        "grpo.block_rows": 0,
        "run.trace_every": 0,
        "run.evaluate_every": 0,
        "run.cost_step": 0,
    }
    code, expected = run(tmp_path / "alone", 0, changes)
    assert code == 0
    assert len(expected) == mini.STEPS
    source_of = {episode.instance_id: episode.data_source for episode in train}
    met = Counter(source_of[name] for names, _ in expected for name in names)
    assert met == {"squad": 3, "locomo": 3, "trec_coarse": 3, "generated": 9}

    code, before = run(tmp_path / "killed", 3, changes)
    assert code == -9
    assert before == expected[:3]
    code, after = run(tmp_path / "killed", 0, changes)
    assert code == 0
    assert len(after) in (4, 6)  # step 3 was not saved, and step 2 perhaps not yet when the run died
    assert after == expected[-len(after) :]
    metrics = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("alone", "killed")]
    assert metrics[0] == metrics[1]
    assert len(read_metrics(tmp_path / "alone" / "metrics.jsonl")) == mini.STEPS


def test_weights_that_miss_a_source_are_told_by_the_command(tmp_path, tmp_path_factory):
    path = tmp_path / "episodes.jsonl"
    write_episodes(path, EPISODES)
    changes = {
        "policy.path": mini.finished_run(tmp_path_factory) / "warm_start",
        "episodes.source": "jsonl",
        "episodes.path": path,
        "episodes.weights": "squad=2,nlu=1",
    }
    done = mini.run("train", *mini.options(changes), f"--workdir={tmp_path / 'run'}")
    mini.refused(done, "no weight for source", "generated=0")
