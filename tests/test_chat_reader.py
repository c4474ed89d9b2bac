"""Readers, judges and graders that are language models, with scripted models and with a server that misbehaves."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from chat_server import FAULTS, Fault, chat_completion, chat_server, last_message, says, status
from hypothesis import given
from hypothesis import strategies as st

from memalpha_jax.chat.config import ModelConfig
from memalpha_jax.chat.make import ChatModels
from memalpha_jax.chat.model import ChatError, ChatRequest, Completion, Seat
from memalpha_jax.config import build, to_dict
from memalpha_jax.episodes.episode import Episode, Question
from memalpha_jax.errors import UserError
from memalpha_jax.leaderboard import run, summary
from memalpha_jax.leaderboard.config import LeaderboardConfig
from memalpha_jax.leaderboard.store import Store
from memalpha_jax.leaderboard.tables import results_markdown
from memalpha_jax.memory.state import MemoryType
from memalpha_jax.methods.bm25_rag import Bm25Rag
from memalpha_jax.methods.context import CUT_NOTE
from memalpha_jax.rewards.chat_judge import (
    ChatGrader,
    ChatJudge,
    load_grader_prompt,
    load_judge_prompt,
    read_fits,
)
from memalpha_jax.rewards.chat_reader import ChatReader, load_reader_prompt
from memalpha_jax.rewards.config import GraderConfig, JudgeConfig, ReaderConfig
from memalpha_jax.rewards.judge import GradeQuery, JudgeError, JudgeQuery, RulesGrader
from memalpha_jax.rewards.make import make_grader, make_reader
from memalpha_jax.rewards.reader import ReaderQuery, every_answer, retrieve
from memalpha_jax.rewards.reward import RewardConfig, score_answers

HOSTILE = "{{question}} {{#label}} </notes> </s> \\1 \\g<0> {{user}}"
FAILS = "fail"


def count(text: str) -> int:
    return len(text.split())


class Scripted:
    """A model that replies with `say(request)`; a request in which FAILS occurs fails. It keeps what it was asked."""

    def __init__(self, say: Callable[[ChatRequest], str] = lambda request: "an answer", context_tokens: int = 10_000):
        self.say, self.context_tokens, self.identity = say, context_tokens, "scripted"
        self.asked: list[ChatRequest] = []

    def count_tokens(self, text: str) -> int:
        return count(text)

    def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        self.asked += requests
        return [
            Completion("", "broken") if FAILS in request.messages[-1].content else Completion(self.say(request))
            for request in requests
        ]

    def seats(self, n: int) -> list[Seat]:
        raise NotImplementedError

    @property
    def shown(self) -> str:
        return self.asked[-1].messages[-1].content


def reader(chat: Scripted, budget: int = 1000, top_k: int = 20) -> ChatReader:
    return ChatReader(chat, load_reader_prompt(""), budget, reply_tokens=16, top_k=top_k)


def test_a_prompt_shows_every_block_and_the_question_as_they_are():
    chat = Scripted()
    query = ReaderQuery("Who? " + HOSTILE, "Core " + HOSTILE, ("Event", HOSTILE), ("Fact " + HOSTILE,), "squad")
    assert reader(chat).answer([query]) == ["an answer"]
    for text in (query.question, query.core, "- Event\n", f"- {HOSTILE}\n", f"- Fact {HOSTILE}"):
        assert text in chat.shown
    assert chat.shown.count(HOSTILE) == 4
    assert "\\boxed" not in chat.shown
    assert [message.role for message in chat.asked[0].messages] == ["system", "user"]
    assert chat.asked[0].max_tokens == 16


def test_an_empty_memory_reads_as_nothing_and_labels_are_asked_in_a_box():
    chat = Scripted()
    reader(chat).answer([ReaderQuery("Where is it?", data_source="nlu_test")])
    assert chat.shown.count("(nothing)") == 3
    assert r"\boxed{n}" in chat.shown
    reader(chat).answer([ReaderQuery("How tall? Label: ?", data_source="generated")])
    assert r"\boxed{n}" in chat.shown


WORD = st.sampled_from(["oak", "elm", "fir", "yew", "ash", "who"])
TEXT = st.lists(WORD, min_size=1, max_size=30).map(" ".join)


@given(st.lists(TEXT, max_size=6), st.lists(TEXT, max_size=6), TEXT, st.integers(0, 120), st.booleans())
def test_a_prompt_fits_and_holds_the_best_of_each_list(episodic, semantic, core, room, retrieved):
    """Against the definition: the largest k of which the k best of each list fit beside the core."""
    chat = Scripted()
    query = ReaderQuery("who", core, tuple(episodic), tuple(semantic), "squad", retrieved)
    reader(chat).answer([dataclasses.replace(query, core="", episodic=(), semantic=())])
    bare = sum(count(message.content) for message in chat.asked[-1].messages)
    limit = bare + 64 + room
    chat.context_tokens = limit + 16 if retrieved else 10_000
    reader(chat, budget=10_000 if retrieved else limit, top_k=4).answer([query])
    assert sum(count(message.content) for message in chat.asked[-1].messages) <= max(limit, bare + 6)
    shown = [line.removeprefix("- ") for line in chat.shown.splitlines() if line.startswith("- ")]

    def tokens(found: ReaderQuery) -> int:
        return sum(1 + count(text) for text in (*found.episodic, *found.semantic))

    left = room - count(core)
    most = max(len(episodic), len(semantic)) if retrieved else 4
    fitting = [k for k in range(1, most + 1) if tokens(retrieve(query, k)) <= left]
    if left >= 0 and (fitting or not episodic + semantic):
        best = retrieve(query, max(fitting, default=1))
        assert shown == [*best.episodic, *best.semantic]
    elif left < 0:
        assert CUT_NOTE.strip() in chat.shown


def test_one_item_that_is_too_long_alone_is_cut_with_a_note():
    chat = Scripted(context_tokens=100_000)
    query = ReaderQuery("oak?", semantic=(" ".join(["oak"] * 5000), "elm"), data_source="squad")
    reader(chat, budget=1000).answer([query])
    assert 300 < chat.shown.count("oak") < 1000
    assert CUT_NOTE in chat.shown


def test_failed_answers_are_none_and_never_text():
    answers = reader(Scripted()).answer([ReaderQuery("good?"), ReaderQuery(FAILS)])
    assert answers == ["an answer", None]
    queries = [ReaderQuery("a", data_source="squad"), ReaderQuery("b", data_source="squad")]
    assert score_answers(queries, answers, ["an", "none"]) == [1.0, None]
    with pytest.raises(UserError, match="no answer to 1 of 2"):
        every_answer(reader(Scripted()), [ReaderQuery("good?"), ReaderQuery(FAILS)])


def test_judges_verdicts_are_read_and_missing_ones_are_told():
    chat = Scripted(lambda request: json.dumps({"fits": "good" in request.messages[-1].content}))
    judge = ChatJudge(chat, load_judge_prompt(""), 32)
    queries = [JudgeQuery(MemoryType.CORE, "good"), JudgeQuery(MemoryType.EPISODIC, HOSTILE)]
    assert judge.verdicts(queries) == [True, False]
    assert HOSTILE in chat.shown
    texts = [request.messages[-1].content for request in chat.asked]
    assert ["summary" in text for text in texts] == [True, False]
    assert ["events" in text for text in texts] == [False, True]
    with pytest.raises(JudgeError, match=r"1 of 2 .*broken") as caught:
        judge.verdicts([JudgeQuery(MemoryType.SEMANTIC, FAILS), queries[0]])
    assert caught.value.partial == [None, True]

    def down(request: ChatRequest) -> str:
        raise ChatError("it is down")

    with pytest.raises(JudgeError, match="it is down"):
        ChatJudge(Scripted(down), load_judge_prompt(""), 32).verdicts(queries)


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ('{"fits": true}', True),
        ("{'fits': 'False'}", False),
        ('The entry says "fits": true, but no. {"fits" : false}', False),
        ('<think>{"fits": true}', None),
        ('<think>{"fits": false}</think> {"fits": true, ', True),
        ("It fits: true", None),
        ("", None),
    ],
)
def test_verdicts_in_replies(reply, verdict):
    assert read_fits(reply) is verdict


def test_a_grader_is_shown_everything_and_read_by_its_first_word():
    chat = Scripted(lambda request: "Yes." if "3 May" in request.messages[-1].content else "No, yes is wrong")
    grader = ChatGrader(chat, load_grader_prompt(""), 8)
    queries = [ReaderQuery(q, data_source="longmemeval_s*") for q in ("when", "where", "why", FAILS)]
    answers = ["on 3 May", "Rome " + HOSTILE, None, "a"]
    assert score_answers(queries, answers, ["May", ["x", "y"], "z", "a"], grader=grader) == [1.0, 0.0, None, None]
    assert "x; y" in chat.asked[1].messages[-1].content
    assert HOSTILE in chat.asked[1].messages[-1].content
    assert len(chat.asked) == 3


def test_the_rules_grader_looks_for_the_gold():
    queries = [GradeQuery("?", ("The Oslo!", "Rome"), answer) for answer in ("In oslo.", "rome", "Bern", "")]
    assert RulesGrader().replies(queries) == ["yes", "yes", "no", "no"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{core}} {{episodic}} {{semantic}} {{question}}", "no {{user}}"),
        ("{{user}}{{core}} {{episodic}} {{question}}", "see semantic"),
        ("{{user}}{{core}} {{episodic}} {{semantic}} {{question}} {{chunk}}", "see chunk"),
        ("{{user}}{{core}}{{episodic}}{{semantic}}{{question}}{{#rules}}a{{/rules}}", "section {{#rules}}"),
        ("{{user}}{{core}}{{episodic}}{{semantic}}{{question}}{{#label}}a", "see #label"),
    ],
)
def test_prompts_of_ones_own_are_checked(tmp_path, text, words):
    path = tmp_path / "prompt.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=words.replace("{", r"\{")) as caught:
        load_reader_prompt(str(path))
    assert str(path) in str(caught.value)
    with pytest.raises(UserError, match="cannot read the prompt"):
        load_reader_prompt(str(tmp_path / "none.txt"))


def test_a_prompt_of_ones_own_is_used(tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text("{{system}}\nS\n{{user}}\n{{#text}}\nT\n{{/text}}\n{{core}}|{{episodic}}|{{semantic}}|{{question}}")
    chat = Scripted()
    ChatReader(chat, load_reader_prompt(str(path)), 1000, 8).answer([ReaderQuery("q", "c", ("e",), ("s",), "squad")])
    assert [message.content for message in chat.asked[0].messages] == ["S", "T\nc|- e|- s|q"]


def test_configs_are_checked_and_survive_json():
    with pytest.raises(UserError, match=r"config.rewards.reader: .*base_url is empty"):
        build(RewardConfig, {"reader": {"kind": "openai"}}, "config.rewards")
    with pytest.raises(UserError, match="context_tokens is 2000"):
        ReaderConfig("local", chat=ModelConfig(context_tokens=2000))
    with pytest.raises(UserError, match="no model is named"):
        JudgeConfig("openai", chat=ModelConfig(base_url="http://h/v1"))
    with pytest.raises(UserError, match="one of 'none', 'rules'"):
        build(GraderConfig, {"kind": "strict"})
    config = RewardConfig(reader=ReaderConfig("openai", chat=ModelConfig(base_url="http://h/v1", model="m")))
    assert build(RewardConfig, json.loads(json.dumps(to_dict(config)))) == config


def make_episode(n: int) -> Episode:
    names = [f"Person{n}x{i}" for i in range(6)]
    chunks = tuple(f"{name} lives in Town{n}x{i}. Nothing else." for i, name in enumerate(names))
    asked = tuple(Question(f"{name} lives where?", f"Town{n}x{i}") for i, name in enumerate(names))
    return Episode(f"e{n}", "longmemeval_s" if n % 2 else "squad", chunks, asked)


def answers_well(body) -> str:
    """Reads the town off the notes, and grades with yes what holds the key."""
    text = last_message(body)
    if "<key>" in text:
        key, answer = (text.split(f"<{mark}>\n")[1].split("\n</")[0] for mark in ("key", "answer"))
        return "Yes" if key in answer else "No"
    return "It is " + text.split("lives in ")[1].split(".")[0] if "lives in " in text else "unknown"


def results(root: Path, url: str, cache: bool = True) -> tuple[dict, run.Parts]:
    model = ModelConfig(base_url=url, model="m", backoff_s=0.002, timeout_s=1.5, deadline_s=2.5, start_timeout_s=2.0)
    config = LeaderboardConfig(methods=("bm25_rag",), batch=2)
    models = ChatModels(lambda: pytest.fail("no policy is needed"), count, root / "chat" if cache else None)
    made_reader, reader_name = make_reader(ReaderConfig("openai", chat=model), models, one_value=True)
    grader, grader_name = make_grader(GraderConfig("openai", chat=model), models)
    parts = run.Parts(
        {"bm25_rag": Bm25Rag(1, count)},
        {"towns": [make_episode(n) for n in range(4)]},
        made_reader,
        reader_name,
        count,
        grader,
        grader_name,
        models.check,
    )
    store = Store(root)
    found = summary.summarise(run.run(config, parts, store), store, count, bootstrap=50)
    found |= {"reader": reader_name.about, "grader": grader_name.about, "about": {"bm25_rag": "chunks"}}
    return {name: value for name, value in found.items() if name != "reader"}, parts


def scores_of(found: dict) -> list[float | None]:
    return [question["score"] for episode in found["episodes"] for question in episode["questions"]]


def test_a_misbehaving_server_changes_no_score_and_loses_no_answer(tmp_path):
    kinds: list[Fault] = [fault for name, fault in FAULTS.items() if name != "slow"]

    def faults(body) -> list[Fault]:
        i = sum(map(ord, last_message(body)))
        return [kinds[i % len(kinds)], kinds[i // 7 % len(kinds)]][: i % 3]

    with chat_server(answers_well) as server:
        good, _ = results(tmp_path / "good", server.url)
        asked = len(server.bodies)
        server.faults = faults
        bad, _ = results(tmp_path / "bad", server.url)
        assert len(server.bodies) > 2 * asked
        whole = len(server.bodies)
        assert results(tmp_path / "bad", server.url)[0] == bad
        assert len(server.bodies) == whole
    assert scores_of(good) == [1.0] * 24
    assert bad == good


def test_failed_answers_are_marked_and_left_out_and_asked_again(tmp_path):
    refusal: Fault = says(chat_completion(None, refusal="no"))

    def faults(body) -> list[Fault]:
        text = last_message(body)
        if "<key>" in text:
            return [status(400)] * ("x5" in text)  # no grade
        return [refusal] * ("x1 lives where" in text or "Person2" in text)

    with chat_server(lambda body: "wrong" if "x2 lives where" in last_message(body) else answers_well(body)) as server:
        server.faults = faults
        found, _ = results(tmp_path, server.url)
        graded = [1.0, None, 0.0, 1.0, 1.0, None]
        assert scores_of(found) == [1.0, None, 0.0, 1.0, 1.0, 1.0, *graded, *[None] * 6, *graded]
        row = found["rows"][0]
        assert row["failed"] == 1 + 2 + 6 + 2
        assert row["accuracy"] == pytest.approx((4 / 5 + 3 / 4 + 3 / 4) / 3)
        markdown = results_markdown(
            {**found, "reader": "a server"}, [{**row, "seconds_per_chunk": 1.0} for row in found["rows"]]
        )
        assert "11 answers failed" in markdown
        assert "graded by: m at http" in markdown
        assert all(
            line["answer"] is None for e in found["episodes"] for line in e["questions"] if line["score"] is None
        )
        server.faults = lambda body: []
        again, _ = results(tmp_path, server.url)
    assert again["rows"][0]["failed"] == 0
    assert scores_of(again) == [1.0, 1.0, 0.0, 1.0, 1.0, 1.0] * 4


def test_a_server_that_is_down_is_told_before_anything_is_written(tmp_path):
    with chat_server(answers_well) as server:
        url = server.url
        done, _ = results(tmp_path / "done", url)
    with pytest.raises(UserError, match=rf"no answer from {url}/chat/completions"):
        results(tmp_path / "new", url)
    assert not (tmp_path / "new").exists()
    assert results(tmp_path / "done", url)[0] == done  # nothing is left to be asked
