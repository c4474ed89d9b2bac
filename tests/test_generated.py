"""Properties of the generated world: reproducible, well-posed, and honest about what is asked."""

import collections
import dataclasses
import hashlib
import json
import re

import pytest

from memalpha_jax.episodes import names, world_words
from memalpha_jax.episodes.episode import episode_from_json, episode_to_json
from memalpha_jax.episodes.generated import (
    QUESTION_KINDS,
    WorldConfig,
    generate_episode,
    generate_episodes,
    sentences,
    template_words,
    vocabulary_texts,
)
from memalpha_jax.errors import UserError
from memalpha_jax.policy.tokenizer import SentencePieceTokenizer
from memalpha_jax.rewards.metrics import score
from memalpha_jax.rewards.reader import ExtractiveReader, ReaderQuery

WORLD = WorldConfig()


@pytest.fixture(scope="module", params=[("train", 3), ("eval", 3), ("train", 9), ("eval", 39)], ids=str)
def episodes(request):
    split, chunks = request.param
    return generate_episodes(WORLD, split, 120 // chunks + 20, chunks=chunks, seed=5)


def flat(episode):
    return [line for chunk in sentences(episode) for line in chunk]


def test_an_episode_depends_on_seed_split_and_index_alone():
    forward = [generate_episode(WORLD, "train", i, seed=1) for i in range(6)]
    backward = [generate_episode(WORLD, "train", i, seed=1) for i in reversed(range(6))][::-1]
    assert forward == backward
    others = [
        generate_episode(WORLD, "train", 0, seed=2),
        generate_episode(WORLD, "eval", 0, seed=1),
        forward[1],
    ]
    assert all(other.chunks != forward[0].chunks for other in others)


def test_recorded_results_can_be_made_again():
    """Trained policies were measured on these episodes, so they stay what they were to the letter."""
    shown = [
        json.dumps(episode_to_json(e)) for split in names.SPLITS for e in generate_episodes(WORLD, split, 8, chunks=9)
    ]
    assert hashlib.sha256("\n".join(shown).encode()).hexdigest() == (
        "9b095708e5b1b551ffcc9d14d0599ac4244eb19df2814ca4289828681607a0a9"
    )


def test_names_are_split_by_combination_and_share_every_syllable():
    for kind in ("person", "place", "thing"):
        train, held = set(names.names(kind, "train")), set(names.names(kind, "eval"))
        assert not train & held
        assert len(train | held) == 24 * 24
        assert 0.2 < len(held) / 576 < 0.3
        for syllable_index in (0, 1):
            seen = {world_words.split_name(name)[syllable_index] for name in train}
            assert {world_words.split_name(name)[syllable_index] for name in held} <= seen


def test_no_name_of_the_other_split_is_ever_shown_or_asked(episodes):
    split = episodes[0].metadata["split"]
    other = {"train": "eval", "eval": "train"}[split]
    forbidden = {name.lower() for kind in ("person", "place", "thing") for name in names.names(kind, other)}
    for episode in episodes:
        shown = [*episode.chunks, *(f"{q.question} {q.answer}" for q in episode.questions)]
        assert not forbidden & set(re.findall(r"\w+", " ".join(shown).lower()))


def test_gold_is_in_the_evidence_chunk_and_the_question_words_single_out_one_sentence(episodes):
    for episode in episodes:
        lines = [line for chunk in episode.chunks for line in chunk.split("\n")]
        words_of_lines = [(line, set(re.findall(r"\w+", line.lower()))) for line in lines]
        assert 1 <= len(episode.questions) <= 100
        assert len({q.question for q in episode.questions}) == len(episode.questions)
        for question in episode.questions:
            (chunk,) = question.evidence
            assert question.kind in QUESTION_KINDS
            assert re.search(rf"\b{question.answer}\b", episode.chunks[chunk])
            asked = set(re.findall(r"\w+", question.question.lower())) - {"what", "which", "when", "place"}
            matching = [line for line, words in words_of_lines if asked <= words]
            assert len(matching) == (2 if question.kind == "corrected" else 1)
            assert re.search(rf"\b{question.answer}\b", matching[-1])


def test_corrections_come_in_later_chunks_and_only_the_new_value_is_asked(episodes):
    seen = 0
    for episode in episodes:
        records = sentences(episode)
        asked_kinds = collections.Counter(q.kind for q in episode.questions)
        assert asked_kinds["corrected"] == sum(line.asked for line in flat(episode) if line.corrects)
        for t, chunk in enumerate(records):
            for i, line in enumerate(chunk):
                if not line.corrects:
                    continue
                seen += 1
                old_t, old_i = line.corrects
                old = records[old_t][old_i]
                assert old_t < t
                assert old.corrected_by == (t, i)
                assert (old.subject, old.asked, old.kind[:4]) == (line.subject, False, "fact")
                assert old.value != line.value
                assert old.value not in line.text
    assert seen


def test_records_mirror_the_text_and_chatter_is_never_asked(episodes):
    for episode in episodes:
        records = sentences(episode)
        assert [[line.text for line in chunk] for chunk in records] == [c.split("\n") for c in episode.chunks]
        asked = [(line.value, t) for t, chunk in enumerate(records) for line in chunk if line.asked]
        assert asked == [(q.answer, q.evidence[0]) for q in episode.questions]
        for line in flat(episode):
            assert line.useful == (not line.kind.startswith("chatter"))
            assert line.useful or not (line.asked or line.value)
            assert len(line.text.split()) <= 9
            assert not set('"\\') & set(line.text)


def test_nothing_is_stated_twice(episodes):
    for episode in episodes:
        useful = [line for line in flat(episode) if line.useful]
        assert len({line.text for line in useful}) == len(useful)
        samples = [line.text.split("Label")[0] for line in useful if line.kind == "sample"]
        assert len(set(samples)) == len(samples)
        events = [
            frozenset(re.sub(r"On |on |\d \w+", "", line.text).strip(".").split())
            for line in useful
            if line.kind.startswith("event")
        ]
        assert len(set(events)) == len(events)


def test_the_cast_grows_with_the_length():
    for chunks, low, high in ((3, 3, 5), (39, 12, 40)):
        people = [
            {s.subject for s in flat(e) if s.kind.startswith(("fact", "event", "chatter"))}
            for e in generate_episodes(WORLD, "eval", 20, chunks=chunks)
        ]
        assert low <= sum(map(len, people)) / len(people) <= high
    long = [s for e in generate_episodes(WORLD, "eval", 10, chunks=39) for s in flat(e)]
    lags = [b.corrects for b in long if b.corrects]
    assert len(lags) > 20


def test_an_hour_long_stream_runs_out_of_no_names():
    episode = generate_episode(WORLD, "eval", 0, chunks=400)
    assert len(episode.chunks) == 400
    assert len(episode.questions) == 100
    assert len({s.text for s in flat(episode) if s.useful}) == sum(s.useful for s in flat(episode))


def test_rates_are_respected():
    lines = [s for e in generate_episodes(WORLD, "train", 150, chunks=6) for s in flat(e)]
    useful = [s for s in lines if s.useful]
    early_or_late = [s for s in lines if s.kind != "sample"]
    valid = [s for s in useful if not s.corrected_by]
    assert abs(len(useful) / len(lines) - 0.5) < 0.05
    assert abs(sum(s.kind.endswith("late") for s in early_or_late) / len(early_or_late) - 0.5) < 0.05
    assert abs(sum(s.asked for s in valid) / len(valid) - 0.8) < 0.05
    silent = dataclasses.replace(WORLD, chatter_rate=1.0)
    assert all(len(generate_episode(silent, "train", i).questions) == 1 for i in range(5))


@pytest.mark.parametrize(
    ("field", "value"),
    [("chatter_rate", 1.5), ("sentences_min", 9), ("people", 1), ("fact_weight", -1.0), ("ask_rate", -0.1)],
)
def test_an_impossible_world_is_refused_by_name(field, value):
    with pytest.raises(UserError, match=field if field != "fact_weight" else "weights"):
        WorldConfig(**{field: value})


def test_records_survive_json():
    episode = generate_episode(WORLD, "train", 3, chunks=9)
    again = episode_from_json(json.loads(json.dumps(episode_to_json(episode))), "here")
    assert again == episode
    assert sentences(again) == sentences(episode)


def test_a_bpe_sees_template_words_whole_and_names_as_two_syllables():
    tokenizer = SentencePieceTokenizer.train(vocabulary_texts(), 1000)
    for split in ("train", "eval"):
        for episode in generate_episodes(WORLD, split, 12, chunks=9):
            for chunk in episode.chunks:
                pieces = [tokenizer.token_bytes(i).decode() for i in tokenizer.encode(chunk)]
                assert "".join(pieces) == chunk
                found = [piece.strip() for piece in pieces if piece.strip().isalpha()]
                words = re.findall(r"[A-Za-z]+", chunk)
                expected = [part for word in words for part in (world_words.split_name(word) or [word])]
                assert found == expected
                assert {w for w in words if not world_words.split_name(w)} <= set(template_words())


@pytest.mark.parametrize("keep_stale", [False, True])
def test_a_perfect_memory_answers_everything_and_a_stale_fact_spoils_its_correction(episodes, keep_stale):
    reader = ExtractiveReader()
    for episode in episodes[:20]:
        kept = [s for s in flat(episode) if s.useful and (keep_stale or not s.corrected_by)]
        events = tuple(s.text for s in kept if s.kind.startswith("event"))
        others = tuple(s.text for s in kept if not s.kind.startswith("event"))
        queries = [ReaderQuery(q.question, "", events, others, "generated") for q in episode.questions]
        for question, answer in zip(episode.questions, reader.answer(queries), strict=True):
            expected = not (keep_stale and question.kind == "corrected")
            assert score("generated", answer, question.answer) == expected
