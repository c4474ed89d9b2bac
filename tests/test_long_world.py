"""The long world: what it asks is answered by a replay of its text, and a perfect writer answers everything."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import time
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_policy import SIZES
from tiny_tokenizer import TinyTokenizer

from memalpha_jax.episodes import names
from memalpha_jax.episodes.batch import tokenize_episodes
from memalpha_jax.episodes.episode import Episode, episode_from_json, episode_to_json
from memalpha_jax.episodes.generated import sentences
from memalpha_jax.episodes.long_world import (
    COMPETENCE_OF,
    KINDS,
    LENGTHS,
    SOURCES,
    LongWorldConfig,
    generate_long_episode,
)
from memalpha_jax.episodes.source import COMPETENCES, TRAINING, BuildOptions
from memalpha_jax.errors import UserError
from memalpha_jax.memory.state import MemoryConfig, MemoryItem, MemoryType, memory_items, unstack
from memalpha_jax.memory.template import DEFAULT_ITEM_FORMAT
from memalpha_jax.rewards.metrics import score
from memalpha_jax.rewards.reader import ExtractiveReader, ReaderQuery
from memalpha_jax.rewards.scoring import reader_queries
from memalpha_jax.rollout.engine import make_engine
from memalpha_jax.rollout.rollout import RolloutConfig
from memalpha_jax.rollout.scripted import View, oracle, scripted_rollout
from memalpha_jax.rollout.steps import Steps
from memalpha_jax.tools.calls import Status
from memalpha_jax.tools.wire import call_frames

CONFIG = LongWorldConfig()
LISTS = {"episodic_memory": MemoryType.EPISODIC, "semantic_memory": MemoryType.SEMANTIC}


def quarter(text: str) -> int:
    """A token for every four characters begun."""
    return -(-len(text) // 4)


def make(kind, split="eval", index=0, *, config=CONFIG, tokens=4000, chunk_tokens=300, seed=0):
    sizes = {"tokens": tokens, "chunk_tokens": chunk_tokens, "count_tokens": quarter}
    return generate_long_episode(config, kind, split, index, seed=seed, **sizes)


# --- an independent reading of the text ---

WHO = r"([A-Z][a-z]+ [A-Z][a-z]+)"
DATE = r"(\d+ [A-Z][a-z]+ \d{4})"
FACT = re.compile(rf"{WHO} (lives in|works as a|likes|plays the|studies) (\w+)(?: now)?\.$")
OWNS = re.compile(rf"{WHO} owns the ([a-z]+ [a-z]+ [a-z]+)\.$")
TEACHES = re.compile(rf"{WHO} is the teacher of {WHO}\.$")
MEETS = re.compile(rf"(?:On {DATE} )?{WHO} ([a-z]+) {WHO}(?: on {DATE})?\.$")
CHANGE = re.compile(rf"{WHO} ([a-z]+) (\d+) ([a-z]+) in [A-Z][a-z]+\.$")
STOP = re.compile(rf"On {DATE} {WHO} [a-z]+ the ([a-z]+ [a-z]+ [a-z]+) in ([A-Z][a-z]+)\.$")
SAMPLE = re.compile(rf"Sample: the ([a-z]+) ([a-z]+) of {WHO} from ([A-Z][a-z]+) Label: (\d)$")
LOSSES = {"lost", "sold", "spent", "lent", "dropped", "donated"}


class Replay:
    """Believes every line in turn; of each thing it knows the chunks that it is known from."""

    def __init__(self, episode: Episode) -> None:
        self.facts, self.owners, self.teachers, self.events = {}, {}, {}, {}
        self.totals, self.stops, self.samples, self.talk = defaultdict(list), defaultdict(list), [], []
        for t, chunk in enumerate(episode.chunks):
            for line in chunk.split("\n"):
                self.read(line, t)

    def read(self, line: str, t: int) -> None:
        if m := SAMPLE.match(line):
            self.samples.append((m.groups()[:4], int(m[5]), t))
        elif m := STOP.match(line):
            self.stops[m[2]].append((m[4], m[3], t))
        elif m := CHANGE.search(line):
            self.totals[m[1], m[4]].append((int(m[3]) * (-1 if m[2] in LOSSES else 1), t))
        elif m := FACT.search(line):
            self.facts[m[1], m[2]] = (m[3], t)
        elif m := OWNS.search(line):
            assert m[2] not in self.owners
            self.owners[m[2]] = (m[1], t)
        elif m := TEACHES.search(line):
            assert m[2] not in self.teachers
            self.teachers[m[2]] = (m[1], t)
        elif (m := MEETS.match(line)) and (m[1] or m[5]):
            assert (m[2], m[3], m[4]) not in self.events
            self.events[m[2], m[3], m[4]] = (m[1] or m[5], t)
        else:
            self.talk.append(line)

    def who(self, described: str) -> tuple[str, list[int]]:
        for opening, known in (("owner of the", self.owners), ("teacher of", self.teachers)):
            if m := re.fullmatch(f"[Tt]he {opening} (.*)", described):
                inner, chunks = (m[1], []) if known is self.owners else self.who(m[1])
                person, t = known[inner]
                return person, [*chunks, t]
        return described, []

    def answer(self, question: str) -> tuple[object, set[int]]:
        if m := re.fullmatch(rf"{WHO} ([a-z]+) {WHO} when\?", question):
            day, t = self.events[m.groups()]
            return day, {t}
        if m := re.fullmatch(rf"How many ([a-z]+) does {WHO} have in all\?", question):
            changes = self.totals[m[2], m[1]]
            assert min(np.cumsum([amount for amount, _ in changes])) >= 0
            return str(sum(amount for amount, _ in changes)), {t for _, t in changes}
        if m := re.fullmatch(rf"Summarise the journey of {WHO}, with its towns and things\.", question):
            stops = self.stops[m[1]]
            return tuple(word for town, thing, _ in stops for word in (town, thing)), {t for *_, t in stops}
        if m := SAMPLE.match(question.replace("?", "0")):
            (place,) = self.deciding()
            assert m.groups()[:4] not in [features for features, *_ in self.samples]
            own = [(label, t) for features, label, t in self.samples if features[place] == m[place + 1]]
            assert len(own) > 1
            return f"\\boxed{{{own[0][0]}}}", {t for _, t in own}
        m = re.fullmatch(r"(.*) (lives in|works as a|likes|plays the|studies) (?:what|which \w+)\?", question)
        person, chunks = self.who(m[1])
        value, t = self.facts[person, m[2]]
        return value, {*chunks, t}

    def deciding(self) -> list[int]:
        """The features of which the label is a function."""
        found = []
        for place in range(4):
            labels = defaultdict(set)
            for features, label, _ in self.samples:
                labels[features[place]].add(label)
            found += [place] if all(len(own) == 1 for own in labels.values()) else []
        return found


rate = st.floats(0, 0.9)
CONFIGS = st.builds(
    LongWorldConfig,
    noise_share=st.floats(0, 0.7),
    questions=st.integers(1, 100),
    facts_per_person=st.floats(1, 8),
    hop_weights=st.sampled_from([(1.0,), (0.0, 1.0), (0.2, 0.3, 0.5), (0.0, 0.0, 0.0, 1.0)]),
    event_share=rate,
    revised_share=st.floats(0.1, 1),
    revisions=st.sampled_from([(1, 1), (1, 3), (4, 6)]),
    marked_share=st.floats(0, 1),
    rules=st.integers(4, 8),
    labels=st.integers(2, 4),
    stops=st.sampled_from([(1, 1), (2, 8)]),
    changes=st.sampled_from([(1, 1), (2, 9)]),
    loss_share=st.floats(0, 1),
)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(KINDS), st.sampled_from(names.SPLITS), CONFIGS, st.integers(2500, 9000), st.integers(0, 10**6))
def test_gold_and_evidence_are_what_a_replay_of_the_text_finds(kind, split, config, tokens, seed):
    episode = make(kind, split, config=config, tokens=tokens, chunk_tokens=tokens // 6, seed=seed)
    assert episode == make(kind, split, config=config, tokens=tokens, chunk_tokens=tokens // 6, seed=seed)
    assert episode_from_json(json.loads(json.dumps(episode_to_json(episode))), "here") == episode
    replay = Replay(episode)
    assert 1 <= len(episode.questions) <= config.questions
    assert len({question.question for question in episode.questions}) == len(episode.questions)
    for question in episode.questions:
        answer, chunks = replay.answer(question.question)
        assert answer == question.answer
        assert tuple(sorted(chunks)) == question.evidence
    assert max(map(quarter, episode.chunks)) <= tokens // 6
    assert 0.8 * tokens < quarter("\n".join(episode.chunks)) <= tokens
    assert np.mean(perfect_scores(episode)) == 1.0


def perfect_scores(episode: Episode) -> list[float]:
    """Of the oracle's memory, kept as a list in Python, under the extractive reader."""
    items: list[list] = []
    lines = sentences(episode)
    for t in range(len(episode.chunks)):
        shown = [(MemoryItem(i, kind, (), 0, 0), text) for i, (kind, text) in enumerate(items, 1)]
        for name, arguments in oracle(View(lines[t], shown, "", DEFAULT_ITEM_FORMAT, lines), np.random.default_rng(0)):
            kind = LISTS[arguments["memory_type"]]
            if name == "memory_update":
                item = items[int(arguments["memory_id"]) - 1]
                assert item[0] == kind
                item[1] = arguments["new_content"]
            else:
                assert [kind, arguments["content"]] not in items  # an equal item would be skipped
                items.append([kind, arguments["content"]])
    return scores_of(episode, items)


