"""Preparing episodes: the same files always, whole or not at all, nothing shared between training and evaluation."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memalpha_jax.episodes import building, closed_book, overlap, prepared, published, registry, selection
from memalpha_jax.episodes.building import BuildConfig, build
from memalpha_jax.episodes.episode import Episode, Question
from memalpha_jax.episodes.prepared import load_prepared, read_manifest
from memalpha_jax.episodes.source import COMPETENCES, BuildOptions
from memalpha_jax.errors import UserError
from memalpha_jax.policy.tokenizer import SentencePieceTokenizer
from memalpha_jax.policy.tokenizer_files import load_tokenizer
from memalpha_jax.report.episodes import draw_statistics, readable

ROOT = Path(__file__).parents[1]
PNG_MARK = b"\x89PNG\r\n\x1a\n"


def sentence(rng: np.random.Generator, count: int = 16) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return " ".join("".join(letters[i] for i in rng.integers(26, size=5)) for _ in range(count)).capitalize() + "."


def squad_file(path: Path, paragraphs: int = 60, seed: int = 0) -> Path:
    """Paragraphs of invented words, 15 questions on each."""
    rng = np.random.default_rng(seed)
    entries = []
    for p in range(paragraphs):
        context = sentence(rng)
        questions = [
            {"question": f"What is word {i} of text {seed}-{p}?", "answers": [{"text": word}]}
            for i, word in enumerate(context.split()[:15])
        ]
        entries.append({"context": context, "qas": questions})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"data": [{"title": "T", "paragraphs": entries}]}))
    return path


def locomo_file(path: Path, conversations: int = 2, text: str = "") -> Path:
    """Short conversations with a question on each turn."""
    rng = np.random.default_rng(1)
    records = []
    for c in range(conversations):
        turns = [{"speaker": "Ann", "dia_id": f"D1:{i}", "text": text or sentence(rng)} for i in range(6)]
        asked = [
            {"question": f"What did Ann say {i} times in {c}?", "answer": "it", "category": 4, "evidence": [f"D1:{i}"]}
            for i in range(6)
        ]
        talk = {"session_1": turns, "session_1_date_time": "1 May 2023"}
        records.append({"sample_id": f"conv-{c}", "conversation": talk, "qa": asked})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records))
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    rng = np.random.default_rng(7)
    SentencePieceTokenizer.train([sentence(rng) for _ in range(50)], 400).save(folder)
    return folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    squad_file(folder / "squad" / "train-v1.1.json")
    locomo_file(folder / "locomo" / "locomo10.json")
    return folder


def settings_of(raw: Path, output: Path, tokenizer: Path, **changes) -> BuildConfig:
    values = {"sources": ("squad", "locomo"), "chunk_tokens": 400, "chunks": 2, "max_per_source": 6, "eval_share": 0.2}
    return BuildConfig(raw=str(raw), output=str(output), tokenizer=str(tokenizer), **{**values, **changes})


@pytest.fixture(scope="module")
def built(raw, tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "episodes"
    build(settings_of(raw, folder, tokenizer))
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def nothing_left(output: Path) -> bool:
    """No final folder, and nothing under a name of its own in its place."""
    return not output.exists() and {path.name for path in output.parent.iterdir()} <= {f"{output.name}.partial"}


# --- the registry ---


def test_sources_are_known_by_name_and_role():
    sources = registry.all_sources()
    assert len({registry.key(source) for source in sources}) == len(sources)
    for source in sources:
        assert source.role in registry.ROLES
        assert source.competence in COMPETENCES
        assert source.licence
        assert source.where
        assert source.optional <= set(source.files)
    listed = registry.describe(sources)
    assert all(f"{source.name}  ({source.role}" in listed for source in sources)
    assert {registry.key(s) for s in registry.select(["nlu"])} == {"nlu:training", "nlu:evaluation"}
    assert [registry.key(s) for s in registry.select(["nlu:evaluation", "squad"])] == [
        "squad:training",
        "nlu:evaluation",
    ]
    with pytest.raises(UserError, match=r"no source 'sqad'; known are .*squad"):
        registry.select(["sqad"])


def test_files_are_found_below_the_source_or_the_folder(tmp_path):
    (squad,) = registry.select(["squad"])
    deep = squad_file(tmp_path / "anywhere" / "deep" / "train-v1.1.json.gz")
    assert registry.find_files(squad, tmp_path) == {"questions": deep}
    nearer = squad_file(tmp_path / "train-v1.1.json")
    assert registry.find_files(squad, tmp_path) == {"questions": nearer}
    own = squad_file(tmp_path / "squad" / "train-v2.0.json")
    assert registry.find_files(squad, tmp_path) == {"questions": own}
    (tmp_path / "squad" / "train-v2.0.json").unlink()
    with pytest.raises(
        UserError, match=r"needs its file 'questions', and there is no train-v1.1.json or .* below .*squad; "
    ):
        registry.find_files(squad, tmp_path)


# --- splits ---


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=40), st.floats(0, 0.9), st.integers(0, 5))
def test_groups_are_kept_back_whole(group_of, share, seed):
    held = selection.hold_out(group_of, share, seed, "any")
    assert len(held) == len(group_of)
    by_group = {group: {bool(h) for g, h in zip(group_of, held, strict=True) if g == group} for group in group_of}
    assert all(len(kinds) == 1 for kinds in by_group.values())
    assert not held.all() or not len(held)
    assert share or not held.any()
    assert (held == selection.hold_out(group_of, share, seed, "any")).all()


def test_a_share_of_single_episodes_is_kept_back():
    held = selection.hold_out(range(200), 0.1, 42, "squad")
    assert held.sum() == 20
    assert (held != selection.hold_out(range(200), 0.1, 43, "squad")).any()
    assert selection.hold_out([0, 1], 0.1, 42, "squad").sum() == 1
    assert selection.hold_out([0] * 100 + [1] * 12, 0.1, 42, "nlu").sum() == 12


@given(st.lists(st.sampled_from("abc"), max_size=50), st.integers(0, 9))
def test_strata_are_thinned_to_the_limit(names, limit):
    chosen = selection.sample_strata(names, limit, 42)
    assert list(chosen) == sorted(set(chosen.tolist()))
    for name, count in Counter(names).items():
        assert sum(names[i] == name for i in chosen) == (min(count, limit) if limit else count)


# --- overlap ---


def episode(name: str, chunks: list[str], questions: list[str], evidence: tuple[int, ...] = ()) -> Episode:
    asked = tuple(Question(text, "gold", "qa", evidence) for text in questions)
    return Episode(name, "squad", tuple(chunks), asked)


def random_episodes(seed: int, count: int) -> list[Episode]:
    """Texts over few words, copied from each other now and then, so that runs of 13 words do recur."""
    rng = np.random.default_rng(seed)
    texts: list[str] = []
    episodes = []
    for n in range(count):
        chunks = []
        for _ in range(2):
            text = " ".join(f"w{i}" for i in rng.integers(50, size=rng.integers(5, 40)))
            if texts and rng.random() < 0.4:
                copied = texts[rng.integers(len(texts))].split()
                start = rng.integers(max(1, len(copied) - 8))
                text += ", " + " ".join(copied[start : start + rng.integers(10, 17)]).upper()
            texts.append(text)
            chunks.append(text)
        asked = [f"Question {i}?" for i in rng.integers(200, size=2)]
        episodes.append(episode(f"e{n}", chunks, asked, (0,) if n % 2 else ()))
    return episodes


def grams(text: str) -> set[tuple[str, ...]]:
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    return {tuple(words[i : i + 13]) for i in range(len(words) - 12)}


def asks(one: Episode) -> set[str]:
    return {question.question.lower().rstrip("?") for question in one.questions}


@pytest.mark.parametrize("seed", range(5))
def test_clashes_are_those_of_plain_sets(seed):
    episodes = random_episodes(seed, 70)
    train, held_out = episodes[:45], episodes[45:]
    expected = set()
    for a, b in itertools.product(train, held_out):
        gold = a.chunks[:1] if a.questions[0].evidence else a.chunks
        if set().union(*map(grams, gold)) & set().union(*map(grams, b.chunks)):
            expected.add(("passage", a.instance_id, b.instance_id))
    questions = {(text, b.instance_id) for a, b in itertools.product(train, held_out) for text in asks(a) & asks(b)}
    clashes = overlap.find_clashes(lambda: train, held_out)
    found = {(c.kind, c.train.split("/")[1], c.held_out.split("/")[1]) for c in clashes if c.kind == "passage"}
    assert found == expected
    assert found
    assert {(c.text, c.held_out.split("/")[1]) for c in clashes if c.kind == "question"} == questions
    for clash in clashes:
        if clash.kind == "passage":
            shared = tuple(clash.text.split())
            of = {f"squad/{e.instance_id}": set().union(*map(grams, e.chunks)) for e in episodes}
            assert shared in of[clash.train] & of[clash.held_out]


@pytest.mark.parametrize("at_once", [30_000_000, 60])
def test_groups_are_the_connected_components(at_once, monkeypatch):
    monkeypatch.setattr(overlap, "_GRAMS_AT_ONCE", at_once)  # few at once: several passes over the episodes
    episodes = random_episodes(3, 30)
    group_of = list(range(30))
    for i, j in itertools.combinations(range(30), 2):
        a, b = episodes[i], episodes[j]
        if set().union(*map(grams, a.chunks)) & set().union(*map(grams, b.chunks)) or asks(a) & asks(b):
            group_of = [group_of[i] if g == group_of[j] else g for g in group_of]
    found = overlap.groups(lambda: episodes)
    same = lambda groups: {(i, j) for i, j in itertools.combinations(range(30), 2) if groups[i] == groups[j]}
    assert same(found) == same(group_of)
    assert 1 < len(set(group_of)) < 30


def test_wrapping_is_no_shared_passage():
    from memalpha_jax.episodes.wrapping import DOCUMENTS, Wrapper

    rng = np.random.default_rng(0)
    wrapper = Wrapper(DOCUMENTS, len)
    texts = [[wrapped.text for wrapped in wrapper.wrap([sentence(rng) for _ in range(9)], rng)] for _ in range(4)]
    episodes = [episode(f"e{i}", chunks, [f"q {i}", f"r {i}"]) for i, chunks in enumerate(texts)]
    assert len(set(overlap.groups(lambda: episodes))) == 4
    assert not overlap.find_clashes(lambda: episodes[:2], episodes[2:])


# --- building ---


def test_what_was_built_reads_back_as_the_loaders_gave_it(built, raw, tokenizer):
    manifest = read_manifest(built)
    encoder = load_tokenizer(tokenizer)
    count = lambda text: len(encoder.encode(text))
    options = BuildOptions(count, seed=42, chunk_tokens=400, chunks=2)
    loaded = {}
    for source in registry.select(["squad", "locomo"]):
        for one in source.load(registry.find_files(source, raw), options):
            loaded[one.instance_id] = one
    found = {split: load_prepared(built, split) for split in ("train", "eval", "test")}
    assert {split: len(episodes) for split, episodes in found.items()} == manifest["episodes"]
    for episodes in found.values():
        for i, one in enumerate(episodes):
            assert one == loaded[one.instance_id]
            assert episodes.chunk_tokens(i).tolist() == [count(chunk) for chunk in one.chunks]
    assert len(found["train"]) == 6
    assert {one.data_source for one in found["test"]} == {"locomo"}
    ids = [one.instance_id for episodes in found.values() for one in episodes]
    assert len(set(ids)) == len(ids)
    assert found["train"][-1] == found["train"][5]
    assert found["train"][1:3] == [found["train"][1], found["train"][2]]
    with pytest.raises(IndexError):
        found["train"][6]


def test_the_manifest_tells_what_it_was_made_of(built, raw, tokenizer):
    manifest = read_manifest(built)
    path = raw / "squad" / "train-v1.1.json"
    stored = manifest["build"]["inputs"]["squad:training"]["questions"]
    assert stored == {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    encoder = load_tokenizer(tokenizer)
    train = list(load_prepared(built, "train"))
    figures = manifest["sources"]["squad:training"]["train"]
    assert figures["tokens"] == sum(len(encoder.encode(chunk)) for one in train for chunk in one.chunks)
    assert figures["chunks"] == sum(len(one.chunks) for one in train)
    assert figures["questions"] == sum(len(one.questions) for one in train)
    assert figures["episodes"] == 6
    assert manifest["sources"]["squad:training"]["licence"] == "CC BY-SA 4.0"
    assert manifest["build"]["seed"] == 42
    assert manifest["build"]["closed_book_reader"] == ""
    assert manifest["leaks"]["count"] == 0
    assert str(raw) not in json.dumps(manifest)


def test_the_same_bytes_from_elsewhere_and_by_two_workers(built, raw, tokenizer, tmp_path):
    moved = shutil.copytree(raw, tmp_path / "moved")
    build(settings_of(moved, tmp_path / "again", tokenizer, workers=2))
    assert digests(tmp_path / "again") == digests(built)
    build(settings_of(raw, tmp_path / "other", tokenizer, seed=43))
    assert digests(tmp_path / "other") != digests(built)
    build(settings_of(raw, tmp_path / "again", tokenizer))  # does nothing, and says nothing wrong
    assert digests(tmp_path / "again") == digests(built)


def test_small_shards_hold_the_same_episodes(built, raw, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("memalpha_jax.episodes.prepared_writer.MIB", 2000)
    build(settings_of(raw, tmp_path / "shards", tokenizer, shard_mb=2))
    shards = list((tmp_path / "shards").glob("memalpha-train.array_record-*"))
    assert len(shards) > 1
    assert list(load_prepared(tmp_path / "shards", "train")) == list(load_prepared(built, "train"))


MOMENTS = {
    "before anything is read": ("memalpha_jax.episodes.building._stage_all", 1),
    "after the first source": ("memalpha_jax.episodes.staging.stage", 2),
    "while a source is written": ("memalpha_jax.episodes.staging.to_record", 4),
    "while records are written": ("tensorflow_datasets.core.file_adapters.ArrayRecordFileAdapter.write_examples", 2),
    "just before the end": ("memalpha_jax.episodes.building._manifest", 1),
}
KILLED = """
import os, pkgutil, signal, sys
from memalpha_jax.episodes import building, staging
name, times, options = {name!r}, {times}, {options!r}
owner, function = name.rsplit(".", 1)
owner = pkgutil.resolve_name(owner)
true, seen = getattr(owner, function), []
def counted(*args, **kwargs):
    seen.append(1)
    if len(seen) == times:
        os.kill(os.getpid(), signal.SIGKILL)
    return true(*args, **kwargs)
