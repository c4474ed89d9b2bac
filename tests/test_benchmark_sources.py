"""EventQA and FactConsolidation: rows of MemoryAgentBench, text files of facts, and the real facts where they are."""

from __future__ import annotations

import json
import pathlib
import re

import pyarrow
import pyarrow.parquet
import pytest

from memalpha_jax.episodes import eventqa, factconsolidation
from memalpha_jax.episodes.eventqa import load_eventqa
from memalpha_jax.episodes.factconsolidation import MULTI_HOP, SINGLE_HOP, load_rows, load_text
from memalpha_jax.episodes.source import BuildOptions
from memalpha_jax.errors import UserError
from memalpha_jax.rewards.metrics import score

DATA = pathlib.Path(__file__).parents[1].parent / "shared" / "data" / "factconsolidation"
FACTS = DATA / "factconsolidation_6k_facts.txt"
QUESTIONS = DATA / "factconsolidation_mh_6k_qa.jsonl"
HEADING = "Here is a list of facts:"
NOVEL = "\n\n".join(f"Chapter {i}. Anna went to house {i}. She met nobody there, and left again." for i in range(300))
ASKED = "These are the events that have already happened: [..] Possible subsequent events: [..] Which one is next?"


def words(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


def options(**changes) -> BuildOptions:
    return BuildOptions(words, **changes)


def row(source: str, context: str, pairs: list[tuple[str, list[str]]]) -> dict:
    """A row as the published file has it, with the columns and fields that we do not read."""
    return {
        "context": context,
        "questions": [question for question, _ in pairs],
        "answers": [golds for _, golds in pairs],
        "metadata": {"source": source, "qa_pair_ids": [f"{source}_no{i}" for i in range(len(pairs))], "demo": None},
    }


def events() -> list[dict]:
    pairs = [(f"{ASKED} {i}", [f"Anna goes to the {i}th house."]) for i in range(30)]
    return [row("longmemeval_s*", "Hello.", [("Who?", ["me"])]), row("eventqa_full", NOVEL, pairs)] + [
        row("eventqa_65536", NOVEL[: 2000 * n], pairs[: 5 * n]) for n in (1, 2)
    ]


def numbered(facts: list[str], heading: str = HEADING) -> str:
    return "\n".join([heading, *(f"{i}. {fact}" for i, fact in enumerate(facts))]) + "\n"


FACT_LIST = [
    "Ada plays chess.",
    *(f"The capital of Land{i} is Town{i}." for i in range(40)),
    "The capital of Land3 is Newtown.",
    "The author of Tales is Bo Li.",
    "Bo Li is a citizen of Land3.",
    "The capital of Land4 is Ada.",
    "The mayor of Harbour is Ada.",
    "The author of Songs is Ada.",
    "The author of Tales is Cy Woo.",
    "Cy Woo is a citizen of Land5.",
]
SINGLE = [
    ("What is the capital of Land3?", ["Newtown"]),
    ("Which city is the capital of Land7?", ["Town7"]),
    ("Who wrote Tales, who is its author?", ["Cy Woo", "Woo"]),
    ("Who is the mayor of Harbour?", ["Ada"]),  # three facts end so; one speaks of a mayor
    ("Who is there?", ["Ada"]),  # nothing tells which
    ("Who was it once?", ["Bo Li"]),  # no longer in force
]


def facts_in_evidence(episode, number: int) -> list[str]:
    chunks = [episode.chunks[t] for t in episode.questions[number].evidence]
    return [line for chunk in chunks for line in chunk.split("\n")]


def write_lines(path: pathlib.Path, records) -> pathlib.Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def write_parquet(path: pathlib.Path, rows) -> pathlib.Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_a_novel_keeps_its_text_in_dated_parts(tmp_path):
    rows = events()
    episodes = list(load_eventqa(write_parquet(tmp_path / "rows.parquet", rows), options(chunk_tokens=400)))
    assert [episode.metadata["source"] for episode in episodes] == ["eventqa_full", "eventqa_65536", "eventqa_65536"]
    assert len({episode.instance_id for episode in episodes}) == 3
    for episode, record in zip(episodes, rows[1:], strict=True):
        assert episode.data_source == "eventqa"
        assert all(words(chunk) <= 400 for chunk in episode.chunks)
        dates = [chunk.split("]")[0] for chunk in episode.chunks]
        assert dates == sorted(set(dates))
        shown = "".join("".join(chunk.split("\n")[2:-1]) for chunk in episode.chunks)
        assert "".join(shown.split()) == "".join(record["context"].split())
        assert [question.question for question in episode.questions] == record["questions"]
        for question in episode.questions:
            assert score("eventqa", f"The event is: {question.answer[0].upper()}", question.answer) == 1
            assert score("eventqa", "Anna leaves.", question.answer) == 0


def test_parquet_list_and_lines_give_the_same_episodes(tmp_path):
    rows = events()
    parquet = list(load_eventqa(write_parquet(tmp_path / "a.parquet", rows), options()))
    lines = list(load_eventqa(write_lines(tmp_path / "a.jsonl", rows), options()))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert parquet == lines == list(load_eventqa(tmp_path / "a.json", options()))
    assert parquet != list(load_eventqa(tmp_path / "a.json", options(seed=1)))


def fact_rows() -> list[dict]:
    context = numbered(FACT_LIST)
    return [
        row("factconsolidation_mh_6k", context, [("What is the capital of the country of Tales' author?", ["Town5"])]),
        row("factconsolidation_sh_6k", context, SINGLE),
        row("factconsolidation_sh_32k", context, SINGLE[:2]),
    ]


def test_facts_stay_whole_and_in_order(tmp_path):
    path = write_parquet(tmp_path / "rows.parquet", fact_rows())
    one, two = load_rows(path, SINGLE_HOP, options(chunk_tokens=90))
    (several,) = load_rows(path, MULTI_HOP, options(chunk_tokens=90))
    assert (one.instance_id, two.instance_id) == ("factconsolidation_sh_6k", "factconsolidation_sh_32k")
    for episode in (one, two, several):
        assert len(episode.chunks) > 5
        assert all(words(chunk) <= 90 for chunk in episode.chunks)
        lines = [line for chunk in episode.chunks for line in chunk.split("\n")[2:-1]]
        assert lines == numbered(FACT_LIST).splitlines()
        assert episode.metadata == {"facts": len(FACT_LIST)}
    assert {question.kind for question in one.questions} == {"single_hop"}
    assert several.questions[0].kind == "multi_hop"
    assert several.data_source == MULTI_HOP
    assert score(one.data_source, "It is newtown now", one.questions[0].answer) == 1
    assert score(one.data_source, "It is Town3", one.questions[0].answer) == 0


def test_evidence_is_the_fact_in_force_or_none(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", fact_rows())
    episode = next(load_rows(path, SINGLE_HOP, options(chunk_tokens=90)))
    stated = {
        0: "The capital of Land3 is Newtown.",
        1: "The capital of Land7 is Town7.",
        3: "The mayor of Harbour is Ada.",
    }
    stated[2] = "The author of Tales is Cy Woo."
    for number, fact in stated.items():
        assert len(episode.questions[number].evidence) == 1
        assert f"{FACT_LIST.index(fact)}. {fact}" in facts_in_evidence(episode, number)
    assert episode.questions[4].evidence == episode.questions[5].evidence == ()
    (several,) = load_rows(path, MULTI_HOP, options(chunk_tokens=90))
    assert "6. The capital of Land5 is Town5." in facts_in_evidence(several, 0)  # the last hop


def test_text_files_give_the_episode_of_the_row(tmp_path):
    (tmp_path / "factconsolidation_6k_facts.txt").write_text(numbered(FACT_LIST))
    records = [{"question": question, "answers": golds} for question, golds in SINGLE]
    questions = write_lines(tmp_path / "factconsolidation_sh_6k_qa.jsonl", records)
    rows = write_lines(tmp_path / "rows.jsonl", fact_rows())
    text = list(load_text(tmp_path / "factconsolidation_6k_facts.txt", questions, SINGLE_HOP, options()))
    assert text == list(load_rows(rows, SINGLE_HOP, options()))[:1]


GOOD = row("eventqa_full", "Once.", [("Next?", ["This."])])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({**GOOD, "context": None}, "'context' is missing"),
        ({**GOOD, "context": " "}, "'context' holds no text"),
        ({**GOOD, "questions": [], "answers": []}, "field 'questions' is empty"),
        ({**GOOD, "answers": []}, "1 questions and 0 answers"),
        ({**GOOD, "answers": ["This."]}, r"'answers\[0\]' is str"),
        ({**GOOD, "answers": [[""]]}, r"questions\[0\].answer' holds no text"),
        ({**GOOD, "questions": [7]}, r"'questions\[0\]' is int"),
        ({**GOOD, "metadata": {}}, "'source' is missing"),
        ({"context": "x"}, "'metadata' is missing"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path, record, message):
    path = write_lines(tmp_path / "bad.jsonl", [GOOD, record])
    with pytest.raises(UserError, match=f"bad.jsonl, line 2.*{message}"):
        list(load_eventqa(path, options()))


def test_unreadable_rows_are_explained(tmp_path):
    path = tmp_path / "bad"
    with pytest.raises(UserError, match=r"cannot read .*bad"):
        list(load_eventqa(path, options()))
    cases = {b"": "no records", b"{": "line 1: not valid JSON", b"PAR1 nothing more": "bad.*parquet", b"\xff": "utf-8"}
    for content, message in cases.items():
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            list(load_eventqa(path, options()))
    write_parquet(path, [{"context": "x", "questions": ["q"], "answers": [["a"]]}])
    with pytest.raises(UserError, match=r"bad: no column 'metadata\.source'"):
        list(load_eventqa(path, options()))
    write_lines(path, fact_rows())
    with pytest.raises(UserError, match="bad has no row of eventqa, only of factconsolidation_mh_6k, "):
        list(load_eventqa(path, options()))


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ("", "holds no numbered facts"),
        ("Here is a list:\n", "holds no numbered facts"),
        ("0. A is B.\nand so on\n", "facts.txt, line 2: 'and so on' is no numbered fact"),
        ("One.\nTwo.\n0. A is B.\n", "facts.txt, line 2"),
        ("0. A is B.\n2. A is C.\n1. A is D.\n", "line 3: fact 1 follows fact 2"),
        ("0. A is B.\n0. A is C.\n", "line 2: fact 0 follows fact 0"),
        ("0. A is B.\n1.\n", "line 2"),
        ("0. A is " + "very " * 3000 + "long.\n", "takes .* tokens, over the chunk limit"),
    ],
)
def test_bad_facts_are_explained(tmp_path, facts, message):
    (tmp_path / "facts.txt").write_text(facts)
    questions = write_lines(tmp_path / "qa.jsonl", [{"question": "What is A?", "answers": ["B"]}])
    with pytest.raises(UserError, match=message):
        list(load_text(tmp_path / "facts.txt", questions, SINGLE_HOP, options()))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"question": "What is A?"}, "qa.jsonl, line 1, field 'answers' is missing"),
        ({"answers": ["B"]}, "qa.jsonl, line 1, field 'question' is missing"),
        ({"question": "What?", "answers": [3]}, r"'answers\[0\]' is int"),
        ({"question": "What?", "answers": []}, r"questions\[0\].answer' holds no text"),
    ],
)
def test_bad_questions_are_explained(tmp_path, record, message):
    (tmp_path / "facts.txt").write_text("0. A is B.\n")
    questions = write_lines(tmp_path / "qa.jsonl", [record])
    with pytest.raises(UserError, match=message):
        list(load_text(tmp_path / "facts.txt", questions, SINGLE_HOP, options()))