def scores_of(episode: Episode, items) -> list[float]:
    texts = [tuple(text for kind, text in items if kind == wanted) for wanted in LISTS.values()]
    queries = [ReaderQuery(q.question, "", *texts, episode.data_source) for q in episode.questions]
    answers = ExtractiveReader().answer(queries)
    return [score(episode.data_source, a, q.answer) for a, q in zip(answers, episode.questions, strict=True)]


@pytest.mark.parametrize("tokens", [1_000, 16_000, 64_000])
@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_writer_scores_1(kind, tokens):
    for split in names.SPLITS:
        episode = make(kind, split, 3, tokens=tokens, chunk_tokens=min(2048, tokens // 4))
        assert 0.9 * tokens < quarter("\n".join(episode.chunks)) <= tokens
        assert perfect_scores(episode) == [1.0] * len(episode.questions)
        assert scores_of(episode, []) == [0.0] * len(episode.questions)


@pytest.mark.parametrize("kind", KINDS)
def test_storing_every_line_is_not_enough(kind):
    """Copying answers what one line says. A sample like the one asked about often, but not always, has its label."""
    by_kind = defaultdict(list)
    for episode in (make(kind, index=i, tokens=8000) for i in range(4)):
        lines = [[MemoryType.SEMANTIC, line] for chunk in episode.chunks for line in chunk.split("\n")]
        for question, value in zip(episode.questions, scores_of(episode, lines), strict=True):
            by_kind[question.kind].append(value)
    for name, values in by_kind.items():
        if name in ("hops_1", "event"):
            assert np.mean(values) == 1
        else:
            assert np.mean(values) < (0.95 if name == "rule" else 0.2), name


@functools.cache
def engine_steps() -> tuple[TinyTokenizer, Steps]:
    tokenizer = TinyTokenizer(call_frames("qwen_agent"))
    memory = MemoryConfig(core_tokens=4, items=60, arena_tokens=9000, shown_items=1)
    rollout = RolloutConfig(prompt_tokens=2600, reply_tokens=3000, max_calls=32, template="compact")
    return tokenizer, Steps(make_engine(dataclasses.replace(SIZES, vocab_size=0), memory, rollout, tokenizer))


def test_the_oracle_of_a_scripted_rollout_is_perfect_too():
    tokenizer, steps = engine_steps()
    config = LongWorldConfig(questions=6)
    episodes = [make(kind, config=config, tokens=1500, chunk_tokens=300) for kind in KINDS]
    episodes = [episode for episode in episodes if len(episode.chunks) <= 6]
    batch = tokenize_episodes(
        episodes, tokenizer, episode_indices=np.arange(len(episodes)), max_chunks=6, chunk_capacity=1300
    )
    found = scripted_rollout(steps, tokenizer, episodes, batch, oracle, seed=0)
    made = found.calls.status_K != Status.NO_CALL
    assert set(found.statuses_NTK[made]) == {Status.OK}
    assert len(episodes) > 3
    for episode, memory in zip(episodes, unstack(found.memory), strict=True):
        assert len(memory_items(memory)) <= len(episode.questions)
        answers = ExtractiveReader().answer(reader_queries(episode.questions, episode.data_source, memory, tokenizer))
        golds = [question.answer for question in episode.questions]
        assert [score(episode.data_source, *pair) for pair in zip(answers, golds, strict=True)] == [1.0] * len(golds)


# --- properties of the text ---


@pytest.mark.parametrize("kind", KINDS)
def test_the_share_of_noise_is_that_of_the_tokens(kind):
    for share in (0.0, 0.3, 0.8):
        episode = make(kind, config=LongWorldConfig(noise_share=share), tokens=20_000)
        talk = sum(quarter(f"{line}\n") for line in Replay(episode).talk)
        assert abs(talk / 20_000 - share) < 0.05
        if share == 0:
            assert talk == 0


@pytest.mark.parametrize("kind", KINDS)
def test_splits_share_no_name(kind):
    for split, other in (("train", "eval"), ("eval", "train")):
        kinds = ("person", "family", "place", "thing")
        forbidden = {name.lower() for k in kinds for name in names.names(k, other)}
        episode = make(kind, split, tokens=12_000)
        shown = [*episode.chunks, *(f"{q.question} {q.answer}" for q in episode.questions)]
        assert not forbidden & set(re.findall(r"\w+", " ".join(shown).lower()))


def test_names_are_different_words():
    first, last = names.syllables("family")
    assert len(first) == len(set(first)) == len(last) == len(set(last)) == 48
    lists = [names.names(kind, split) for kind in ("person", "family", "place", "thing") for split in names.SPLITS]
    words = [name.lower() for own in lists for name in set(own)]
    assert len(set(words)) == len(words)
    assert all(len(set(own)) == len(own) for own in lists)


def test_episodes_depend_on_every_argument():
    made = [
        make("totals"),
        make("totals", "train"),
        make("totals", index=1),
        make("totals", seed=1),
        make("totals", tokens=4100),
        make("totals", config=LongWorldConfig(noise_share=0.4)),
    ]
    assert len({episode.chunks for episode in made}) == len(made)
    assert len({episode.instance_id for episode in made}) == len(made) - 1  # the configuration has no name


def test_a_million_tokens_take_less_than_a_minute_and_no_name_runs_out():
    start = time.process_time()
    episode = make("conflict", config=LongWorldConfig(noise_share=0, questions=100), tokens=10**6, chunk_tokens=2048)
    assert time.process_time() - start < 60
    assert quarter("\n".join(episode.chunks)) > 0.95 * 10**6
    assert len(episode.questions) == 100
    assert perfect_scores(episode) == [1.0] * 100


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("noise_share", 1.0), ("noise_share", -0.1), ("questions", 0), ("questions", 101), ("facts_per_person", 0.5),
        ("hop_weights", ()), ("hop_weights", (0.0, 0.0)), ("revised_share", 0.0), ("revisions", (2, 1)),
        ("stops", (0, 2)), ("labels", 1), ("rules", 2), ("event_share", 1.0),
    ],
)  # fmt: skip
def test_an_impossible_world_is_refused_by_name(field, value):
    with pytest.raises(UserError, match=field):
        LongWorldConfig(**{field: value})