setattr(owner, function, counted)
if owner is staging:
    building.stage = staging.stage
building.build(building.BuildConfig(**options))
"""


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_build_goes_on_to_the_same_files(moment, built, raw, tokenizer, tmp_path):
    config = settings_of(raw, tmp_path / "episodes", tokenizer)
    name, times = MOMENTS[moment]
    code = KILLED.format(name=name, times=times, options=dataclasses.asdict(config))
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert nothing_left(tmp_path / "episodes")
    build(config)
    assert digests(tmp_path / "episodes") == digests(built)
    assert [path.name for path in tmp_path.iterdir()] == ["episodes"]


def test_what_an_interrupted_build_has_read_is_not_read_again(raw, tokenizer, tmp_path, monkeypatch):
    config = settings_of(raw, tmp_path / "episodes", tokenizer)
    monkeypatch.setattr(building, "_choose", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        build(config)
    monkeypatch.undo()
    monkeypatch.setattr("memalpha_jax.episodes.staging._episodes", lambda *_: pytest.fail("was read again"))
    assert build(config)["episodes"]["train"] == 6


# --- what goes wrong ---


def refused(config: BuildConfig, match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        build(config)
    assert "\n" not in str(error.value)
    assert nothing_left(Path(config.output))


def test_bad_input_is_one_sentence_and_leaves_nothing(raw, tokenizer, tmp_path):
    output = tmp_path / "out" / "episodes"
    output.parent.mkdir()
    refused(settings_of(raw, output, tokenizer, sources=("sqad",)), "no source 'sqad'; known are")
    refused(settings_of(tmp_path / "none", output, tokenizer), r"--raw=.*none is not a folder")
    refused(settings_of(tmp_path, output, tokenizer), "source 'squad' needs its file 'questions'")
    refused(settings_of(raw, output, tmp_path), "no usable tokenizer in")
    bad = tmp_path / "bad"
    squad_file(bad / "squad" / "train-v1.1.json")
    (bad / "locomo").mkdir()
    (bad / "locomo" / "locomo10.json").write_text('[{"conversation": {}}]')
    refused(settings_of(bad, output, tokenizer), r"locomo10.json, \[0\], field '.*' is missing")
    (bad / "locomo" / "locomo10.json").write_text("[")
    refused(settings_of(bad, output, tokenizer, workers=2), r"locomo10.json is not valid JSON")
    for wrong in ({"eval_share": 1.0}, {"workers": 0}, {"max_per_source": -1}, {"sources": ()}):
        with pytest.raises(UserError, match=f"--{next(iter(wrong))}"):
            settings_of(raw, output, tokenizer, **wrong)


def test_a_folder_of_something_else_is_left_alone(built, raw, tokenizer, tmp_path):
    copy = shutil.copytree(built, tmp_path / "built")
    with pytest.raises(UserError, match=r"built by another configuration: seed \(42 there, 7 now\)"):
        build(settings_of(raw, copy, tokenizer, seed=7))
    assert digests(copy) == digests(built)
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other things than prepared episodes"):
        build(settings_of(raw, other, tokenizer))
    with pytest.raises(UserError, match="is a file"):
        build(settings_of(raw, other / "mine.txt", tokenizer))
    partial = tmp_path / "new.partial"
    partial.mkdir()
    (partial / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else than an interrupted build"):
        build(settings_of(raw, tmp_path / "new", tokenizer))
    assert (partial / "mine.txt").read_text() == (other / "mine.txt").read_text() == "mine"


def test_an_interrupted_build_of_another_configuration_does_not_show(built, raw, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "_choose", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        build(settings_of(raw, tmp_path / "episodes", tokenizer, seed=7))
    monkeypatch.undo()
    build(settings_of(raw, tmp_path / "episodes", tokenizer))
    assert digests(tmp_path / "episodes") == digests(built)


def test_a_disk_that_takes_no_more(raw, tokenizer, tmp_path):
    """Files may not grow beyond a limit: first the staged ones, then the array_record files, do not fit."""
    output = tmp_path / "episodes"
    config = settings_of(raw, output, tokenizer)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        refused(config, "cannot write .*File too large; make room or permission")
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(building, "write_prepared", _limited(building.write_prepared, hard))
            refused(config, "cannot write .*File too large.*make room or permission")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert build(config)["episodes"]["train"] == 6


def _limited(write, hard):
    def limited(*args):
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
        write(*args)

    return limited


def test_a_place_where_nothing_can_be_written(raw, tokenizer):
    with pytest.raises(UserError, match=r"cannot create /proc/none/episodes\.partial"):
        build(settings_of(raw, Path("/proc/none/episodes"), tokenizer))


def test_the_command_ends_with_one_line_and_a_code(raw, tokenizer, tmp_path):
    command = [sys.executable, "-m", "memalpha_jax.prepare", "--sources=squad,nlu", f"--raw={raw}"]
    command += [f"--output={tmp_path / 'out'}", f"--tokenizer={tokenizer}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: source 'nlu' needs its file 'train', and there is no train.csv (or the same")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


# --- leaks ---


@pytest.fixture(scope="module")
def leaking(raw, tmp_path_factory) -> Path:
    """As `raw`, but the conversations repeat the paragraphs of SQuAD, 13 words and more."""
    folder = tmp_path_factory.mktemp("leaking")
    shutil.copytree(raw / "squad", folder / "squad")
    data = json.loads((raw / "squad" / "train-v1.1.json").read_text())
    contexts = [paragraph["context"] for paragraph in data["data"][0]["paragraphs"]]
    locomo_file(folder / "locomo" / "locomo10.json", text=" ".join(contexts[:3]))
    return folder


def test_a_leak_stops_the_build_and_is_printed(leaking, tokenizer, tmp_path, capsys):
    config = settings_of(leaking, tmp_path / "episodes", tokenizer, max_per_source=0)
    refused(config, r"training and held-out episodes share text \(passage: squad in locomo \d+\), first: passage '.*'")
    assert "passage" in capsys.readouterr().err


def test_an_allowed_leak_is_recorded(leaking, tokenizer, tmp_path):
    manifest = build(settings_of(leaking, tmp_path / "episodes", tokenizer, max_per_source=0, allow_leaks=True))
    assert manifest["build"]["allow_leaks"]
    assert manifest["leaks"]["count"] == sum(manifest["leaks"]["by_sources"].values()) > 0
    assert manifest["leaks"]["first"][0]["train"].startswith("squad/")


# --- closed book ---


class Knowing:
    """Knows the answer to every question on the first word of a text."""

    def answer(self, queries):
        assert all(not (query.core or query.episodic or query.semantic) for query in queries)
        assert all(query.data_source == "squad" for query in queries)
        return [answers[query.question] if "word 0 of" in query.question else "" for query in queries]


answers: dict[str, str] = {}


def test_known_questions_are_left_out(raw, tokenizer, tmp_path, monkeypatch):
    data = json.loads((raw / "squad" / "train-v1.1.json").read_text())
    for paragraph in data["data"][0]["paragraphs"]:
        answers[paragraph["qas"][0]["question"]] = f"It is {paragraph['qas'][0]['answers'][0]['text']}"
    monkeypatch.setattr(closed_book, "load_reader", lambda name: Knowing())
    manifest = build(settings_of(raw, tmp_path / "episodes", tokenizer, closed_book_reader="some:reader"))
    asked = [
        q.question
        for split in ("train", "eval")
        for one in load_prepared(tmp_path / "episodes", split)
        for q in one.questions
    ]
    assert asked
    assert not any("word 0 of" in question for question in asked)
    assert manifest["sources"]["squad:training"]["questions_known_closed_book"] > 0
    assert manifest["build"]["closed_book_reader"] == "some:reader"


def test_readers_are_named_by_module_and_function():
    assert closed_book.load_reader("memalpha_jax.rewards.reader:ExtractiveReader").answer([]) == []
    for name in ("ExtractiveReader", "no.module:make", "memalpha_jax.rewards.reader:none", "builtins:dict", "os:sep"):
        with pytest.raises(UserError, match=f"the reader '{name}'"):
            closed_book.load_reader(name)


def longest_words(summary: str, text: str, limit: int) -> list[str]:
    return sorted({word for word in summary.split() if word in text.split()}, key=len)[-limit:]


@pytest.mark.parametrize("extractor", ["", f"{__name__}:longest_words"])
def test_the_gold_of_a_summary_comes_from_the_extractor_that_the_manifest_names(extractor, tokenizer, tmp_path):
    rng = np.random.default_rng(3)
    story = {"metadata": {"passage_id": "1"}, "document": " ".join(sentence(rng) for _ in range(9))}
    asked = {"question_text": "What is the plot?", "responses": [{"response_text": story["document"][:60]}]}
    line = json.dumps({**story, "questions": [asked]})
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "v1.3_dev.jsonl").write_text(line)
    (tmp_path / "raw" / "dev.jsonl").write_text(line)
    config = settings_of(tmp_path / "raw", tmp_path / "out", tokenizer, sources=("squality",))
    manifest = build(dataclasses.replace(config, keyword_extractor=extractor))
    named = manifest["sources"]["squality:evaluation"]["keywords"]
    assert named == (extractor or building.OFFLINE_KEYWORDS)
    (one,) = load_prepared(tmp_path / "out", "test")
    assert set(one.questions[0].answer) <= {word.lower().strip(".") for word in story["document"].split()} | set(
        story["document"].split()
    )


def test_the_hub_is_asked_for_published_sets_alone(raw, tokenizer, tmp_path, monkeypatch):
    rows = {
        "context": ["Some text."],
        "questions": [["a?"]],
        "answers": [[["x"]]],
        "metadata": [{"source": "ruler_qa1"}],
    }
    asked = []

    def fetch(name, patterns, what, repo_type):
        asked.append((name, repo_type))
        (tmp_path / "hub" / "data").mkdir(parents=True)
        pyarrow.parquet.write_table(
            pyarrow.table(rows), tmp_path / "hub" / "data" / "Accurate_Retrieval-0-of-1.parquet"
        )
        return tmp_path / "hub"

    monkeypatch.setattr(building.hub, "fetch_files", fetch)
    config = settings_of(raw, tmp_path / "out", tokenizer, sources=("memoryagentbench", "locomo"), hub=True)
    assert build(config)["episodes"]["test"] == 3
    assert asked == [("ai-hyz/MemoryAgentBench", "dataset")]
    with pytest.raises(UserError, match="source 'memoryagentbench' needs a file"):
        build(dataclasses.replace(config, hub=False))


# --- published sets ---


def test_memalpha_parquet_is_read_as_it_is(tmp_path):
    rows = {
        "instance_id": ["0", "1"],
        "prompt": ["p", "p"],
        "chunks": [json.dumps(["one", "two"]), json.dumps(["three é"])],
        "questions_and_answers": [
            json.dumps([{"question": "q?", "answer": ["a", "b"]}]),
            json.dumps([{"question": "r", "answer": 3}]),
        ],
        "data_source": ["squad", "pubmed-rct"],
        "metadata": [json.dumps({"x": 1}), None],
        "num_chunks": [2, 1],
        "num_questions": [1, 1],
    }
    path = tmp_path / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.table(rows), path)
    first, second = published.load_memalpha(path)
    assert first == Episode("squad-0", "squad", ("one", "two"), (Question("q?", ("a", "b")),), {"x": 1})
    assert second == Episode("pubmed-rct-1", "pubmed-rct", ("three é",), (Question("r", "3"),))
    for column, value, match in (
        ("chunks", "[", r"row 1, field 'chunks': not valid JSON"),
        ("chunks", "{}", r"row 1, field 'chunks' is dict .*expected a list"),
        ("questions_and_answers", "[]", r"row 1: episode 'squad-0': field 'questions' is empty"),
    ):
        pyarrow.parquet.write_table(pyarrow.table({**rows, column: [value, rows[column][1]]}), path)
        with pytest.raises(UserError, match=match):
            list(published.load_memalpha(path))
    pyarrow.parquet.write_table(pyarrow.table({k: v for k, v in rows.items() if k != "chunks"}), path)
    with pytest.raises(UserError, match="no column 'chunks'"):
        list(published.load_memalpha(path))
    path.write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"cannot read .*train\.parquet as parquet"):
        list(published.load_memalpha(path))


def test_memory_agent_bench_parquet_is_cut_and_wrapped(tmp_path):
    rng = np.random.default_rng(0)
    documents = " ".join(sentence(rng) for _ in range(30))
    samples = "\n\n".join(f"{sentence(rng)}\nlabel: {i % 3}" for i in range(30))
    empty = {"keypoints": None, "question_types": None}
    rows = {
        "context": [documents, samples, documents],
        "questions": [["a?", "b?"], ["c?"], ["Summarise."]],
        "answers": [[["x", "x", "y"], ["z"]], [["1"]], [["long summary"]]],
        "metadata": [
            {"source": "ruler_qa1_197K", **empty},
            {"source": "icl_nlu_8296shot_balance", **empty},
            {"source": "infbench_sum_eng_shots2", "keypoints": ["k1", "k2"], "question_types": None},
        ],
    }
    path = tmp_path / "Accurate_Retrieval-00000-of-00001.parquet"
    pyarrow.parquet.write_table(pyarrow.table(rows), path)
    count = lambda text: len(text.split())
    one, two, three = published.load_memory_agent_bench(path, BuildOptions(count, chunk_tokens=80))
    for found, context in ((one, documents), (two, samples), (three, documents)):
        assert len(found.chunks) > 3
        assert all(count(chunk) <= 80 for chunk in found.chunks)
        bodies = [chunk.split(":\n", 1)[1].rsplit("\n<Assistant>", 1)[0] for chunk in found.chunks]
        assert " ".join(bodies).split() == context.split()
    assert all(chunk.count("label:") * 16 <= count(chunk) for chunk in two.chunks)  # samples are whole
    assert one.questions == (Question("a?", ("x", "y")), Question("b?", ("z",)))
    assert three.questions[0].answer == ("k1", "k2")
    rows["answers"][0] = [["x"]]
    pyarrow.parquet.write_table(pyarrow.table(rows), path)
    with pytest.raises(UserError, match="row 1: 2 questions and 1 answers"):
        list(published.load_memory_agent_bench(path, BuildOptions(count)))


def test_sources_without_a_scoring_rule_are_left_out(tokenizer, tmp_path):
    rows = {
        "context": ["Some text here.", "Other text here."],
        "questions": [["a?"], ["b?"]],
        "answers": [[["x"]], [["y"]]],
        "metadata": [{"source": "ruler_qa1_197K"}, {"source": "recsys_redial_full"}],
    }
    (tmp_path / "raw").mkdir()
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "raw" / "Accurate_Retrieval-0.parquet")
    config = settings_of(tmp_path / "raw", tmp_path / "out", tokenizer, sources=("memoryagentbench",))
    manifest = build(config)
    assert manifest["sources"]["memoryagentbench:evaluation"]["without_scoring_rule"] == 1
    assert [one.data_source for one in load_prepared(tmp_path / "out", "test")] == ["ruler_qa1_197K"]
    with pytest.raises(UserError, match="no episodes of split 'train'; it has test"):
        load_prepared(tmp_path / "out", "train")


# --- looking ---


def test_episodes_are_shown_with_chunks_questions_and_evidence(built):
    train = load_prepared(built, "train")
    text = readable(train[0], train.chunk_tokens(0).tolist())
    assert f"=== squad / {train[0].instance_id}" in text
    assert all(f"--- chunk {t}, {tokens} tokens" in text for t, tokens in enumerate(train.chunk_tokens(0)))
    first = train[0].questions[0]
    assert f"Q (qa) {first.question}" in text
    assert f"evidence: chunk {first.evidence[0]}" in text
    strange = Episode("x", "squad", ("a\x1b[31mred\u202e",), (Question("q", "a"),))
    assert "\x1b" not in readable(strange)
    assert "\u202e" not in readable(strange)


def test_histograms_are_drawn():
    png = draw_statistics({"a": [[5, 6], [7]], "b": [[9000] * 30]}, {"a": [["qa"], ["qa", "x"]], "b": [["y"]]}, "title")
    assert png.startswith(PNG_MARK)
    assert len(png) > 10_000


def test_folders_that_hold_no_prepared_episodes(built, tmp_path):
    with pytest.raises(UserError, match=r"holds no prepared episodes \(there is no manifest.json\)"):
        load_prepared(tmp_path, "train")
    damaged = shutil.copytree(built, tmp_path / "damaged")
    (path,) = damaged.glob("memalpha-train.array_record-*")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be read"):
        list(load_prepared(damaged, "train"))
    with pytest.raises(UserError, match="no episodes of split 'dev'; it has train, eval, test"):
        load_prepared(built, "dev")
    assert prepared.splits_of({"episodes": {"train": 0, "test": 2}}) == {"test": 2}
    assert os.listdir(built)
