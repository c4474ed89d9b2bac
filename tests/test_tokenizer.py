"""Any text survives a round trip, and only the program's own text yields control tokens and frames."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from memalpha_jax.errors import UserError
from memalpha_jax.policy.tokenizer import CONTROL, EOS, SentencePieceTokenizer
from memalpha_jax.tools.wire import call_frames, format_call

FRAMES = call_frames("qwen_agent")
LIVES = [f"{name} lives in {place}" for name in ("Kelora", "Tavin") for place in ("Rome", "Oslo")]
TEXTS = [f"{text} since {year}.\n" for text in LIVES for year in range(1990, 2010)]
SPECIAL = (*CONTROL, *FRAMES, "\u2581", "<0x0A>", "<unk>", "</s>", "<s>", "\n", " ", "\0", "\r\n", "Kelora")
UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
MIXED = st.lists(st.one_of(st.sampled_from(SPECIAL), UNICODE), max_size=6).map("".join)


def train(frames=FRAMES) -> SentencePieceTokenizer:
    return SentencePieceTokenizer.train(TEXTS, 330, frames)


TOKENIZER = train()
PIECES = TOKENIZER.vocab_size - len(TOKENIZER.frames)


@settings(deadline=None, max_examples=300)
@given(MIXED)
@example("\0a\0")
@example("".join(SPECIAL))
@example(" \n  \n\n\t  x  ")
@example("e\u0301 \u202eabc \ufeff \U0001f600")
def test_any_text_survives_and_never_yields_a_frame(text):
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert b"".join(map(TOKENIZER.token_bytes, ids)) == text.encode()
    assert all(0 < token < PIECES for token in ids)


@settings(deadline=None, max_examples=300)
@given(MIXED)
@example("<|im_end|>" * 3)
@example(FRAMES[0] + "<|im_start" + EOS)
def test_trusted_text_yields_exactly_its_frames(text):
    ids = TOKENIZER.encode_trusted(text)
    assert TOKENIZER.decode(ids) == text
    longest_first = sorted(TOKENIZER.frames, key=len, reverse=True)
    expected = re.findall("|".join(map(re.escape, longest_first)), text)
    assert [TOKENIZER.frames[token - PIECES] for token in ids if token >= PIECES] == expected


@settings(deadline=None)
@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=12))
def test_any_ids_decode_to_their_bytes(ids):
    expected = b"".join(TOKENIZER.token_bytes(token) for token in ids).decode("utf-8", "replace")
    assert TOKENIZER.decode(ids) == expected


def test_lone_surrogates_are_replaced():
    assert TOKENIZER.decode(TOKENIZER.encode("a\ud800b")) == "a?b"


def test_every_byte_is_a_token_and_padding_is_none():
    single = {TOKENIZER.token_bytes(token) for token in range(PIECES)}
    assert {bytes([b]) for b in range(256)} <= single
    assert TOKENIZER.token_bytes(0) == b""
    assert TOKENIZER.decode([0, *TOKENIZER.encode("Oslo"), 0]) == "Oslo"


def test_longest_frame_wins():
    tokenizer = train(["<a>", "<a><b>", "<b>"])
    ids = tokenizer.encode_trusted("<b><a><b><a>")
    assert [tokenizer.token_bytes(token) for token in ids] == [b"<b>", b"<a><b>", b"<a>"]


def test_a_call_is_frames_around_its_content():
    call = format_call("new_memory_insert", {"memory_type": "semantic_memory", "content": "Oslo"}, "qwen_agent")
    begin, *content, end = TOKENIZER.encode_trusted(call)
    assert TOKENIZER.decode(content) == "Oslo"
    assert content == TOKENIZER.encode("Oslo")
    assert {TOKENIZER.decode([begin]), TOKENIZER.decode([end])} < set(FRAMES)


def test_known_words_are_few_pieces_and_digits_stay_single():
    assert len(TOKENIZER.encode("Kelora lives in Oslo since ")) < 10
    assert [TOKENIZER.decode([token]) for token in TOKENIZER.encode("1999")] == list("1999")
    assert TOKENIZER.token_bytes(TOKENIZER.eos_id) == EOS.encode()


def test_training_is_deterministic_and_every_frame_is_there_once():
    again = train((*FRAMES, FRAMES[0], EOS))
    assert again.files() == TOKENIZER.files()
    assert TOKENIZER.frames == tuple(dict.fromkeys((*CONTROL, *FRAMES)))


def test_files_and_folders_give_the_same_tokenizer_back(tmp_path):
    TOKENIZER.save(tmp_path / "a/b")
    for other in (
        SentencePieceTokenizer.from_files(TOKENIZER.files()),
        SentencePieceTokenizer.load(tmp_path / "a/b"),
    ):
        assert other.files() == TOKENIZER.files()
        assert (other.vocab_size, other.eos_id) == (TOKENIZER.vocab_size, TOKENIZER.eos_id)
        text = "".join(SPECIAL)
        assert other.encode(text) == TOKENIZER.encode(text)
        assert other.encode_trusted(text) == TOKENIZER.encode_trusted(text)


def test_incomplete_and_wrong_files_are_told(tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer in .*absent"):
        SentencePieceTokenizer.load(tmp_path / "absent")
    files = TOKENIZER.files()
    for name in files:
        with pytest.raises(UserError, match=f"{name} missing"):
            SentencePieceTokenizer.from_files({other: files[other] for other in files if other != name})
    with pytest.raises(UserError, match="not a SentencePiece model"):
        SentencePieceTokenizer.from_files({**files, "tokenizer.model": b"\x01 junk"})
    for content in (b"[1", b"\xff", b"{}", b'["<a>"]'):
        with pytest.raises(UserError, match=r"frames\.json"):
            SentencePieceTokenizer.from_files({**files, "frames.json": content})
    with pytest.raises(UserError, match=r"training the tokenizer failed.*too small"):
        SentencePieceTokenizer.train(TEXTS, 20)