@pytest.mark.parametrize("kind", KINDS)
def test_an_episode_without_room_is_refused(kind):
    with pytest.raises(UserError, match="longer"):
        make(kind, tokens=8)
    with pytest.raises(UserError, match="dreams"):
        make("dreams")
    with pytest.raises(UserError, match="test"):
        make(kind, "test")


def test_the_sources_cover_all_competences_in_both_roles_and_need_no_files():
    assert set(COMPETENCE_OF.values()) == set(COMPETENCES)
    assert len(SOURCES) == 2 * len(KINDS)
    for source in SOURCES:
        assert not source.files
        assert source.competence in COMPETENCES
        episode = next(source.load({}, BuildOptions(quarter, seed=1)))
        assert episode.data_source == source.name
        assert episode.metadata["split"] == ("train" if source.role == TRAINING else "eval")
        tokens = quarter("\n".join(episode.chunks))
        assert 0.9 * LENGTHS[source.role][0] < tokens <= LENGTHS[source.role][0]
        short = next(source.load({}, BuildOptions(quarter, seed=1, chunk_tokens=200, chunks=10)))
        assert 9 <= len(short.chunks) <= 10
        assert max(map(quarter, short.chunks)) <= 200
        chosen = next(source.load({}, BuildOptions(quarter, seed=1, stream_tokens=3000)))
        assert 2700 < quarter("\n".join(chosen.chunks)) <= 3000
