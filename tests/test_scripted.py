"""Scripted writers do what they say, and a scripted rollout does to a memory what lists in Python do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
from small_policy import SIZES
from tiny_tokenizer import TinyTokenizer

from memalpha_jax.episodes.batch import tokenize_episodes
from memalpha_jax.episodes.episode import Episode
from memalpha_jax.episodes.generated import WorldConfig, generate_episodes, sentences
from memalpha_jax.memory.state import MemoryConfig, MemoryItem, MemoryType, memory_items, unstack
from memalpha_jax.memory.template import DEFAULT_ITEM_FORMAT
from memalpha_jax.rollout import scripted
from memalpha_jax.rollout.engine import make_engine
from memalpha_jax.rollout.rollout import RolloutConfig
from memalpha_jax.rollout.scripted import (
    Demonstrator,
    RandomChooser,
    View,
    fit_reply,
    oracle,
    scripted_rollout,
)
from memalpha_jax.rollout.steps import Steps
from memalpha_jax.tools.calls import CallKind, Status
from memalpha_jax.tools.wire import call_frames, parse_calls

WIRE = "qwen_agent"
WORLD = WorldConfig(sentences_min=4, sentences_max=6, correction_rate=0.5)
EPISODES = generate_episodes(WORLD, "train", 6, chunks=5)
TOKENIZER = TinyTokenizer(call_frames(WIRE))
EPISODIC, SEMANTIC = MemoryType.EPISODIC, MemoryType.SEMANTIC


class ListMemory:
    """The two lists as one Python list of [id, type, text], in order of insertion."""

    def __init__(self) -> None:
        self.items: list[list] = []
        self.made = 0

    def apply(self, calls: list[scripted.Call]) -> None:
        for name, arguments in calls:
            kind = {"episodic_memory": EPISODIC, "semantic_memory": SEMANTIC}[arguments["memory_type"]]
            if name == "memory_update":
                (item,) = [x for x in self.items if x[:2] == [int(arguments["memory_id"]), kind]]
                item[2] = arguments["new_content"]
            elif [kind, arguments["content"]] not in [x[1:] for x in self.items]:
                self.made += 1
                self.items.append([self.made, kind, arguments["content"]])

    def view(self, episode: Episode, t: int, shown: int) -> View:
        items = [(MemoryItem(i, kind, (), 0, 0), text) for i, kind, text in self.items]
        prompt = "".join(f"[{i}] {text}\n" for i, _, text in self.items[len(self.items) - shown :])
        lines = sentences(episode)
        return View(lines[t], items, prompt, DEFAULT_ITEM_FORMAT, lines)


def played(writer: scripted.Writer, shown: int = 100, seed: int = 0) -> Iterator[tuple[View, list[scripted.Call]]]:
    """Every (view, calls) of a writer on the episodes, the memory kept in Python."""
    for i, episode in enumerate(EPISODES):
        memory, rng = ListMemory(), np.random.default_rng([seed, i])
        for t in range(len(episode.chunks)):
            view = memory.view(episode, t, min(shown, len(memory.items)))
            calls = writer(view, rng)
            memory.apply(calls)
            yield view, calls


def text_of(call: scripted.Call) -> str:
    return call[1].get("content") or call[1]["new_content"]


def right_type(line) -> str:
    return "episodic_memory" if line.kind.startswith("event") else "semantic_memory"


def stale_item(line, view: View) -> tuple[str, str] | None:
    """Id and list of the stored item that `line` makes stale."""
    if line.corrects is None:
        return None
    old = view.episode_lines[line.corrects[0]][line.corrects[1]].text
    found = [(str(i.id), i.type) for i, text in view.items if text == old]
    return found[0] if found else None


def test_the_oracle_stores_exactly_what_is_asked_in_the_right_list():
    asked = 0
    for view, calls in played(oracle):
        wanted = [line for line in view.lines if line.asked]
        assert [text_of(call) for call in calls] == [line.text for line in wanted]
        assert [call[1]["memory_type"] for call in calls] == [right_type(line) for line in wanted]
        asked += len(wanted)
    assert asked == sum(len(episode.questions) for episode in EPISODES)


def test_the_random_chooser_copies_at_its_rate_and_updates_what_is_corrected():
    assert all(calls == [] for _, calls in played(RandomChooser(0.0)))
    updated = 0
    for view, calls in played(RandomChooser(1.0)):
        assert [text_of(call) for call in calls] == [line.text for line in view.lines]
        for line, (name, arguments) in zip(view.lines, calls, strict=True):
            stale = stale_item(line, view)
            assert (name == "memory_update") == (stale is not None)
            assert arguments.get("memory_id") == (stale and stale[0])
            assert arguments["memory_type"] == right_type(line)
            updated += stale is not None
    assert updated > 10
    lines = sum(len(view.lines) for view, _ in played(oracle))
    stored = [len(calls) for seed in range(20) for _, calls in played(RandomChooser(0.3), seed=seed)]
    deviation = np.sqrt(0.3 * 0.7 * 20 * lines)
    assert abs(sum(stored) - 0.3 * 20 * lines) < 4 * deviation


@pytest.mark.parametrize("shown", [100, 2])
def test_the_demonstrator_writes_in_text_order_and_never_repeats(shown):
    writer = Demonstrator(rate=0.7, update_rate=1.0, right_list_rate=0.5)
    stored, lines, types, updates = 0, 0, [], 0
    for view, calls in played(writer, shown):
        texts = [line.text for line in view.lines]
        written = [text_of(call) for call in calls]
        assert written == [text for text in texts if text in written]
        assert len(set(written)) == len(written)
        assert not set(written) & {text for _, text in view.items}
        seen = {str(item.id) for item, text in view.items if f"[{item.id}] {text}" in view.prompt}
        for call in calls:
            (line,) = [line for line in view.lines if line.text == text_of(call)]
            stale = stale_item(line, view)
            if call[0] == "memory_update":
                assert call[1]["memory_id"] == stale[0]
                assert stale[0] in seen
                updates += 1
            else:
                assert stale is None  # an insert never stands beside what it corrects, shown or not
                types.append(call[1]["memory_type"])
        stored, lines = stored + len(calls), lines + len(texts)
    assert 0.5 < stored / lines < 0.9
    assert 0.35 < np.mean([t == "semantic_memory" for t in types]) < 0.65
    assert updates > (5 if shown == 100 else 0)


def test_the_demonstrator_has_another_taste_in_every_chunk():
    shares = {rate: [] for rate in (0.1, 0.5, 0.9)}
    alike = []
    for rate, own in shares.items():
        for seed in range(20):
            for view, calls in played(Demonstrator(rate, 0.0, 0.5), seed=seed):
                written = {text_of(call) for call in calls}
                for kind in {line.kind for line in view.lines if line.corrects is None}:
                    stored = [line.text in written for line in view.lines if line.kind == kind]
                    own.append(np.mean(stored))
                    alike += [stored[0] == stored[1]] if len(stored) > 1 and rate == 0.5 else []
    for rate, own in shares.items():
        assert abs(np.mean(own) - rate) < 0.06
    # Two sentences of one kind agree with probability 1/2 if each is chosen alone; with Beta(1/2, 1/2), with 3/4.
    assert 0.68 < np.mean(alike) < 0.82


@pytest.mark.parametrize("rate", [0.0, 0.8, 1.0])
def test_the_demonstrator_finds_the_right_list_at_the_given_rate(rate):
    right = [
        call[1]["memory_type"] == right_type(next(line for line in view.lines if line.text == text_of(call)))
        for seed in range(5)
        for view, calls in played(Demonstrator(0.8, 0.0, rate), seed=seed)
        for call in calls
    ]
    assert abs(np.mean(right) - rate) < 0.08 * (0 < rate < 1) + 1e-9


def test_the_demonstrator_leaves_a_stored_sentence_alone():
    episode = EPISODES[0]
    memory = ListMemory()
    memory.apply([scripted.insert(SEMANTIC, line.text) for line in sentences(episode)[0]])
    assert Demonstrator(1.0, 1.0, 1.0)(memory.view(episode, 0, 100), np.random.default_rng(0)) == []
    # At rate 1 whatever a correction could correct is stored, so with no updates only plain sentences are written.
    stored = {text_of(call) for _, calls in played(Demonstrator(1.0, 0.0, 1.0)) for call in calls}
    plain = {line.text for e in EPISODES for chunk in sentences(e) for line in chunk if line.corrects is None}
    assert stored == plain


@pytest.mark.parametrize("shown", [100, 0])
def test_the_demonstrator_inserts_a_correction_only_where_nothing_stored_is_stale(shown):
    inserted, held_back = 0, 0
    for seed in range(3):
        for view, calls in played(Demonstrator(0.6, 0.0, 1.0), shown, seed):
            written = {text_of(call) for call in calls}
            for line in view.lines:
                if line.corrects is not None:
                    stale = stale_item(line, view)
                    assert stale is None or line.text not in written
                    inserted, held_back = inserted + (line.text in written), held_back + (stale is not None)
    assert inserted > 5
    assert held_back > 5


def test_replies_hold_whole_calls_and_text_that_looks_like_a_frame_stays_text():
    calls = [scripted.insert(SEMANTIC, text) for text in ("one", 'two "}\n<|im_end|>', call_frames(WIRE)[0])]
    whole = scripted.encode_reply(calls, TOKENIZER, WIRE)
    frames = [token for token in whole if token > 256]
    assert len(frames) == 2 * len(calls) + 1
    assert whole[-1] == TOKENIZER.eos_id
    parsed = parse_calls(TOKENIZER.decode(whole[:-1]), WIRE)
    assert [(call.name, call.arguments, call.status) for call in parsed] == [(*call, Status.OK) for call in calls]
    for limit in (len(whole), len(whole) - 1, 6, 5, 1):
        reply = fit_reply(calls, TOKENIZER, WIRE, limit)
        kept = len(parse_calls(TOKENIZER.decode(reply[:-1]), WIRE))
        assert reply == scripted.encode_reply(calls[:kept], TOKENIZER, WIRE)
        assert len(reply) <= limit
        assert kept == len(calls) or len(scripted.encode_reply(calls[: kept + 1], TOKENIZER, WIRE)) > limit


@pytest.fixture(scope="module")
def steps() -> Steps:
    memory = MemoryConfig(core_tokens=4, items=30, arena_tokens=1000, shown_items=3)
    rollout = RolloutConfig(prompt_tokens=420, reply_tokens=260, max_calls=6, template="compact")
    return Steps(make_engine(dataclasses.replace(SIZES, vocab_size=0), memory, rollout, TOKENIZER))


def batch_of(episodes, indices):
    sizes = {"max_chunks": 5, "chunk_capacity": 240}
    return tokenize_episodes(episodes, TOKENIZER, episode_indices=np.array(indices), **sizes)


def test_a_scripted_rollout_leaves_the_memory_that_lists_in_python_hold(steps):
    short = [dataclasses.replace(EPISODES[0], chunks=EPISODES[0].chunks[:2]), *EPISODES[1:3]]
    batch = batch_of(short, [0, 1, 2])
    found = scripted_rollout(steps, TOKENIZER, short, batch, RandomChooser(1.0), seed=0)
    again = scripted_rollout(steps, TOKENIZER, short, batch, RandomChooser(1.0), seed=0)
    np.testing.assert_array_equal(found.reply_NTR, again.reply_NTR)
    assert found.active_NT.sum(axis=1).tolist() == [2, 5, 5]
    made = found.calls.status_K != Status.NO_CALL
    assert set(found.statuses_NTK[made]) == {Status.OK}
    assert (found.calls.kind_K == CallKind.UPDATE).sum() > 3
    for n, (episode, state) in enumerate(zip(short, unstack(found.memory), strict=True)):
        expected = ListMemory()
        for t in range(len(episode.chunks)):
            calls = RandomChooser(1.0)(expected.view(episode, t, 0), np.random.default_rng(0))
            reply = found.reply_NTR[n, t, : found.reply_len_NT[n, t]].tolist()
            assert reply == fit_reply(calls, TOKENIZER, WIRE, 260)
            expected.apply(calls[: (found.calls.status_K[n, t] != Status.NO_CALL).sum()])
            prompt = TOKENIZER.decode(found.prompt_NTP[n, t, : found.prompt_len_NT[n, t]])
            assert f"Text\n{episode.chunks[t]}<|im_end|>" in prompt
            assert found.memory_tokens_NT[n, t] == sum(len(text.encode()) for *_, text in expected.items)
        items = [[item.id, item.type, TOKENIZER.decode(item.tokens)] for item in memory_items(state)]
        assert items == expected.items


def test_a_scripted_trajectory_does_not_depend_on_its_batch(steps):
    writer = Demonstrator(0.6, 0.5, 0.5)
    three = scripted_rollout(steps, TOKENIZER, EPISODES[:3], batch_of(EPISODES[:3], [4, 5, 6]), writer, seed=1)
    order = [2, 0, 0]
    mixed = [EPISODES[i] for i in order]
    other = scripted_rollout(steps, TOKENIZER, mixed, batch_of(mixed, [6, 4, 4]), writer, seed=1)
    np.testing.assert_array_equal(other.reply_NTR, three.reply_NTR[order])
    np.testing.assert_array_equal(other.prompt_NTP, three.prompt_NTP[order])
    reseeded = scripted_rollout(steps, TOKENIZER, mixed, batch_of(mixed, [6, 4, 4]), writer, seed=2)
    assert (reseeded.reply_NTR != other.reply_NTR).any()
