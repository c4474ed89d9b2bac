"""The comparison of methods: writing, answering, resuming, and the table made of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memalpha_jax.episodes.episode import Episode, Question
from memalpha_jax.errors import UserError
from memalpha_jax.leaderboard import episodes, run, summary
from memalpha_jax.leaderboard.config import EpisodeChoice, LeaderboardConfig
from memalpha_jax.leaderboard.store import Store, key_of
from memalpha_jax.leaderboard.tables import results_markdown
from memalpha_jax.leaderboard.write import changes, write_episodes
from memalpha_jax.methods.bm25_rag import Bm25Rag
from memalpha_jax.methods.context import CUT_NOTE, fit, reader_query, shorten
from memalpha_jax.methods.long_context import LongContext
from memalpha_jax.methods.method import Context, Entry, Passage
from memalpha_jax.methods.registry import METHODS, check_known
from memalpha_jax.report.statistics import question_interval
from memalpha_jax.rewards.config import ReaderConfig
from memalpha_jax.rewards.make import Named
from memalpha_jax.rewards.reader import ExtractiveReader, ReaderQuery


def count(text: str) -> int:
    return len(text.split())


PLACES = ("Oslo", "Lima", "Bern", "Cairo", "Quito", "Paris")


def make_episode(n: int) -> Episode:
    people = [f"Person{n}x{i}" for i in range(4)]
    homes = [PLACES[(n + i) % len(PLACES)] for i in range(4)]
    chunks = tuple(f"{p} lives in {home}. Nothing else happened." for p, home in zip(people, homes, strict=True))
    asked = tuple(Question(f"{p} lives in which place?", h, "place") for p, h in zip(people, homes, strict=True))
    return Episode(f"e{n}", "generated", chunks, asked)


class Killed(Exception):
    pass


class CountingReader:
    """The extractive reader, which dies before answer number `limit`."""

    def __init__(self, limit: float = np.inf):
        self.inner, self.limit, self.asked = ExtractiveReader(one_value=True), limit, 0

    def answer(self, queries: list[ReaderQuery]) -> list[str]:
        self.asked += len(queries)
        if self.asked > self.limit:
            raise Killed
        return self.inner.answer(queries)


def parts(reader: CountingReader, episodes_per_source: int = 3) -> run.Parts:
    return run.Parts(
        methods={"bm25_rag": Bm25Rag(1, count), "long_context": LongContext(14, count)},
        episodes={s: [make_episode(10 * k + n) for n in range(episodes_per_source)] for k, s in enumerate("ab")},
        reader=reader,
        reader_name=Named("extractive", "the extractive reader"),
        count_tokens=count,
    )


CONFIG = LeaderboardConfig(methods=("bm25_rag",), batch=2)


def results(root: Path, reader: CountingReader, **settings) -> dict:
    made = parts(reader, **settings)
    store = Store(root)
    found = summary.summarise(run.run(CONFIG, made, store), store, count, bootstrap=200)
    names = {"reader": made.reader_name.about, "grader": made.grader_name.about}
    return {**found, **names, "about": {name: method.about for name, method in made.methods.items()}}


def test_the_table_is_what_a_loop_over_questions_gives(tmp_path):
    found = results(tmp_path, CountingReader())
    reader = ExtractiveReader(one_value=True)
    for row in found["rows"]:
        scores = []
        for n in range(3):
            episode = make_episode(n + 10 * (row["source"] == "b"))
            for question in episode.questions:
                if row["method"] == "bm25_rag":
                    shown = tuple(c for c in episode.chunks if question.question.split()[0] in c)
                else:
                    shown = episode.chunks[-2:]
                answer = reader.answer([ReaderQuery(question.question, semantic=shown, data_source="generated")])[0]
                scores.append(answer == question.answer)
        assert row["accuracy"] == pytest.approx(np.mean(scores))
        assert row["ci_low"] <= row["accuracy"] <= row["ci_high"]
    by_method = {entry["method"]: entry for entry in found["averages"]}
    assert by_method["bm25_rag"]["accuracy"] == 1.0
    assert by_method["bm25_rag"]["cells"] == 2
    assert by_method["long_context"]["accuracy"] == pytest.approx(0.5)
    markdown = results_markdown(found, [{**row, "seconds_per_chunk": 0.25} for row in found["rows"]])
    assert "100.0" in markdown
    assert "0.250" in markdown


def test_an_interrupted_run_ends_with_the_very_same_results(tmp_path):
    whole = json.dumps(results(tmp_path / "whole", CountingReader()))
    for limit in range(0, 48, 5):
        root = tmp_path / str(limit)
        with pytest.raises(Killed):
            results(root, CountingReader(limit))
        rest = CountingReader()
        assert json.dumps(results(root, rest)) == whole
        assert rest.asked <= 48 - limit + 3  # at most one batch of questions is asked again
        again = CountingReader()
        assert json.dumps(results(root, again)) == whole
        assert again.asked == 0


def test_published_budgets_cut_no_method_but_ours():
    shared, published = (
        LeaderboardConfig(budgets=name, reader=ReaderConfig(budget=7)) for name in ("shared", "published")
    )
    assert {run.budget_of(shared, name) for name in METHODS} == {7}
    assert run.budget_of(published, "memalpha") == 30_000
    assert all(run.budget_of(published, name) is None for name in METHODS if name != "memalpha")


def test_more_episodes_use_what_is_stored(tmp_path):
    few, more = CountingReader(), CountingReader()
    results(tmp_path, few, episodes_per_source=2)
    results(tmp_path, more, episodes_per_source=4)
    assert (few.asked, more.asked) == (2 * 2 * 2 * 4, 2 * 2 * 2 * 4)


def test_an_answer_cut_off_in_the_middle_of_its_line_is_asked_again(tmp_path):
    whole = json.dumps(results(tmp_path, CountingReader()))
    for path in (tmp_path / "answers").iterdir():
        path.write_bytes(path.read_bytes()[:-10])
    again = CountingReader()
    assert json.dumps(results(tmp_path, again)) == whole
    assert again.asked == 2 * 2 * 3


def test_a_damaged_record_is_named(tmp_path):
    results(tmp_path, CountingReader())
    broken = next((tmp_path / "memories").iterdir())
    broken.write_text("{")
    with pytest.raises(UserError, match=broken.name):
        results(tmp_path, CountingReader())


def test_keys_tell_contents_apart():
    one, other = make_episode(1), make_episode(2)
    assert key_of("a", one) == key_of("a", make_episode(1))
    assert len({key_of("a", one), key_of("b", one), key_of("a", other)}) == 3


ENTRIES = st.dictionaries(st.text("abc", min_size=1, max_size=2), st.text(max_size=3), max_size=6)


@given(ENTRIES, ENTRIES)
def test_changes_lead_from_one_memory_to_the_other(old, new):
    before, after = ({f"k/{i}": Entry(i, "k", text, 0) for i, text in texts.items()} for texts in (old, new))
    state = dict(old)
    for change in changes(before, after):
        assert state.pop(change["id"], "") == change["before"]
        if change["change"] != "delete":
            state[change["id"]] = change["after"]
    assert state == new


WORDS = st.lists(st.text("ab", min_size=1, max_size=3), max_size=12).map(" ".join)


@given(st.lists(WORDS, max_size=5), st.integers(1, 20))
def test_a_context_never_exceeds_the_budget(texts, budget):
    passages = tuple(Passage(text, "chunk", place=i) for i, text in enumerate(texts))
    kept = fit(Context(passages), budget, count).passages
    assert sum(count(p.text) for p in kept) <= budget
    whole = [p for p in kept if not p.text.endswith(CUT_NOTE)]
    assert tuple(whole) == passages[: len(whole)]
    if texts and count(texts[0]) > 0:
        assert kept


@given(WORDS, st.integers(1, 12))
def test_shortening_keeps_an_end_of_the_text(text, tokens):
    assert text.startswith(shorten(text, tokens, count).removesuffix(CUT_NOTE))
    assert text.endswith(shorten(text, tokens, count, keep="end"))
    assert count(shorten(text, tokens, count, keep="end")) == min(tokens, count(text))


def test_a_reader_gets_each_list_in_the_memorys_own_order():
    passages = [Passage("b", "semantic", place=2), Passage("a", "semantic", place=1), Passage("c", "core")]
    passages += [Passage("e", "episodic", place=4), Passage("x", "chunk", place=3)]
    query = reader_query(passages, "?", "squad")
    assert (query.core, query.episodic, query.semantic) == ("c", ("e",), ("a", "b", "x"))


@given(st.lists(WORDS.filter(bool), min_size=1, max_size=8), st.integers(1, 15))
def test_long_context_holds_the_end_of_the_stream(chunks, tokens):
    memory = LongContext(tokens, count).open(1)[0]
    for chunk in chunks:
        memory.write(chunk)
    kept = " ".join(entry.text for entry in memory.entries()).split()
    stream = " ".join(chunks).split()
    assert kept == stream[max(0, len(stream) - tokens) :]
    assert memory.memory_tokens == len(kept)


def test_a_record_holds_every_step_and_context():
    episode = make_episode(3)
    record = write_episodes(Bm25Rag(2, count), [episode], lambda context: context)[0]
    assert [step["changes"][0]["after"] for step in record["steps"]] == list(episode.chunks)
    for question, context in zip(episode.questions, record["contexts"], strict=True):
        passages = run.passages_of(record, context)
        assert len(passages) == 2
        assert question.question.split()[0] in passages[0].text
    assert record["memory_tokens"] == sum(map(count, episode.chunks))


def make_long(evidence: Sequence[tuple[int, ...]]) -> Episode:
    questions = tuple(Question(f"q{i}?", "a", evidence=e) for i, e in enumerate(evidence))
    return Episode("long", "squad", tuple(f"chunk {i}" for i in range(5)), questions)


def test_a_shortened_episode_keeps_the_questions_that_can_be_answered():
    short = episodes.shortened(make_long([(0,), (1, 4), (), (2,)]), 3)
    assert short is not None
    assert [q.question for q in short.questions] == ["q0?", "q3?"]
    assert len(short.chunks) == 3
    assert episodes.shortened(make_long([(4,)]), 3) is None
    whole = make_long([()])
    assert episodes.shortened(whole, 5) is whole
    assert episodes.shortened(whole, 0) is whole


def test_generated_episodes_need_no_files():
    choice = EpisodeChoice(episodes=3, chunks=2, questions=2)
    found = episodes.load("generated_totals", choice, None, count)
    assert len(found) == 3
    assert all(len(e.questions) <= 2 for e in found)


def test_the_evaluation_role_of_a_source_is_meant_unless_the_other_is_named():
    ids = {
        name: {e.instance_id for e in episodes.load(name, EpisodeChoice(episodes=2, chunks=2), None, count)}
        for name in ("generated_totals", "generated_totals:evaluation", "generated_totals:training")
    }
    assert ids["generated_totals"] == ids["generated_totals:evaluation"]
    assert not ids["generated_totals"] & ids["generated_totals:training"]


def test_an_unknown_source_is_answered_with_the_known_ones():
    with pytest.raises(UserError, match=r"squadd.*squad.*and generated") as caught:
        episodes.load("squadd", EpisodeChoice(), None, count)
    assert "banking77" in str(caught.value)


def test_question_interval_is_that_of_a_loop():
    values = [[1.0, 0.0, 1.0, None], [0.0, 0.0], [None]]
    estimate = question_interval(values, 4000)
    rng = np.random.default_rng(7)
    draws = [
        np.mean([np.mean(rng.choice([1.0, 0.0, 1.0], 3)), np.mean(rng.choice([0.0, 0.0], 2))]) for _ in range(4000)
    ]
    assert estimate is not None
    assert estimate.mean == pytest.approx(1 / 3)
    assert (estimate.low, estimate.high) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.02)
    assert question_interval([[None], []]) is None


def test_an_unknown_method_is_answered_with_the_known_ones():
    with pytest.raises(UserError, match="did you mean bm25_rag") as caught:
        check_known(["bm25_rga"])
    assert all(name in str(caught.value) for name in METHODS)
    with pytest.raises(UserError, match="at least one method"):
        LeaderboardConfig(methods=())


def test_a_reader_of_another_budget_does_not_share_results(tmp_path):
    made, store = parts(CountingReader()), Store(tmp_path)
    run.run(CONFIG, made, store)
    other = LeaderboardConfig(methods=("bm25_rag",), batch=2, reader=ReaderConfig(budget=3))
    again = parts(CountingReader())
    run.run(other, again, store)
    assert again.reader.asked == 2 * 2 * 3 * 4
