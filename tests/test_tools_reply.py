"""Reply tokens to call arrays: encoding, truncation, capacity, and the sub-action of every token."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizer import TinyTokenizer

from memalpha_jax.tools.calls import (
    TRUNCATION_NOTE,
    CallBatch,
    CallKind,
    Status,
    ToolCall,
    call_batch_spec,
    empty_call_batch,
    to_call_batch,
    truncate_with_note,
)
from memalpha_jax.tools.reply import parse_replies, parse_reply_tokens
from memalpha_jax.tools.wire import WIRES, call_frames, format_call, parse_calls

K, L, R = 4, 24, 400
both_wires = pytest.mark.parametrize("wire", WIRES)
texts = st.text(min_size=1, max_size=6).filter(str.strip)


def insert(content, kind="semantic_memory"):
    return "new_memory_insert", {"memory_type": kind, "content": content}


def padded(tokens, size=R):
    return np.array([*tokens, *[0] * (size - len(tokens))], np.int32)


def test_specification_matches_the_arrays():
    batch, spec = empty_call_batch(K, L, (3,)), call_batch_spec(K, L, (3,))
    for name, array in vars(batch).items():
        assert (array.shape, array.dtype) == (getattr(spec, name).shape, getattr(spec, name).dtype)


@both_wires
def test_fields_of_a_reply(wire):
    tokenizer = TinyTokenizer(call_frames(wire))
    wanted = [
        insert("A ✿ bird", "episodic_memory"),
        ("memory_update", {"memory_type": "semantic_memory", "memory_id": "12", "new_content": "é"}),
        ("memory_delete", {"memory_type": "core_memory"}),
        ("memory_update", {"memory_type": "semantic_memory", "new_content": "no id"}),
        insert("beyond K"),
    ]
    ids = [*tokenizer.encode_trusted("".join(format_call(*call, wire) for call in wanted)), tokenizer.eos_id]
    batch, subaction_R = parse_reply_tokens(padded(ids), len(ids), tokenizer, wire, K, L)
    assert batch.kind_K.tolist() == [CallKind.INSERT, CallKind.UPDATE, CallKind.DELETE, CallKind.UPDATE]
    assert batch.memory_type_K.tolist() == [1, 2, 0, 2]
    assert batch.item_id_K.tolist() == [-1, 12, -1, -1]
    assert batch.status_K.tolist() == [Status.OK] * 3 + [Status.MISSING_ARGUMENT]
    assert batch.dropped == 1
    stored = [tokenizer.decode(row[:n]) for row, n in zip(batch.content_KL, batch.length_K, strict=True)]
    assert stored == ["A ✿ bird", "é", "", ""]
    lengths = [len(tokenizer.encode_trusted(format_call(*call, wire))) for call in wanted]
    beyond = lengths[4] + 1  # the call beyond K and the end of the text
    assert subaction_R.tolist() == [*np.repeat([0, 1, 2, 3, K, -1], [*lengths[:4], beyond, R - len(ids)])]


@both_wires
@settings(max_examples=80, deadline=None)
@given(st.lists(texts, max_size=3), st.lists(st.sampled_from(["", "so ", "é\n", "✿ "]), min_size=4, max_size=4))
def test_subactions_follow_the_spans(wire, contents, prose):
    """Byte tokens: the bytes of sub-action i are the text of call i, all others are those of no call."""
    tokenizer = TinyTokenizer()
    text = "".join(gap + format_call(*insert(c), wire) for gap, c in zip(prose, contents, strict=False)) + prose[-1]
    ids = [*tokenizer.encode(text), tokenizer.eos_id]
    _, subaction_R = parse_reply_tokens(padded(ids, 1200), len(ids), tokenizer, wire, K, L)
    for i, call in enumerate(parse_calls(text, wire)):
        assert tokenizer.decode(np.array(ids)[subaction_R[: len(ids)] == i]) == text[slice(*call.span)]
    assert subaction_R[len(ids) - 1] == len(contents)
    assert (subaction_R[len(ids) :] == -1).all()
    assert (subaction_R[: len(ids)] >= 0).all()


@both_wires
@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(-3, 400), max_size=60), st.data())
def test_any_tokens_parse(wire, ids, data):
    tokenizer = TinyTokenizer(call_frames(wire))
    length = data.draw(st.integers(0, len(ids)))
    batch, subaction_R = parse_reply_tokens(padded(ids, 60), length, tokenizer, wire, K, L)
    assert ((subaction_R >= 0) == (np.arange(60) < length)).all()
    assert subaction_R.max(initial=0) <= K
    assert ((batch.status_K == Status.NO_CALL) == (np.arange(K) >= (batch.status_K >= 0).sum())).all()


def test_end_of_text_is_not_part_of_the_text():
    tokenizer = TinyTokenizer()
    ids = [
        *tokenizer.encode('✿FUNCTION✿: memory_delete\n✿ARGS✿: {"memory_type": "core_memory"}'),
        tokenizer.eos_id,
    ]
    batch, subaction_R = parse_reply_tokens(padded(ids), len(ids), tokenizer, "qwen_agent", K, L)
    assert batch.status_K[0] == Status.OK
    assert subaction_R[: len(ids)].tolist() == [0] * (len(ids) - 1) + [1]


def test_control_text_is_stored_as_text():
    tokenizer = TinyTokenizer(call_frames("hermes"))
    content = "<|im_end|><think>"
    ids = tokenizer.encode_trusted(format_call(*insert("@"), "hermes"))
    at = ids.index(tokenizer.encode("@")[0])
    ids[at : at + 1] = [*tokenizer.encode(content[:3]), *tokenizer.encode(content[3:])]
    batch, _ = parse_reply_tokens(padded(ids), len(ids), tokenizer, "hermes", K, L)
    assert batch.content_KL[0, : batch.length_K[0]].tolist() == tokenizer.encode(content)


@both_wires
def test_a_batch_is_its_rows(wire):
    tokenizer = TinyTokenizer(call_frames(wire))
    replies = ["", "nothing", format_call(*insert("a"), wire), format_call(*insert("b"), wire) * 6]
    rows = [tokenizer.encode_trusted(reply) for reply in replies]
    reply_NR, length_N = np.stack([padded(row) for row in rows]), np.array([len(row) for row in rows])
    batch, subaction_NR = parse_replies(reply_NR, length_N, tokenizer, wire, K, L)
    for n in range(len(rows)):
        one, subaction_R = parse_reply_tokens(reply_NR[n], length_N[n], tokenizer, wire, K, L)
        np.testing.assert_array_equal(subaction_NR[n], subaction_R)
        for name, value in vars(one).items():
            np.testing.assert_array_equal(getattr(batch, name)[n], value)


def core_update(text):
    return ToolCall("memory_update", {"memory_type": "core_memory", "new_content": text}, Status.OK, (0, 1))


def encoded(call, core_tokens=20) -> CallBatch:
    return to_call_batch([call], TinyTokenizer(), K, L, core_tokens)


def test_long_core_text_is_cut_at_a_word_with_a_note():
    batch = encoded(core_update("one two three four five six"))
    assert batch.status_K[0] == Status.TRUNCATED
    assert TinyTokenizer().decode(batch.content_KL[0, : batch.length_K[0]]) == "one two" + TRUNCATION_NOTE


def test_content_over_capacity_is_refused_whole():
    batch = encoded(ToolCall(*insert("x" * (L + 1)), Status.OK, (0, 1)))
    assert (batch.status_K[0], batch.length_K[0], batch.content_KL.any()) == (Status.CAPACITY, 0, False)
    assert encoded(ToolCall(*insert("x" * L), Status.OK, (0, 1))).status_K[0] == Status.OK
    assert encoded(core_update("y " * L), core_tokens=L + 2).status_K[0] == Status.CAPACITY


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab é✿\n"), min_size=1, max_size=60), st.integers(0, 40))
def test_truncation_keeps_as_many_whole_words_as_fit(text, limit):
    tokenizer = TinyTokenizer()
    if len(tokenizer.encode(text)) <= limit:
        return
    tokens = truncate_with_note(text, tokenizer, limit)
    assert len(tokens) <= limit
    if limit <= len(TRUNCATION_NOTE):
        return
    kept = tokenizer.decode(tokens)
    assert kept.endswith(TRUNCATION_NOTE)
    room = limit - len(TRUNCATION_NOTE)
    ends = [i for i in range(len(text) + 1) if not text[i : i + 1].strip() and len(text[:i].rstrip().encode()) <= room]
    whole = max((text[:i].rstrip() for i in ends), key=len, default="")
    kept = kept.removesuffix(TRUNCATION_NOTE)
    assert kept == whole if whole.strip() else text.startswith(kept)
