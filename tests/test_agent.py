"""The agent: people read what the policy writes, memories survive files, bad input gets a sentence."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_policy import MEMORY, ROLLOUT, random_policy
from tiny_tokenizer import TinyTokenizer

import memalpha_jax
from memalpha_jax import agent as agent_module
from memalpha_jax import notebook
from memalpha_jax.agent import MemoryAgent, cut_text, free_name, read_text
from memalpha_jax.errors import UserError
from memalpha_jax.memory.ops import hash_tokens
from memalpha_jax.memory.state import MemoryType, memory_core, memory_items
from memalpha_jax.notebook import Note, Notebook, Origin
from memalpha_jax.tools.calls import Status
from memalpha_jax.tools.wire import format_call

TEXT = "Note: Kelora lives in Vordale.\nWell, Kelora smiled.\nOn 3 May Kelora met Tavin.\n"


def insert(text: str, kind: str = "semantic") -> str:
    return format_call("new_memory_insert", {"memory_type": f"{kind}_memory", "content": text}, "qwen_agent")


def update(kind: str, text: str, item: int | None = None) -> str:
    arguments = {"memory_type": f"{kind}_memory", "new_content": text}
    return format_call("memory_update", arguments | ({} if item is None else {"memory_id": str(item)}), "qwen_agent")


def delete(kind: str, item: int) -> str:
    return format_call("memory_delete", {"memory_type": f"{kind}_memory", "memory_id": str(item)}, "qwen_agent")


@pytest.fixture(scope="module")
def policy():
    return random_policy()


@pytest.fixture
def writing(policy, monkeypatch):
    """An agent, and a function that makes the policy's next replies these texts."""
    agent = MemoryAgent(policy)
    replies: list[str] = []

    def reply(params, prompt_NP, length_N, key_N, step, active_N):
        tokens_NR, length = np.zeros((1, ROLLOUT.reply_tokens), np.int32), 0
        if bool(active_N[0]):
            tokens = [
                *policy.tokenizer.encode_trusted(replies.pop(0) if replies else ""),
                policy.tokenizer.eos_id,
            ]
            tokens_NR[0, : len(tokens)], length = tokens, len(tokens)
        return tokens_NR, np.array([length], np.int32)

    monkeypatch.setattr(agent._steps, "_reply", reply)
    return agent, replies.extend


def assert_mirrors(agent: MemoryAgent) -> None:
    """The notebook says what the arrays hold."""
    state = jax.tree.map(lambda x: x[0], agent._stream.memory)
    decode = agent.policy.tokenizer.decode
    held = [(i.id, i.type.name.lower(), decode(i.tokens), i.first_chunk, i.last_chunk) for i in memory_items(state)]
    book = agent.notebook
    assert held == [(n.id, n.type, n.text, n.first.chunk, n.last.chunk) for n in book.notes]
    assert decode(memory_core(state)) == book.core
    assert int(state.next_id) == book.next_id


def test_calls_are_applied_reported_and_mirrored(writing):
    agent, say = writing
    say([insert("Kelora lives in Vordale.") + insert("On 3 May Kelora met Tavin.", "episodic")])
    first = agent.observe(TEXT)
    assert [(r.status, r.item_id, r.chunk) for r in first] == [(Status.OK, 1, 0), (Status.OK, 2, 0)]
    assert first[0].call.name == "new_memory_insert"
    assert agent.memory["semantic"] == [{"id": 1, "text": "Kelora lives in Vordale."}]
    assert agent.ask("Kelora lives in which place?") == "Vordale"
    replies = [
        update("semantic", "Kelora lives in Tavdale.", 1),
        update("core", "About Kelora"),
        delete("episodic", 2),
        delete("episodic", 9),
        insert("Kelora lives in Tavdale."),
        "✿FUNCTION✿: no_such_tool\n",
    ]
    say(["".join(replies)])
    told = []
    second = agent.observe("More about Kelora.", source="more.txt", on_call=told.append)
    assert told == second
    OK = Status.OK
    assert [r.status for r in second] == [OK, OK, OK, Status.UNKNOWN_ID, Status.SKIPPED, Status.UNKNOWN_TOOL]
    assert agent.memory == {
        "core": "About Kelora", "episodic": [], "semantic": [{"id": 1, "text": "Kelora lives in Tavdale."}],
    }  # fmt: skip
    assert_mirrors(agent)
    assert "unknown id" in str(second[3])
    (note,) = agent.notebook.notes
    assert (note.first.source, note.last.source) == ("text", "more.txt")


