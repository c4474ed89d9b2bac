"""Records, their files, sources, arrays and the iterator."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizer import TinyTokenizer

from memalpha_jax.episodes.batch import tokenize_episodes
from memalpha_jax.episodes.episode import (
    MAX_QUESTIONS,
    Episode,
    Question,
    episode_from_json,
    episode_to_json,
    read_episodes,
    validate,
    write_episodes,
)
from memalpha_jax.episodes.generated import WorldConfig, generate_episodes
from memalpha_jax.episodes.iterator import EpisodeIterator
from memalpha_jax.errors import UserError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
SOLID = TEXT.map(lambda text: text + "x")
QUESTION = st.builds(
    Question, SOLID, st.one_of(SOLID, st.lists(SOLID, min_size=1, max_size=3).map(tuple)), TEXT
)
EPISODE = st.builds(
    Episode,
    SOLID,
    SOLID,
    st.lists(SOLID, min_size=1, max_size=4).map(tuple),
    st.lists(QUESTION, min_size=1, max_size=4).map(tuple),
    st.dictionaries(TEXT, st.one_of(st.integers(), TEXT, st.lists(TEXT)), max_size=3),
)
GOOD = Episode("one", "squad", ("a chunk", "more"), (Question("what?", "that", evidence=(1,)),))


def record(**changes):
    return {**json.loads(json.dumps(episode_to_json(GOOD))), **changes}


def question(**changes):
    return record(questions=[{"question": "q", "answer": "a", **changes}])


@settings(deadline=None, max_examples=60)
@given(st.lists(EPISODE, min_size=1, max_size=4, unique_by=lambda e: e.instance_id))
def test_any_episode_survives_its_file(tmp_path_factory, episodes):
    path = tmp_path_factory.mktemp("episodes") / "e.jsonl"
    write_episodes(path, episodes)
    assert read_episodes(path) == episodes
    assert [p.name for p in path.parent.iterdir()] == ["e.jsonl"]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ([], "object"),
        ({}, "instance_id"),
        (record(instance_id=3), "instance_id"),
        (record(instance_id=""), "instance_id"),
        (record(data_source=""), "data_source"),
        (record(chunks="text"), "chunks"),
        (record(chunks=[]), "chunks"),
        (record(chunks=["ok", 7]), r"chunks\[1\]"),
        (record(chunks=["ok", " \n"]), r"chunks\[1\]"),
        (record(questions=[]), "questions"),
        (record(questions=["what?"]), r"questions\[0\]"),
        (question(question=""), r"questions\[0\].question"),
        (question(answer=None), r"questions\[0\].answer"),
        (question(answer=[]), r"questions\[0\].answer"),
        (question(answer=["a", 2]), r"questions\[0\].answer\[1\]"),
        (question(kind=2), r"questions\[0\].kind"),
        (question(evidence=[2]), r"questions\[0\].evidence"),
        (question(evidence=[True]), r"questions\[0\].evidence"),
        (record(metadata=[]), "metadata"),
    ],
)
def test_a_bad_record_is_named_by_file_line_and_field(tmp_path, bad, field):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(record()) + "\n\n" + json.dumps(bad) + "\n")
    with pytest.raises(UserError, match=f"bad.jsonl, line 3.*{field}"):
        read_episodes(path)


def test_unreadable_files_are_explained(tmp_path):
    cases = {"none": None, "empty": "", "broken": '{"a": ', "twice": (json.dumps(record()) + "\n") * 2}
    expected = {"none": "No such file", "empty": "no episodes", "broken": "line 1", "twice": "occurs twice"}
    for name, text in cases.items():
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=expected[name]):
            read_episodes(tmp_path / name)
    (tmp_path / "bytes").write_bytes(b'{"instance_id": "\xff"}')
    with pytest.raises(UserError, match="line 1"):
        read_episodes(tmp_path / "bytes")


def test_questions_are_thinned_alike_every_time():
    many = dataclasses.replace(GOOD, questions=tuple(Question(f"q{i}", "a") for i in range(250)))
    kept = validate(many).questions
    assert len(kept) == MAX_QUESTIONS
    assert kept == validate(many).questions
    assert list(kept) == [q for q in many.questions if q in kept]
    assert kept != validate(dataclasses.replace(many, instance_id="two")).questions
    assert episode_from_json(episode_to_json(many), "here").questions == kept


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "e.jsonl"
    write_episodes(path, [GOOD])
    with pytest.raises(TypeError):
        write_episodes(path, [GOOD, dataclasses.replace(GOOD, metadata={"bad": object()})])
    assert read_episodes(path) == [GOOD]
    assert len(list(tmp_path.iterdir())) == 1


def test_arrays_hold_the_tokens_and_nothing_else():
    episodes = [*generate_episodes(WorldConfig(), "train", 3), GOOD]
    tokenizer = TinyTokenizer()
    batch = tokenize_episodes(
        episodes, tokenizer, max_chunks=4, chunk_capacity=500, episode_indices=[7, 3, 9, 1]
    )
    assert batch.chunk_BTC.shape == (4, 4, 500)
    assert batch.episode_index_B.tolist() == [7, 3, 9, 1]
    assert all(a.dtype == np.int32 for a in dataclasses.astuple(batch))
    for b, episode in enumerate(episodes):
        assert batch.num_chunks_B[b] == len(episode.chunks)
        for t in range(4):
            n = batch.chunk_len_BT[b, t]
            text = episode.chunks[t] if t < len(episode.chunks) else ""
            assert tokenizer.decode(batch.chunk_BTC[b, t, :n].tolist()) == text
            assert not batch.chunk_BTC[b, t, n:].any()


def test_what_does_not_fit_is_refused_by_name():
    with pytest.raises(
        UserError, match=r"'one': chunk 1 of 2 has 7 tokens, over the limit of 6.*chunk_tokens"
    ):
        tokenize_episodes([GOOD], TinyTokenizer(), max_chunks=2, chunk_capacity=6)
    with pytest.raises(UserError, match="'one' has 2 chunks"):
        tokenize_episodes([GOOD], TinyTokenizer(), max_chunks=1, chunk_capacity=99)


@pytest.mark.parametrize("saved_after", [0, 1, 4, 5, 13])
def test_a_resumed_iterator_gives_the_batches_that_were_to_come(saved_after):
    whole = EpisodeIterator(21, 4, seed=3)
    for _ in range(saved_after):
        next(whole)
    state = json.loads(json.dumps(whole.get_state()))
    expected = [next(whole).tolist() for _ in range(12)]
    fresh = EpisodeIterator(21, 4, seed=3)
    next(fresh)
    fresh.set_state(state)
    assert [next(fresh).tolist() for _ in range(12)] == expected


def test_epochs_are_distinct_permutations_without_repeats():
    batches = EpisodeIterator(20, 5, seed=0)
    epochs = [np.concatenate([next(batches) for _ in range(4)]).tolist() for _ in range(3)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3
    assert next(EpisodeIterator(20, 5, seed=1)).tolist() != epochs[0][:5]
    ragged = EpisodeIterator(7, 5, seed=0)
    assert all(len(set(next(ragged).tolist())) == 5 for _ in range(20))


def test_an_iterator_refuses_what_it_cannot_continue():
    with pytest.raises(UserError, match="batch of 5"):
        EpisodeIterator(4, 5, seed=0)
    state = EpisodeIterator(9, 3, seed=0).get_state()
    for other in (EpisodeIterator(10, 3, 0), EpisodeIterator(9, 2, 0), EpisodeIterator(9, 3, 1)):
        with pytest.raises(UserError, match="cannot resume"):
            other.set_state(state)