def test_sources_say_what_they_need(tmp_path):
    (source,) = eventqa.SOURCES
    assert [episode.data_source for episode in source.load({"rows": write_lines(tmp_path / "r", events())}, options())]
    for source in factconsolidation.SOURCES:
        with pytest.raises(UserError, match=f"{source.name} needs the benchmark's file, or text files"):
            source.load({}, options())
        episodes = list(source.load({"rows": write_lines(tmp_path / "f", fact_rows())}, options()))
        assert {episode.data_source for episode in episodes} == {source.name}


def test_real_facts_the_later_one_wins():
    if not FACTS.exists():
        pytest.skip(f"there is no {FACTS}")
    (episode,) = load_text(FACTS, QUESTIONS, MULTI_HOP, options())
    lines = [line for chunk in episode.chunks for line in chunk.split("\n")[2:-1]]
    assert lines == FACTS.read_text().splitlines()
    assert len(lines) == 455
    assert len(episode.questions) == 36
    assert sum(len(question.evidence) == 1 for question in episode.questions) >= 20
    for number, question in enumerate(episode.questions):
        ends = tuple(f" {gold}." for gold in question.answer)
        assert not question.evidence or any(line.endswith(ends) for line in facts_in_evidence(episode, number))


def test_real_single_hop_questions_find_the_later_fact(tmp_path):
    if not FACTS.exists():
        pytest.skip(f"there is no {FACTS}")
    # Contradictions in the real facts, asked about in our words; the first number is the fact that was replaced.
    pairs = {
        "What is Nobuhiro Watsuki famous for?": ("The Fairly OddParents", 91, 259),
        "Which sport is goaltender associated with?": ("pesäpallo", 223, 310),
        "Who is the chief executive officer of Twitter?": ("Bernard Arnault", 109, 275),
    }
    records = [{"question": question, "answers": [gold]} for question, (gold, _, _) in pairs.items()]
    questions = write_lines(tmp_path / "factconsolidation_sh_6k_qa.jsonl", records)
    (episode,) = load_text(FACTS, questions, SINGLE_HOP, options(chunk_tokens=120))
    for number, (_, old, new) in enumerate(pairs.values()):
        found = {int(line.split(".")[0]) for line in facts_in_evidence(episode, number) if line[0].isdigit()}
        assert new in found
        assert old not in found