def test_blocks_between_blank_lines_stay_whole_while_they_fit():
    text = "aaaa\naaaa\n\nbb\n \n\ncc\n\n" + "d " * 9 + "\n\n"
    assert cut_text(text, 12, len) == ["aaaa\naaaa", "bb\n \n\ncc", "d d d d d d", "d d d"]
    assert cut_text("one", 12, len) == ["one"]


def test_a_long_text_is_read_whole_in_order_and_within_the_budget(writing):
    agent, say = writing
    lines = [f"Line {i} says {'very ' * (i % 9)}little." for i in range(60)]
    text = "\n\n".join(lines)
    say([insert(f"item {i}") for i in range(100)])
    results = agent.observe(text)
    chunks = agent.notebook.chunks_read
    assert [r.chunk for r in results] == list(range(chunks))
    assert len(results) == len(agent.notebook.notes) == chunks > 10
    ends = [(note.first.start, note.first.end) for note in agent.notebook.notes]
    covered = "".join(text[start:end] for start, end in ends)
    assert "".join(covered.split()) == "".join(text.split())
    assert all(len(text[start:end].encode()) <= agent.policy.chunk_tokens for start, end in ends)
    assert_mirrors(agent)


def test_a_core_that_grows_makes_chunks_smaller_not_longer_than_the_prompt(policy, monkeypatch):
    tight = dataclasses.replace(policy, rollout=dataclasses.replace(ROLLOUT, prompt_tokens=110))
    agent = MemoryAgent(tight)
    seen = []
    original = agent._stream.read

    def read_chunk(*args):
        record = original(*args)
        seen.append(int(record.prompt_len_N[0]))
        return record

    replies = [update("core", "x" * MEMORY.core_tokens)]

    def reply(params, prompt_NP, length_N, key_N, step, active_N):
        tokens_NR, length = np.zeros((1, ROLLOUT.reply_tokens), np.int32), 0
        if bool(active_N[0]) and replies:
            tokens = policy.tokenizer.encode_trusted(replies.pop())
            tokens_NR[0, : len(tokens)], length = tokens, len(tokens)
        return tokens_NR, np.array([length], np.int32)

    monkeypatch.setattr(agent._steps, "_reply", reply)
    monkeypatch.setattr(agent._stream, "read", read_chunk)
    text = "word " * 60
    agent.observe(text)
    assert agent.memory["core"] == "x" * MEMORY.core_tokens
    over = [length for length in seen if length > 110]
    assert over  # chunks cut before the core grew no longer fitted, and were cut again
    read = sum(length <= 110 for length in seen)
    assert agent.notebook.chunks_read == read
    assert_mirrors(agent)


def test_a_core_that_leaves_no_room_is_told(policy):
    tight = dataclasses.replace(policy, rollout=dataclasses.replace(ROLLOUT, prompt_tokens=60))
    agent = MemoryAgent(tight)
    agent.adopt(notebook.set_core(Notebook(), "x" * MEMORY.core_tokens, None))
    with pytest.raises(UserError, match=r"fill the whole prompt.*--edit=core"):
        agent.observe("word")


def test_garbage_replies_are_counted_not_fatal(writing):
    agent, say = writing
    say(["\x1b[31m" + insert("a\x1b[2Jb") + "✿FUNCTION✿: new_memory_insert\n✿ARGS✿: {" + "<tool_call>" * 3])
    results = agent.observe("text")
    assert [r.status for r in results] == [Status.OK, Status.BAD_JSON]
    assert all(str(r).isprintable() for r in results)
    assert notebook.listing(agent.notebook).replace("\n", "").isprintable()
    assert_mirrors(agent)


