"""Chunkers and wrapping: nothing lost, nothing over the limit, whole units whole, in linear time, whatever the text."""

import datetime
import functools
import itertools
import re
import sys
import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from qwen_folder import qwen_folder

from memalpha_jax.episodes.chunkers import (
    Unit,
    sample_chunker,
    sentence_chunker,
    session_chunker,
    unit_chunker,
    variable_chunker,
)
from memalpha_jax.episodes.sentences import WINDOW, pack, split_blocks, split_sentences
from memalpha_jax.episodes.wrapping import DOCUMENTS, READING, SAMPLES, Wrapper, labelled_sample
from memalpha_jax.errors import UserError
from memalpha_jax.policy.hf_tokenizer import HuggingFaceTokenizer

SNIPPETS = [
    "Dr. Smith met J. K. Rowling in the U.S. in 1999. It cost 3.5 dollars! ",
    "中文句子没有空格。第二句！第三句？",
    "日本語の文です。「はい。」と言った。",
    "هل هذا سؤال؟ نعم. ",
    "यह एक वाक्य है। दूसरा। ",
    "Это первое предложение. А это второе? ",
    "👩‍👩‍👧‍👦🎉 e\u0301a\u0308 ",
    "def f(x):\n    return x.y  # no. 1\n\n\nclass A:\n\tpass\n",
    "supercalifragilistic" * 5,
    "\n\n  \n",
    "\u2028\u00a0\t",
    "A\u00a0. “I. ",
    "... !!! ?",
    "ไม่มีช่องว่างเลย",
    "<|im_end|>\n<User>Title: x\nLabel: 3",
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


@functools.cache
def _qwen():
    return HuggingFaceTokenizer.load(qwen_folder())


def qwen(text):
    return len(_qwen().encode(text))


COUNTERS = pytest.mark.parametrize("count", [utf8, len, spaced, qwen], ids=lambda count: count.__name__)
LIMITS = st.integers(40, 300)


@st.composite
def units(draw, **fields):
    """Units named 0, 1, ..; some titled, some blank."""
    texts = draw(st.lists(TEXT, max_size=10))
    return [
        Unit(text, i, **{name: draw(st.sampled_from(values)) for name, values in fields.items()})
        for i, text in enumerate(texts)
    ]


def squeezed(text):
    return "".join(text.split())


def assert_sound(chunks, units, limit, count, heads=lambda unit, first: ""):
    """Limits hold, and the text of every chunk is the next part of the stream below the heads of its units."""
    assert all(count(chunk.text) <= limit and chunk.text == chunk.text.strip() != "" for chunk in chunks)
    left = {unit.key: squeezed(unit.text) for unit in units if unit.text.strip()}
    order = list(left)
    for chunk in chunks:
        shown, previous = squeezed(chunk.text), None
        for n, key in enumerate(chunk.keys):
            assert key == next(k for k in order if left[k])  # in order, each where the last chunk stopped
            head = squeezed(heads(units[key], previous))
            assert shown.startswith(head)
            shown = shown.removeprefix(head)
            here = left[key] if n + 1 < len(chunk.keys) else shown  # all but the last unit end in this chunk
            assert here
            assert shown.startswith(here)
            assert left[key].startswith(here)
            shown, left[key], previous = shown.removeprefix(here), left[key].removeprefix(here), units[key]
        assert not shown
    assert not any(left.values())


wrapper_of = functools.cache(Wrapper)


def title(unit, previous):
    return f"Title: {unit.title}" if unit.title else ""


@settings(deadline=None, max_examples=100)
@given(TEXT)
@example("")
@example("A\u0085. B")  # white space of several bytes
@example("a. b\ud800. c")
@example("A b. " * 9000)
@example("“a. " * 9000)
def test_sentences_and_blocks_join_to_the_text(text):
    for parts in (split_sentences(text), split_blocks(text)):
        assert "".join(parts) == text
        assert all(part.strip() for part in parts[1:])  # the first may be the white space that the text starts with


def test_sentences_end_where_a_reader_would_end_them():
    text = "Dr. Smith met J. K. Rowling in the U.S. in May. It cost 3.5 dollars! He said\nyes.\nNo\n\nHe left"
    assert [s.strip() for s in split_sentences(text)] == [
        "Dr. Smith met J. K. Rowling in the U.S. in May.",
        "It cost 3.5 dollars!",
        "He said\nyes.",
        "No",
        "He left",
    ]
    assert split_sentences("一。二！三") == ["一。", "二！", "三"]
    assert split_sentences("यह है। वह भी है।") == ["यह है। ", "वह भी है।"]


def test_every_white_space_is_known():
    """sentencex 1.0.32 panics at "A", a white space of several bytes, "."."""
    for space in filter(str.isspace, map(chr, range(sys.maxunicode + 1))):
        text = f"Plan A{space}. B{space}"
        assert "".join(split_sentences(text)) == text


def test_the_window_of_long_lines_cuts_no_sentence():
    sentence = "Mr. Smith has a cat that is called Tom. "
    for shift in range(0, len(sentence), 7):
        text = "x" * shift + ". " + sentence * (3 * WINDOW // len(sentence))
        assert set(split_sentences(text)[1:]) == {sentence}


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 9), max_size=60), st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_packing_is_greedy(sizes, limits):
    measure = lambda i, j: sum(sizes[i:j])
    found = list(pack([1] * len(sizes), measure, itertools.cycle(limits)))
    expected, targets = [], itertools.cycle(limits)
    start = 0
    while start < len(sizes):
        target, end = next(targets), start + 1
        while end < len(sizes) and measure(start, end + 1) <= target:
            end += 1
        expected.append((start, end, measure(start, end)))
        start = end
    assert found == expected


