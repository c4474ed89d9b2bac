"""Chunkers: nothing lost, nothing over the limit, in linear time, whatever the text."""

import random
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memalpha_jax.episodes.chunkers import Turn, chunk_text, chunk_turns, pack, split_sentences
from memalpha_jax.errors import UserError

SNIPPETS = [
    "Dr. Smith met J. K. Rowling in the U.S. in 1999. It cost 3.5 dollars! ",
    "中文句子没有空格。第二句！第三句？",
    "日本語の文です。「はい。」と言った。",
    "هل هذا سؤال؟ نعم. ",
    "यह एक वाक्य है। दूसरा। ",
    "👩‍👩‍👧‍👦🎉 e\u0301a\u0308 ",
    "supercalifragilistic" * 5,
    "\n\n  \n",
    "\u2028\u00a0\t",
    "... !!! ?",
    "ไม่มีช่องว่างเลย",
]
TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=120),
    st.lists(st.sampled_from(SNIPPETS), max_size=8).map("".join),
)


def utf8(text):
    return len(text.encode())


def spaced(text):
    """Not additive: a space joins the word after it, and a cut word costs more than the whole."""
    return sum(1 + len(word.encode()) // 3 for word in re.findall(r" ?\S+|\s", text))


COUNTERS = st.sampled_from([utf8, len, spaced])


def assert_in_order_with_only_white_space_between(chunks, text):
    position = 0
    for chunk in chunks:
        start = text.index(chunk, position)
        assert not text[position:start].strip()
        position = start + len(chunk)
    assert not text[position:].strip()


@settings(deadline=None, max_examples=200)
@given(TEXT)
def test_sentences_join_to_the_text(text):
    assert "".join(split_sentences(text)) == text


def test_sentences_end_where_a_reader_would_end_them():
    text = 'Dr. Smith met J. K. Rowling in the U.S. in May. It cost 3.5 dollars! "Really?" he said.\nYes'
    assert [s.strip() for s in split_sentences(text)] == [
        "Dr. Smith met J. K. Rowling in the U.S. in May.",
        "It cost 3.5 dollars!",
        '"Really?"',
        "he said.",
        "Yes",
    ]
    assert split_sentences("一。二！三") == ["一。", "二！", "三"]


@settings(deadline=None, max_examples=250)
@given(TEXT, st.integers(4, 60), COUNTERS)
def test_chunks_lose_nothing_and_keep_the_limit(text, limit, count):
    chunks = chunk_text(text, limit, count)
    assert all(chunk.strip() == chunk and chunk for chunk in chunks)
    assert all(count(chunk) <= limit for chunk in chunks)
    assert_in_order_with_only_white_space_between(chunks, text)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 9), max_size=60), st.integers(9, 40))
def test_packing_is_greedy(sizes, limit):
    ranges = list(pack(len(sizes), lambda i, j: sum(sizes[i:j]) <= limit))
    expected, start, total = [], 0, 0
    for i, size in enumerate(sizes):
        if total + size > limit:
            expected.append((start, i))
            start, total = i, 0
        total += size
    assert ranges == ([*expected, (start, len(sizes))] if sizes else [])


def test_paragraphs_then_sentences_then_words_then_characters():
    text = "One two. Three.\nFour five six. Seven.\neightnine"
    assert chunk_text(text, 15, len) == ["One two. Three.", "Four five six.", "Seven.", "eightnine"]
    assert chunk_text(text, 8, len) == [
        "One two.",
        "Three.",
        "Four",
        "five",
        "six.",
        "Seven.",
        "eightnin",
        "e",
    ]
    assert chunk_text(" \n ", 5, len) == []


@pytest.mark.parametrize(
    "text",
    ["word " * 50_000, "." * 200_000, "字" * 50_000, "\n" * 200_000 + "x", "?!" * 50_000, '."' * 50_000],
    ids=["words", "dots", "no spaces", "lines", "marks", "quotes"],
)
def test_huge_lines_take_linear_time(text):
    start = time.process_time()
    chunks = chunk_text(text, 2048, utf8)
    assert time.process_time() - start < 5
    assert all(utf8(chunk) <= 2048 for chunk in chunks)
    assert "".join("".join(chunks).split()) == "".join(text.split())


def test_a_character_over_the_limit_is_explained():
    with pytest.raises(UserError, match=r"takes 4 tokens.*limit of 3.*chunk_tokens"):
        chunk_text("ab 🎉", 3, utf8)


TURNS = st.lists(st.tuples(st.sampled_from(["1 May", "2 May"]), st.sampled_from(["Ann", "Bo"]), TEXT), max_size=12).map(
    lambda turns: [Turn(str(i), *turn) for i, turn in enumerate(turns)]
)


@settings(deadline=None, max_examples=150)
@given(TURNS, st.integers(45, 200), COUNTERS)
def test_turns_lose_nothing_and_keep_the_limit(turns, limit, count):
    chunks = chunk_turns(turns, limit, count)
    said = {turn.key: "" for turn in turns}
    keys = [key for chunk in chunks for key in chunk.keys]
    assert keys == sorted(keys, key=int)
    for chunk in chunks:
        assert count(chunk.text) <= limit
        lines = chunk.text.split("\n")
        assert lines[0].startswith("[Dialogue at timestamp ")
        speakers = [line for line in lines if not re.fullmatch(r"\[Dialogue at timestamp [12] May\]", line)]
        assert len(speakers) == len(chunk.keys) or len(chunk.keys) == 1
        for line, key in zip(speakers, chunk.keys, strict=True):
            role = f"<{turns[int(key)].role}>"
            assert line.startswith(role)
            said[key] += line.removeprefix(role)
    for turn in turns:
        assert "".join(said[turn.key].split()) == "".join(turn.text.split())


def test_a_turn_stays_whole_if_it_fits_a_chunk():
    rng = random.Random(0)
    turns = [Turn(str(i), f"day {i // 5}", "Ann", "word " * rng.randrange(1, 40)) for i in range(60)]
    chunks = chunk_turns(turns, 260, utf8)
    keys = [key for chunk in chunks for key in chunk.keys]
    assert keys == [turn.key for turn in turns]
    for chunk in chunks:
        days = [f"[Dialogue at timestamp day {int(key) // 5}]" for key in chunk.keys]
        assert [line for line in chunk.text.split("\n") if line[0] == "["] == list(dict.fromkeys(days))
