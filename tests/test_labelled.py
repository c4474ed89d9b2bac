"""Labelled samples as episodes: what an episode shows, what it asks, and files that are not as they should be."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
import re
from collections import Counter

import label_files
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_files import EVALUATED, SOURCES, TRAINED, options

from memalpha_jax.episodes import pubmed_rct
from memalpha_jax.episodes.labelled import Sample, deal, distinct, same_text
from memalpha_jax.episodes.labelled_episodes import APART, TRAINING_EPISODES, Stream, _Builder, training_episodes
from memalpha_jax.episodes.source import EVALUATION, TRAINING, BuildOptions
from memalpha_jax.errors import UserError
from memalpha_jax.rewards import metrics

SHOWN = re.compile(r"^Sample: (.*)\nLabel: (\d+)$", re.MULTILINE)
SMALL = {"chunk_tokens": 600, "chunks": 4}


def samples_of(chunk: str) -> list[tuple[str, int]]:
    """Read back from the text alone."""
    return [(text, int(number)) for text, number in SHOWN.findall(chunk)]


def stream_of(episode) -> list[tuple[str, int]]:
    return [one for chunk in episode.chunks for one in samples_of(chunk)]


def asked_in(episode) -> list[str]:
    return [re.fullmatch(r"Sample: (.*)\nLabel: \?", question.question)[1] for question in episode.questions]


def check_episode(episode, label_of: dict[str, str], limit: int, count_tokens=len) -> None:
    """All that an episode promises, read from its text; `label_of` are the samples of the files."""
    names = episode.metadata["labels"]
    shown = stream_of(episode)
    assert {number for _, number in shown} == set(range(len(names)))  # every label, contiguous from 0
    assert all(label_of[text] == names[number] for text, number in shown)  # whole samples, each with its own label
    assert len({same_text(text) for text, _ in shown}) == len(shown) == episode.metadata["samples"]
    assert all(count_tokens(chunk) <= limit for chunk in episode.chunks)
    assert not {same_text(text) for text in asked_in(episode)} & {same_text(text) for text, _ in shown}
    for text, question in zip(asked_in(episode), episode.questions, strict=True):
        number = names.index(label_of[text])
        assert question.answer == f"\\boxed{{{number}}}"
        assert metrics.score(episode.data_source, question.answer, question.answer) == 1.0
        holding = [t for t, chunk in enumerate(episode.chunks) if number in {n for _, n in samples_of(chunk)}]
        assert list(question.evidence) == holding


def label_of_files(files, name) -> dict[str, str]:
    known = {}
    for split in ("train", "dev", "test"):
        for one in label_files.rows(tuple(f"intent_{i}" for i in range(8)), split):
            known[one.text] = one.label
        if name.startswith("trec"):
            cut = (lambda label: label.split(":")[0]) if name == "trec_coarse" else (lambda label: label)
            known |= {one.text: cut(one.label) for one in label_files.rows(label_files.TREC_LABELS, split)}
        if name == "pubmed_rct" and split in files:
            lines = files[split].read_text().splitlines()
            known |= {text: label for label, _, text in (line.partition("\t") for line in lines) if text}
    return known


@pytest.mark.parametrize(("name", "role"), list(SOURCES))
def test_every_source_keeps_what_an_episode_promises(name, role, tmp_path):
    files = label_files.write_files(tmp_path, name)
    episodes = list(SOURCES[name, role].load(files, options(**SMALL)))
    assert len(episodes) == (TRAINING_EPISODES if role == TRAINING else 1)
    assert len({episode.instance_id for episode in episodes}) == len(episodes)
    for episode in episodes:
        assert (episode.data_source, len(episode.chunks), len(episode.questions)) == (name, 4, 100 if role else 0)
        check_episode(episode, label_of_files(files, name), 600)


@pytest.mark.parametrize(("name", "role"), TRAINED)
def test_training_neither_shows_nor_asks_anything_of_the_test_split(name, role, tmp_path):
    files = label_files.write_files(tmp_path, name)
    episodes = list(SOURCES[name, role].load(files, options(**SMALL)))
    seen = {text for episode in episodes for text in (*asked_in(episode), *(text for text, _ in stream_of(episode)))}
    assert seen
    assert not any(text.startswith("test") for text in seen)


@pytest.mark.parametrize(("name", "role"), EVALUATED)
def test_evaluation_asks_the_test_split_and_shows_the_training_split(name, role, tmp_path):
    (episode,) = SOURCES[name, role].load(label_files.write_files(tmp_path, name), options(**SMALL))
    assert all(text.startswith("test") for text in asked_in(episode))
    assert all(text.startswith("train") for text, _ in stream_of(episode))


@pytest.mark.parametrize("name", ["nlu", "trec_coarse"])
def test_training_and_evaluation_share_no_sample(name, tmp_path):
    files = label_files.write_files(tmp_path, name)
    trained = list(SOURCES[name, TRAINING].load(files, options(**SMALL)))
    (evaluated,) = SOURCES[name, EVALUATION].load(files, options(chunk_tokens=600, seed=7))
    seen = {text for episode in trained for text in (*asked_in(episode), *(text for text, _ in stream_of(episode)))}
    there = {*asked_in(evaluated), *(text for text, _ in stream_of(evaluated))}
    assert seen
    assert not seen & there


@pytest.mark.parametrize(("name", "role"), TRAINED)
def test_the_last_training_episodes_share_no_sample_with_the_others(name, role, tmp_path):
    episodes = list(SOURCES[name, role].load(label_files.write_files(tmp_path, name), options(**SMALL)))
    most, apart = (
        {text for episode in part for text in (*asked_in(episode), *(text for text, _ in stream_of(episode)))}
        for part in (episodes[:-APART], episodes[-APART:])
    )
    assert most
    assert not most & apart


def test_a_pool_too_small_to_keep_any_apart_still_gives_every_episode():
    pool = [Sample(f"text number {i}", "ab"[i % 2]) for i in range(130)]
    episodes = list(training_episodes("nlu", pool, Stream(600, 600, 1), options()))
    assert len(episodes) == TRAINING_EPISODES
    assert {len(episode.questions) for episode in episodes} == {100}


@pytest.mark.parametrize(("name", "role"), list(SOURCES))
def test_the_seed_determines_the_episodes(name, role, tmp_path):
    files = label_files.write_files(tmp_path, name)

    def first_three(seed: int):
        return list(itertools.islice(SOURCES[name, role].load(files, options(seed=seed, **SMALL)), 3))

    assert first_three(1) == first_three(1)
    assert first_three(1) != first_three(2)


def test_labels_are_numbered_anew_in_every_episode(tmp_path):
    episodes = list(SOURCES["nlu", TRAINING].load(label_files.write_files(tmp_path, "nlu"), options(**SMALL)))
    places = Counter(episode.metadata["labels"].index("intent_0") for episode in episodes)
    # 112 draws of one number in 8: each comes up about 14 times, fewer than 1 or more than 40 are one in a million.
    assert set(places) == set(range(8))
    assert max(places.values()) < 40


def test_the_stream_is_balanced_and_in_random_order(tmp_path):
    (episode,) = SOURCES["banking77", EVALUATION].load(label_files.write_files(tmp_path, "banking77"), options(**SMALL))
    numbers = [number for _, number in stream_of(episode)]
    counts = Counter(numbers)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert numbers[:8] != numbers[8:16]


def test_stream_tokens_bound_an_evaluation_stream(tmp_path):
    files = label_files.write_files(tmp_path, "clinic150")
    lengths = []
    for tokens in (1800, 6000, 0):
        (episode,) = SOURCES["clinic150", EVALUATION].load(files, options(chunk_tokens=600, stream_tokens=tokens))
        lengths.append(len(episode.chunks))
    assert lengths[:2] == [3, 10]
    assert lengths[2] > 10


def test_gzipped_files_give_the_same_episodes(tmp_path):
    files = label_files.write_files(tmp_path, "nlu")
    load = SOURCES["nlu", EVALUATION].load
    plain = list(load(files, options(**SMALL)))
    for path in files.values():
        path.write_bytes(gzip.compress(path.read_bytes()))
    assert list(load(files, options(**SMALL))) == plain


# --- properties of the common part ---

WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=6)
TEXTS = st.lists(WORDS, min_size=1, max_size=5).map(" ".join)
POOLS = st.lists(st.builds(Sample, TEXTS, st.sampled_from("abcde")), min_size=8, max_size=60)


def spaced(text: str) -> int:
    """Not additive: a space joins the word after it, and a cut word costs more than the whole."""
    return sum(1 + len(word.encode()) // 3 for word in re.findall(r" ?\S+|\s", text))


@settings(deadline=None, max_examples=150)
@given(
    POOLS,
    st.sampled_from([0, 5, 6, 9]),
    st.integers(400, 800),
    st.integers(0, 2**32 - 1),
    st.sampled_from([len, spaced, lambda text: len(text.encode())]),
    st.booleans(),
)
def test_any_pool_of_samples_gives_whole_episodes_or_says_why_not(pool, chunks, limit, seed, count_tokens, own_split):
    shown = distinct(pool)
    asked = distinct(pool[::3]) if own_split else []
    shown = distinct(shown, without=asked)
    label_of = {one.text: one.label for one in (*shown, *asked)}
    build_options = BuildOptions(count_tokens, seed)
    labels = {one.label for one in shown}
    if len(labels) < 2 or not (set(asked_labels := [one.label for one in asked]) & labels or not asked_labels):
        with pytest.raises(UserError, match="label"):
            _Builder("nlu", shown, asked, Stream(limit, limit, chunks), build_options)
        return
    if not asked and len(shown) == len(labels):
        with pytest.raises(UserError, match="none to ask about"):
            _Builder("nlu", shown, asked, Stream(limit, limit, chunks), build_options)
        return
    builder = _Builder("nlu", shown, asked, Stream(limit, limit, chunks), build_options)
    episode = builder.episode("nlu-1")
    assert set(episode.metadata["labels"]) == {one.label for one in shown}
    assert len(episode.chunks) <= (chunks or len(shown))
    check_episode(episode, label_of, limit, count_tokens)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.builds(Sample, st.lists(st.sampled_from("abc"), max_size=14).map(" ".join), st.sampled_from("xyz"))))
def test_alike_texts_are_dealt_to_one_part_and_none_is_lost(samples):
    dealt = deal(samples, {"one": 0.5, "two": 0.5})
    assert Counter([*dealt["one"], *dealt["two"]]) == Counter(samples)
    runs_one, runs_two = ({run for one in part for run in runs(one.text)} for part in dealt.values())
    assert not runs_one & runs_two


def runs(text: str) -> set[str]:
    words = text.split()
    return {" ".join(words[i : i + 10]) for i in range(len(words) - 9)} if len(words) > 10 else {text}


def test_parts_get_their_share_of_every_label():
    samples = [Sample(f"{label} number {i}", label) for label in "abc" for i in range(40)]
    dealt = deal(samples, {"most": 0.75, "few": 0.25})
    assert Counter(one.label for one in dealt["few"]) == Counter("abc" * 10)
    assert deal(samples[::-1], {"most": 0.75, "few": 0.25})["few"] != []


def test_what_is_like_a_test_text_is_not_dealt_to_training():
    shared = "one two three four five six seven eight nine ten"
    samples = [Sample(f"{shared} eleven {i}", "x") for i in range(5)] + [Sample(f"other {i}", "x") for i in range(5)]
    test = [Sample(f"zero {shared}", "x")]
    dealt = deal(samples, {TRAINING: 0.5, EVALUATION: 0.5}, test, EVALUATION)
    assert not any(shared in one.text for one in dealt[TRAINING])
    assert len(dealt[TRAINING]) == 5


def test_texts_with_two_labels_and_repeated_texts():
    samples = [Sample("Is it on?", "a"), Sample("is  it on", "a"), Sample("Off!", "a"), Sample("off", "b")]
    assert distinct(samples) == [Sample("Is it on?", "a")]
    assert distinct(samples, without=[Sample("IS IT ON", "b")]) == []


# --- sources with a layout of their own ---


def test_pubmed_without_dev_holds_out_whole_abstracts(tmp_path):
    files = label_files.write_files(tmp_path, "pubmed_rct")
    abstract_of, key = {}, ""
    for line in files["train"].read_text().splitlines():
        key = line[3:] if line.startswith("###") else key
        abstract_of[line.partition("\t")[2]] = key
    episodes = list(pubmed_rct.load({"train": files["train"]}, options(**SMALL)))
    asked = {abstract_of[text] for episode in episodes for text in asked_in(episode)}
    shown = {abstract_of[text] for episode in episodes for text, _ in stream_of(episode)}
    assert asked
    assert not asked & shown


def test_of_a_large_pubmed_file_a_random_part_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(pubmed_rct, "KEPT_SENTENCES", 50)
    firsts = Counter()
    for seed in range(200):
        kept = pubmed_rct._kept((Sample(str(i), "RESULTS") for i in range(500)), seed)
        assert len({one.text for one in kept}) == 50
        firsts.update(int(one.text) // 100 for one in kept)
    # 200 x 50 draws over five equal stretches: 2,000 each, with a deviation of 40.
    assert all(abs(count - 2000) < 200 for count in firsts.values()), firsts


def abstract(**changes) -> dict:
    record = {
        "CONTEXTS": ["We ask why. Is it so?", "We took 9 patients.", "It went well.", "Nothing of one section."],
        "LABELS": ["PURPOSE", "PATIENTS AND METHODS", "Results", "METHODS AND RESULTS"],
        "LONG_ANSWER": "It helps.",
    }
    return {**record, **changes}


def test_pubmedqa_paragraphs_become_sentences_with_the_section_of_their_heading(tmp_path):
    path = tmp_path / "ori_pqal.json"
    path.write_text(json.dumps({"17": abstract()}))
    assert [(key, one.text, one.label) for key, one in pubmed_rct._sentences(path)] == [
        ("17", "We ask why.", "OBJECTIVE"),
        ("17", "Is it so?", "OBJECTIVE"),
        ("17", "We took 9 patients.", "METHODS"),
        ("17", "It went well.", "RESULTS"),
        ("17", "It helps.", "CONCLUSIONS"),
    ]


# --- bad input ---


def refused(name: str, role: str, files: dict, **changes) -> str:
    with pytest.raises(UserError) as caught:
        list(SOURCES[name, role].load(files, options(**{**SMALL, **changes})))
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "split", "line", "field"),
    [
        ("nlu", "test", "what is this,unheard_of,any", "field 'label' is 'unheard_of'"),
        ("nlu", "train", "what is this, ,any", "field 'label' is empty"),
        ("nlu", "train", " ,intent_1,any", "field 'text' holds no text"),
        ("nlu", "train", "what is this", "column 'label' is missing"),
        ("banking77", "train", "what is this,unheard_of,any", "field 'category' is 'unheard_of'"),
        ("trec_coarse", "train", "NUM:ber How many ?", "field 'label' is 'NUM:ber'"),
        ("trec_coarse", "test", "How many ?", "field 'label' is 'How'"),
        ("trec_coarse", "train", "NUM:count", "field 'question' holds no text"),
        ("pubmed_rct", "dev", "RESULTS It went well.", "expected a tab between label and sentence"),
        ("pubmed_rct", "train", "FINDINGS\tIt went well.", "field 'label' is 'FINDINGS'"),
        ("pubmed_rct", "train", "\tIt went well.", "field 'label' is empty"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(name, split, line, field, tmp_path):
    files = label_files.write_files(tmp_path, name)
    text = files[split].read_text()
    files[split].write_text(text + line + "\n")
    role = TRAINING if (name, TRAINING) in SOURCES else EVALUATION
    said = refused(name, role, files)
    assert f"{files[split]}, line {text.count(chr(10)) + 1}" in said
    assert field in said


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (["how so", "unheard_of"], "test[0], field '[1] (intent)' is 'unheard_of'"),
        (["how so", ""], "test[0], field '[1] (intent)' is empty"),
        (["how so", None], "test[0], field '[1] (intent)' is missing"),
        (["how so"], "test[0] has 1 entries, expected [text, intent]"),
        ({"text": "how so"}, "test[0] is dict"),
    ],
)
def test_a_bad_row_of_clinic150_is_named(row, said, tmp_path):
    files = label_files.write_files(tmp_path, "clinic150")
    splits = json.loads(files["data"].read_text())
    splits["test"].insert(0, row)
    files["data"].write_text(json.dumps(splits))
    assert f"{files['data']}, {said}" in refused("clinic150", EVALUATION, files)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"LABELS": ["PURPOSE"]}, "has 4 CONTEXTS and 1 LABELS"),
        ({"CONTEXTS": ["So."], "LABELS": ["WEATHER"]}, "field 'LABELS[0]' is 'WEATHER', which names none of"),
        ({"CONTEXTS": [7], "LABELS": ["AIM"]}, "field 'CONTEXTS[0]' is int 7"),
        ({"LONG_ANSWER": None}, "field 'LONG_ANSWER' is missing"),
    ],
)
def test_a_bad_abstract_of_pubmedqa_is_named(changes, said, tmp_path):
    path = tmp_path / "ori_pqal.json"
    path.write_text(json.dumps({"17": abstract(**changes)}))
    assert f"{path}, '17'" in (message := refused("pubmed_rct", TRAINING, {"train": path}))
    assert said in message


@pytest.mark.parametrize(("name", "role"), [("nlu", TRAINING), ("trec_fine", EVALUATION), ("banking77", EVALUATION)])
def test_a_file_with_one_class_is_refused(name, role, tmp_path):
    files = label_files.write_files(tmp_path, name)
    column = "category" if name == "banking77" else "label"
    only = [Sample(f"number {i}", "NUM:count" if name == "trec_fine" else "intent_1") for i in range(300)]
    write = label_files.write_trec if name == "trec_fine" else label_files.write_csv
    write(files["train"], only, *([] if name == "trec_fine" else [("text", column)]))
    assert f"{files['train']}, field '{column}' holds only one label" in refused(name, role, files)


def test_a_file_without_samples_and_a_missing_column_are_refused(tmp_path):
    files = label_files.write_files(tmp_path, "nlu")
    label_files.write_csv(files["train"], label_files.rows(("a", "b"), "train"), ("text", "category"))
    assert f"{files['train']}, line 1: no column 'label'" in refused("nlu", TRAINING, files)
    empty = dict.fromkeys(("train", "test"), tmp_path / "empty.label")
    (tmp_path / "empty.label").write_text("\n")
    assert f"{tmp_path / 'empty.label'}, field 'label' has no samples" in refused("trec_fine", EVALUATION, empty)


def test_text_in_a_wrong_encoding_is_refused(tmp_path):
    files = label_files.write_files(tmp_path, "nlu")
    files["test"].write_bytes(files["test"].read_bytes() + "caf\xe9,intent_1,any\n".encode("latin-1"))
    assert re.search(rf"{files['test']}, line \d+: not utf-8 text", refused("nlu", TRAINING, files))


def test_trec_questions_are_latin_1(tmp_path):
    files = label_files.write_files(tmp_path, "trec_fine")
    label_files.write_trec(files["test"], [Sample("Who wrote Caf\xe9 ?", "HUM:ind"), Sample("How many ?", "NUM:count")])
    (episode,) = SOURCES["trec_fine", EVALUATION].load(files, options(**SMALL))
    assert "Who wrote Caf\xe9 ?" in asked_in(episode)


@pytest.mark.parametrize(("chunk_tokens", "chunks"), [(100, 4), (200, 1)])
def test_chunks_too_small_for_every_label_are_refused(chunk_tokens, chunks, tmp_path):
    files = label_files.write_files(tmp_path, "nlu")
    said = refused("nlu", TRAINING, files, chunk_tokens=chunk_tokens, chunks=chunks)
    assert f"one sample of each of the 8 labels takes more than {chunks} chunk(s) of {chunk_tokens} tokens" in said


def test_every_source_says_where_it_comes_from():
    for source in SOURCES.values():
        assert source.where.startswith("https://")
        assert source.licence
        assert metrics.is_classification(source.name)
        assert dataclasses.replace(source) == source