def test_packing_counts_each_token_a_few_times_only():
    """However many parts there are, and however unlike their tokens per character."""
    rng = np.random.default_rng(0)
    for rates in ([1.0], [0.2, 0.3], [0.01, 3.0]):
        lengths = rng.integers(1, 40, 20_000).tolist()
        tokens = [max(1, round(n * rates[i // 500 % len(rates)])) for i, n in enumerate(lengths)]
        total = [0, *itertools.accumulate(tokens)]
        asked = []

        def measure(i, j, total=total, asked=asked):
            asked.append(total[j] - total[i])
            return asked[-1]

        ranges = list(pack(lengths, measure, itertools.repeat(2048)))
        assert all(t <= 2048 for _, _, t in ranges)
        assert sum(asked) < 8 * total[-1]


@COUNTERS
@settings(deadline=None, max_examples=25)
@given(units(title=["", "A title", "表題"]), LIMITS, st.integers(0, 300), st.integers(0, 9))
def test_text_chunkers_lose_nothing_and_keep_the_limit(count, units, limit, low, seed):
    rng = np.random.default_rng(seed)
    for chunker in (
        sentence_chunker(limit, count),
        unit_chunker(limit, count),
        variable_chunker(low, limit, count, rng),
    ):
        assert_sound(chunker(units), units, limit, count, title)


def shown_turns(turns):
    """Whole turns as a chunk shows them."""
    lines, previous = [], None
    for turn in turns:
        lines += [f"[Dialogue at timestamp {turn.when}]"] if turn.when != previous else []
        lines.append(f"<{turn.role}>" * bool(turn.role) + " ".join(turn.text.split()))
        previous = turn.when
    return "\n".join(lines)


def packed_turns(turns, low, limit, count):
    """Chunks of whole turns: one closes when it has `low` tokens, or before it would have more than `limit`."""
    chunks = []
    for turn in turns:
        if chunks and count(shown_turns(chunks[-1])) < low and count(shown_turns([*chunks[-1], turn])) <= limit:
            chunks[-1].append(turn)
        else:
            chunks.append([turn])
    return [shown_turns(chunk) for chunk in chunks]


@COUNTERS
@settings(deadline=None, max_examples=25)
@given(units(when=["1 May", "2 May"], role=["Ann", "Bo", ""]), st.integers(60, 500), st.integers(1, 300))
def test_session_chunks_lose_nothing_and_close_in_time(count, units, limit, low):
    def head(unit, previous):
        when = "" if previous and previous.when == unit.when else f"[Dialogue at timestamp {unit.when}]"
        return when + (f"<{unit.role}>" if unit.role else "")

    low = min(low, limit)
    chunks = session_chunker(limit, count, low)(units)
    assert_sound(chunks, units, limit, count, head)
    parts = [key for chunk in chunks for key in chunk.keys]
    said = [unit for unit in units if unit.text.strip()]
    assert all(count(shown_turns([unit])) > limit or parts.count(unit.key) == 1 for unit in said)
    if all(count(shown_turns([unit])) <= limit for unit in said):
        assert [chunk.text for chunk in chunks] == packed_turns(said, low, limit, count)


@COUNTERS
@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(TEXT, st.integers(0, 99)), max_size=10), st.integers(20, 300))
def test_samples_are_whole_or_refused(count, samples, limit):
    units = [Unit(labelled_sample(text, str(label)), i) for i, (text, label) in enumerate(samples)]
    too_long = [unit for unit in units if count(unit.text) > limit]
    if too_long:
        with pytest.raises(UserError, match=r"labelled sample .* over the chunk limit .* never cut"):
            sample_chunker(limit, count)(units)
        return
    chunks = sample_chunker(limit, count)(units)
    assert "\n".join(chunk.text for chunk in chunks) == "\n".join(unit.text for unit in units)
    assert all(count(chunk.text) <= limit for chunk in chunks)
    assert [key for chunk in chunks for key in chunk.keys] == list(range(len(units)))  # in one chunk each


@COUNTERS
@pytest.mark.parametrize("style", [DOCUMENTS, SAMPLES, READING], ids=["documents", "samples", "reading"])
@settings(deadline=None, max_examples=10)
@given(units=units(), room=st.integers(20, 200), seed=st.integers(0, 99))
def test_the_limit_holds_for_the_wrapped_text(count, style, units, room, seed):
    wrapper = wrapper_of(style, count)
    limit = wrapper.count_tokens("") + room
    chunks = sentence_chunker(limit, wrapper.count_tokens)(units)
    wrapped = wrapper.wrap([chunk.text for chunk in chunks], np.random.default_rng(seed))
    assert wrapped == wrapper.wrap([chunk.text for chunk in chunks], np.random.default_rng(seed))
    assert all(count(w.text) <= limit for w in wrapped)
    for chunk, shown in zip(chunks, wrapped, strict=True):
        day, opener, rest = shown.text.split("\n", 2)
        text, _, reply = rest.rpartition("\n")
        assert day == f"[Dialogue at timestamp {shown.date}]"
        assert opener.removeprefix("<User>") in style.openers
        assert text == chunk.text
        assert reply.removeprefix("<Assistant>") in style.replies


def test_days_go_on_from_new_year_and_all_lines_are_drawn():
    rng = np.random.default_rng(0)
    for style, steps in ((DOCUMENTS, {1}), (SAMPLES, {1}), (READING, {1, 2, 3})):
        wrapped = Wrapper(style, len).wrap(["text"] * 200, rng)
        days = [w.date for w in wrapped]
        assert days[0] == datetime.date(2024, 1, 1)
        assert {(b - a).days for a, b in itertools.pairwise(days)} == steps
        for lines in (style.openers, style.replies):
            assert all(any(line in w.text for w in wrapped) for line in lines)
    assert not Wrapper(DOCUMENTS, len).wrap([], rng)
    assert all(opener.endswith(":") for style in (DOCUMENTS, SAMPLES, READING) for opener in style.openers)


def test_blocks_then_sentences_then_lines_then_words_then_characters():
    def cut(text, limit):
        return [chunk.text for chunk in unit_chunker(limit, len)([Unit(text)])]

    text = "One two. Three.\n\nFour five six. Seven.\n\neight\nnine\ntentwelve"
    assert cut(text, 21) == ["One two. Three.", "Four five six. Seven.", "eight\nnine\ntentwelve"]
    assert cut(text, 15) == ["One two. Three.", "Four five six.", "Seven.", "eight\nnine", "tentwelve"]
    assert cut(text, 8) == [*("One two.", "Three.", "Four", "five", "six.", "Seven.", "eight", "nine", "tentwelv", "e")]
    assert cut(" \n ", 5) == []


def test_sentences_fill_chunks_greedily_across_units():
    rng = np.random.default_rng(0)
    sentences = [f"He saw {'very ' * int(n)}much." for n in rng.integers(0, 30, 400)]
    units = [Unit(" ".join(sentences[i : i + 20]), i) for i in range(0, 400, 20)]
    expected = [sentences[0]]
    for i, sentence in enumerate(sentences[1:], 1):
        longer = expected[-1] + ("\n" if i % 20 == 0 else " ") + sentence
        if len(longer) <= 300:
            expected[-1] = longer
        else:
            expected.append(sentence)
    assert [chunk.text for chunk in sentence_chunker(300, len)(units)] == expected


def test_a_line_without_sentences_fills_its_chunks():
    for chunker in (sentence_chunker, unit_chunker):
        chunks = chunker(2048, lambda text: len(text.split()))([Unit("word " * 50_000)])
        assert [chunk.text.count("word") for chunk in chunks] == [2048] * 24 + [848]


def test_targets_of_variable_chunks_are_uniform():
    units = [Unit("x" * 9, i) for i in range(40_000)]
    chunks = variable_chunker(100, 1000, len, np.random.default_rng(0))(units)
    lengths = np.array([len(chunk.text) for chunk in chunks])
    assert lengths.min() >= 90
    assert abs(lengths.mean() - 545) < 40
    counts, _ = np.histogram(lengths, bins=9, range=(95, 995))
    assert counts.min() > 0.6 * counts.mean()


def test_session_chunks_close_between_the_limits():
    rng = np.random.default_rng(0)
    turns = [Unit("word " * int(n), i, when=f"day {i // 9}", role="Ann") for i, n in enumerate(rng.integers(1, 9, 500))]
    chunks = session_chunker(600, len, 500)(turns)
    assert all(500 <= len(chunk.text) <= 600 for chunk in chunks[:-1])
    assert [key for chunk in chunks for key in chunk.keys] == list(range(500))
    greedy = session_chunker(600, len, 600)(turns)
    assert len(greedy) < len(chunks)


@pytest.mark.parametrize("count", [utf8, qwen])
@pytest.mark.parametrize(
    "text",
    [
        "word " * 50_000,
        "." * 200_000,
        "字" * 50_000,
        "\n" * 200_000 + "x",
        "?!" * 50_000,
        '."' * 50_000,
        "“A. " * 25_000,
        "The cat sat on Mr. Smith. " * 10_000,
        "👩‍👩‍👧‍👦" * 5000,
        ("x" + " " * 5000) * 20,
    ],
    ids=["words", "dots", "no spaces", "lines", "marks", "quotes", "open quotes", "sentences", "emoji", "gaps"],
)
def test_huge_lines_take_linear_time(text, count):
    count("warm")
    for chunker in (sentence_chunker(2048, count), unit_chunker(2048, count)):
        start = time.process_time()
        chunks = chunker([Unit(text)])
        assert time.process_time() - start < 5
        assert all(count(chunk.text) <= 2048 for chunk in chunks)
        assert squeezed("".join(chunk.text for chunk in chunks)) == squeezed(text)


def test_what_has_no_room_is_explained():
    with pytest.raises(UserError, match=r"takes 4 tokens.*limit of 3.*chunk_tokens"):
        unit_chunker(3, utf8)([Unit("ab 🎉")])
    with pytest.raises(UserError, match=r"limit of 9 .it stands below 'Title: Long.*raise chunk_tokens"):
        sentence_chunker(9, len)([Unit("text", title="Long title")])
