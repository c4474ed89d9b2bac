"""The warm start's rows: reproducible, their replies parse, and what they copy stands in their prompts."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
from small_policy import SIZES

from memalpha_jax.episodes.generated import vocabulary_texts
from memalpha_jax.episodes.names import names
from memalpha_jax.memory.state import MemoryConfig
from memalpha_jax.policy.tokenizer import SentencePieceTokenizer
from memalpha_jax.rollout.engine import make_engine
from memalpha_jax.rollout.rollout import RolloutConfig
from memalpha_jax.rollout.steps import Steps
from memalpha_jax.tools.calls import CallKind, Status, ToolCall
from memalpha_jax.tools.prompts import load_template
from memalpha_jax.tools.wire import call_frames, parse_calls
from memalpha_jax.warmstart_copying import copyable_pieces, copying_rows
from memalpha_jax.warmstart_data import PRACTICE, LessonConfig, Rows, demonstrations

COPY = LessonConfig(10, demonstrate=False, lines_min=2, lines_max=4)
WORLD = dataclasses.replace(PRACTICE, sentences_min=4, sentences_max=6)
REVISE = LessonConfig(10, demonstrate=False, lines_min=2, lines_max=3, pieces_min=3, pieces_max=5, stored=3)
SHOW = LessonConfig(10, demonstrate=True, world=WORLD, chunks=4)
SAMPLE_TEXTS = [*vocabulary_texts(), load_template("compact")]
TOKENIZER = SentencePieceTokenizer.train(SAMPLE_TEXTS, 900, call_frames("qwen_agent"))


@pytest.fixture(scope="module")
def steps() -> Steps:
    memory = MemoryConfig(core_tokens=8, items=24, arena_tokens=256, shown_items=1, similar_items=2)
    rollout = RolloutConfig(prompt_tokens=150, reply_tokens=64, max_calls=6, template="compact")
    return Steps(make_engine(dataclasses.replace(SIZES, vocab_size=0), memory, rollout, TOKENIZER))


def read(rows: Rows) -> list[tuple[str, list[str], list[ToolCall]]]:
    """(what comes before the chunk, the chunk's lines, the reply's calls) of every row."""
    found = []
    for prompt, length, reply, reply_length in zip(*dataclasses.astuple(rows), strict=True):
        before, chunk = TOKENIZER.decode(prompt[:length].tolist()).rsplit("Text\n", 1)
        assert reply[reply_length - 1] == TOKENIZER.eos_id
        assert (prompt[length:] == 0).all()
        assert (reply[reply_length:] == 0).all()
        calls = parse_calls(TOKENIZER.decode(reply[: reply_length - 1].tolist()), "qwen_agent")
        found.append((before, chunk.removesuffix("<|im_end|><|im_start|>").split("\n"), calls))
    return found


def assert_same(one: Rows, other: Rows):
    for a, b in zip(dataclasses.astuple(one), dataclasses.astuple(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def shown(steps) -> Rows:
    return demonstrations(steps, TOKENIZER, SHOW, 8, 0, 16)


@pytest.fixture(scope="module")
def copied(steps) -> Rows:
    return copying_rows(steps, TOKENIZER, COPY, 40, 0, 3)


def test_demonstrations_are_a_function_of_their_arguments(steps, shown):
    assert_same(demonstrations(steps, TOKENIZER, SHOW, 8, 0, 16), shown)
    for seed, first in ((0, 24), (1, 16)):
        other = demonstrations(steps, TOKENIZER, SHOW, 8, seed, first)
        assert other.reply_MR.shape != shown.reply_MR.shape or (other.reply_MR != shown.reply_MR).any()


def test_demonstrations_copy_lines_of_the_chunk_in_order_and_once(shown):
    stored, lines_seen, updates, types = 0, 0, 0, []
    for before, lines, calls in read(shown):
        assert {call.status for call in calls} <= {Status.OK}
        texts = [call.content for call in calls]
        assert texts == [line for line in lines if line in texts]
        for call in calls:
            types.append(call.memory_type)
            if call.kind == CallKind.UPDATE:
                assert f'", "memory_id": "{call.memory_id}\n' in before
                updates += 1
            else:
                assert f'\n{call.content}", "memory_id"' not in before  # another sentence may end like this one
        stored, lines_seen = stored + len(calls), lines_seen + len(lines)
        assert WORLD.sentences_min <= len(lines) <= WORLD.sentences_max
    assert 0.3 < stored / lines_seen < 0.7
    assert updates > 0
    assert set(types) == {1, 2}


def test_demonstrations_show_training_names_only(shown):
    words = {word for before, lines, _ in read(shown) for word in " ".join([before, *lines]).replace(".", " ").split()}
    for kind in ("person", "place", "thing"):
        assert words & set(names(kind, "train"))
        assert not words & set(names(kind, "eval"))


def test_copying_rows_copy_every_line_token_by_token(copied):
    types = []
    for before, lines, calls in read(copied):
        assert before.count("none") == 3
        assert COPY.lines_min <= len(lines) <= COPY.lines_max
        assert [(call.kind, call.content, call.status) for call in calls] == [
            (CallKind.INSERT, line, Status.OK) for line in lines
        ]
        types += [call.memory_type for call in calls]
    assert 0.3 < np.mean(np.array(types) == 1) < 0.7
    pieces = set(copyable_pieces(TOKENIZER).tolist())
    for prompt, length, reply, reply_length in zip(*dataclasses.astuple(copied), strict=True):
        written = [token for token in reply[:reply_length].tolist() if token in pieces]
        read_ones = [token for token in prompt[:length].tolist() if token in pieces]
        assert read_ones[-len(written) :] == written


def test_skipped_lines_are_left_out_and_the_others_keep_their_order(steps):
    rows = copying_rows(steps, TOKENIZER, dataclasses.replace(COPY, skip=0.4), 60, 0, 3)
    stored = lines_seen = 0
    for _, lines, calls in read(rows):
        texts = [call.content for call in calls]
        rest = iter(lines)
        assert all(text in rest for text in texts)
        stored, lines_seen = stored + len(texts), lines_seen + len(lines)
    assert 0.5 < stored / lines_seen < 0.7


def test_copying_rows_are_a_function_of_their_arguments(steps, copied):
    assert_same(copying_rows(steps, TOKENIZER, COPY, 40, 0, 3), copied)
    for seed, number in ((0, 4), (1, 3)):
        other = copying_rows(steps, TOKENIZER, COPY, 40, seed, number)
        assert other.reply_MR.shape != copied.reply_MR.shape or (other.reply_MR != copied.reply_MR).any()


def test_copying_rows_are_rendered_by_code_compiled_once(steps, copied):
    compiled = steps.render._cache_size()
    for number, lines in enumerate((1, 3, 5)):
        lesson = dataclasses.replace(COPY, lines_min=lines, lines_max=lines)
        assert len(copying_rows(steps, TOKENIZER, lesson, 40, 0, number).prompt_len_M)
    assert steps.render._cache_size() == compiled


def test_revisions_repeat_the_beginning_of_the_item_whose_id_they_state(steps):
    rows = copying_rows(steps, TOKENIZER, REVISE, 60, 0, 0)
    prompt_calls, ids, kinds = 0, set(), []
    for before, lines, calls in read(rows):
        lists = re.findall(r'^(Events|Facts)$|^(.*)", "memory_id": "(\d+)$', before, re.MULTILINE)
        items, kind = {}, 0
        for heading, text, item_id in lists:
            kind = {"Events": 1, "Facts": 2}.get(heading, kind)
            items |= {int(item_id): (kind, text)} if item_id else {}
        assert 2 <= len(items) <= 3
        assert [call.content for call in calls] == lines
        for call in calls:
            kinds.append(call.kind)
            assert call.status == Status.OK
            if call.kind == CallKind.INSERT:
                assert not any(call.content.startswith(text) for _, text in items.values())
                continue
            ids.add(call.memory_id)
            if call.memory_id in items:
                kind, text = items[call.memory_id]
                assert call.memory_type == kind
                assert call.content != text
                beginning = TOKENIZER.decode(TOKENIZER.encode(text)[:1])
                assert beginning in call.content
                prompt_calls += 1
    assert prompt_calls > 60
    assert 0.35 < np.mean(np.array(kinds) == CallKind.INSERT) < 0.65
    assert len(ids) > 6  # ids have gaps, so that they cannot be guessed from the order


def test_copyable_pieces_stand_for_themselves_in_json():
    pieces = copyable_pieces(TOKENIZER)
    assert len(pieces) > 400
    for token in pieces.tolist():
        text = TOKENIZER.token_bytes(token).decode()
        assert json.dumps(text, ensure_ascii=False) == f'"{text}"'
        assert TOKENIZER.encode(text) == [token]
    assert pieces.max() < TOKENIZER.vocab_size - len(TOKENIZER.frames)
    assert not {TOKENIZER.encode(mark)[0] for mark in ("\n", '"', "\\")} & set(pieces.tolist())


def test_lines_have_the_stated_number_of_pieces(copied):
    pieces = set(copyable_pieces(TOKENIZER).tolist())
    counts: list[int] = []
    for reply, length in zip(copied.reply_MR, copied.reply_len_M, strict=True):
        inside = [token in pieces for token in reply[:length].tolist()]
        edges = np.flatnonzero(np.diff([False, *inside, False]))
        counts += (edges[1::2] - edges[::2]).tolist()
    assert (min(counts), max(counts)) == (COPY.pieces_min, COPY.pieces_max)