def test_a_memory_goes_on_from_its_file(writing, policy, tmp_path):
    agent, say = writing
    say([insert("Kelora lives in Vordale.") + insert("Kelora met Tavin on 3 May.", "episodic") + delete("semantic", 1)])
    agent.observe(TEXT, source="notes.txt")
    agent.save(tmp_path / "memory.json")
    record = json.loads((tmp_path / "memory.json").read_text())
    (item,) = record["notes"]
    assert item["first"] == {"source": "notes.txt", "chunk": 0, "start": 0, "end": len(TEXT.strip()),
                             "excerpt": item["first"]["excerpt"]}  # fmt: skip
    assert item["first"]["excerpt"].startswith("Note: Kelora lives")
    other = MemoryAgent(policy)
    other.load(tmp_path / "memory.json")
    assert other.notebook == agent.notebook
    assert_mirrors(other)
    jax.tree.map(np.testing.assert_array_equal, other._stream.memory, agent._stream.memory)
    other.edit(2, "Kelora met Tavin on 4 May.")
    assert other.ask("Kelora met Tavin when?") == "4 May"
    assert other.notebook.notes[0].last.source == notebook.BY_HAND
    assert_mirrors(other)
    other.delete(2)
    assert other.ask("Kelora met Tavin when?") == ""
    assert other.notebook.next_id == 3
    with pytest.raises(UserError, match="no item 2"):
        other.delete(2)


ORIGIN = Origin("f", 0, 0, 3, "abc")
TEXTS = st.text(min_size=1, max_size=30).filter(lambda t: t.strip() and t.isprintable())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["episodic", "semantic"]), TEXTS), max_size=12), st.text(max_size=9))
def test_notebooks_become_arrays_and_files_without_loss(tmp_path_factory, items, core):
    core = core.encode("utf-8", "ignore").decode()
    notes = tuple(Note(2 * i + 1, kind, text, ORIGIN, ORIGIN) for i, (kind, text) in enumerate(items))
    book = Notebook(core, notes, next_id=99, chunks_read=4)
    state = notebook.to_state(book, TinyTokenizer(), MEMORY)
    decode = TinyTokenizer().decode
    found = [(item.id, item.type.name.lower(), decode(item.tokens)) for item in memory_items(state)]
    assert found == [(note.id, note.type, note.text) for note in notes]
    for row, item in enumerate(memory_items(state)):
        padded = np.zeros(128, np.int32)
        padded[: len(item.tokens)] = item.tokens
        expected = jax.jit(hash_tokens)(padded, len(item.tokens))
        assert int(state.hash_I[row]) == int(expected)
    assert decode(memory_core(state)) == core
    path = tmp_path_factory.mktemp("books") / "m.json"
    notebook.save_notebook(path, book)
    assert notebook.load_notebook(path) == book


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.pop("format"), "no memory file"),
        (lambda r: r.update(next_id="x"), "next_id"),
        (lambda r: r["notes"][0].update(type="core"), "type 'core'"),
        (lambda r: r["notes"].append(r["notes"][0]), "occurs twice"),
        (lambda r: r["notes"][0].update(id=7), "next_id - 1"),
        (lambda r: r["notes"][0].update(text=""), "no text"),
        (lambda r: r["notes"][0].pop("first"), "first is missing"),
    ],
)
def test_a_damaged_memory_file_is_told_and_left_alone(tmp_path, change, words):
    path = tmp_path / "m.json"
    notebook.save_notebook(path, notebook.insert_note(Notebook(), MemoryType.SEMANTIC, "x", ORIGIN))
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    before = path.read_bytes()
    with pytest.raises(UserError, match=words):
        notebook.load_notebook(path)
    assert path.read_bytes() == before


def test_excerpts_show_the_line_that_was_copied():
    chunk = "First line.\nSecond  line here.\n" + "long " * 100
    assert notebook.excerpt(chunk, "line here.") == "Second line here."
    assert notebook.excerpt(chunk, "not in it").startswith("First line. Second")
    assert len(notebook.excerpt(chunk, "")) <= 160
    assert notebook.excerpt(chunk, "long long") == "long long"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x7fELF\x02\0\0", "byte 5 is zero"),
        (b"abc\xff", "byte 3 is 0xff"),
        (b" \n", "no text"),
        (None, "No such file"),
    ],
)
def test_unreadable_input_gets_one_sentence(tmp_path, data, words):
    path = tmp_path / "input"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError, match=words) as error:
        read_text(str(path))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="Is a directory"):
        read_text(str(tmp_path))


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "t").write_bytes(b"\xef\xbb\xbfabc")
    assert read_text(str(tmp_path / "t")) == "abc"


def options(**given):
    defaults = {
        "checkpoint": None,
        "input": None,
        "ask": [],
        "memory": None,
        "list": False,
        "edit": [],
        "delete": [],
    }
    return SimpleNamespace(**{**defaults, **given})


def test_the_command_reads_saves_edits_and_answers(writing, policy, tmp_path, monkeypatch, capsys):
    _, say = writing
    say([insert("Kelora lives in Vordale.") + insert("Kelora likes tea.")])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(agent_module, "load_policy", lambda path: policy)
    Path("notes.txt").write_text(TEXT)
    agent_module.run(options(checkpoint="x", input="notes.txt", ask=["Kelora likes what?"]))
    printed = capsys.readouterr().out
    assert "chunk 1    insert semantic [1] Kelora lives in Vordale." in printed
    assert "A: tea" in printed
    assert "memory saved in memory.json" in printed
    agent_module.run(options(memory="memory.json", edit=["1:Kelora lives in Tavdale.", "core:Hi"], delete=["2"]))
    agent_module.run(options(memory="memory.json", list=True, ask=["Kelora lives in which place?", "Zorim is a what?"]))
    printed = capsys.readouterr().out
    assert "core: Hi" in printed
    assert "[1] Kelora lives in Tavdale.  (edited by hand)" in printed
    assert "A: Tavdale" in printed
    assert "A: (nothing in memory answers this)" in printed
    assert free_name() == Path("memory-2.json")
    for wrong in (
        {"edit": ["1"]},
        {"edit": ["x:y"]},
        {"delete": ["2"]},
        {"delete": ["-1"]},
        {"edit": ["1: "]},
    ):
        with pytest.raises(UserError):
            agent_module.run(options(memory="memory.json", **wrong))
    with pytest.raises(UserError, match="nothing to read"):
        agent_module.run(options(ask=["?"]))
    with pytest.raises(UserError, match="checkpoint"):
        agent_module.run(options(input="notes.txt"))


def test_an_interrupted_reading_keeps_what_was_read(writing, policy, tmp_path, monkeypatch):
    _, say = writing
    say([insert("Kelora likes tea."), insert("Kelora likes rice.")])
    calls = []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        print("told")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(agent_module, "load_policy", lambda path: policy)
    monkeypatch.setattr(agent_module, "print", interrupted, raising=False)
    Path("long.txt").write_text("A line of text.\n" * 40)
    with pytest.raises(KeyboardInterrupt):
        agent_module.run(options(checkpoint="x", input="long.txt", memory="m.json"))
    assert notebook.load_notebook("m.json").notes[0].text == "Kelora likes tea."


def test_a_signal_ends_the_reading_after_the_chunk_and_saves(writing, policy, tmp_path, monkeypatch):
    _, say = writing
    say([insert("Kelora likes tea.") + insert("Kelora likes rice."), insert("Kelora likes salt.")])
    told = []

    def terminated(*args, **kwargs):
        told.append(args[0])
        if len(told) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(agent_module, "load_policy", lambda path: policy)
    monkeypatch.setattr(agent_module, "print", terminated, raising=False)
    Path("long.txt").write_text("A line of text.\n" * 40)
    code = agent_module.run(options(checkpoint="x", input="long.txt", memory="m.json", ask=["Who?"]))
    assert code == 128 + signal.SIGTERM
    assert told[-1] == "SIGTERM: reading stopped; memory saved in m.json"
    book = notebook.load_notebook("m.json")
    assert book.chunks_read == 1
    assert [note.text for note in book.notes] == ["Kelora likes tea.", "Kelora likes rice."]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_command_line_ends_with_exit_codes(tmp_path):
    (tmp_path / "binary").write_bytes(b"\0\1\2")
    root = Path(memalpha_jax.__file__).parents[1]

    def run(*args):
        command = [sys.executable, "-m", "memalpha_jax.agent", *args]
        environment = {**os.environ, "PYTHONPATH": str(root)}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)

    done = run("--checkpoint=none", "--input=binary")
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    assert "not a text file" in done.stderr
    assert not list(tmp_path.glob("memory*.json"))
    assert run("--imput=x").returncode == 2
