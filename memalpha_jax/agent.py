"""Reads a text, writes a memory of it with a trained policy, and answers questions from that memory alone.

    python -m memalpha_jax.agent --checkpoint=runs/tiny --input=notes.txt --ask="Kelora lives in which place?"
    cat notes.txt | python -m memalpha_jax.agent --checkpoint=runs/tiny --input=- --memory=mine.json
    python -m memalpha_jax.agent --memory=mine.json --list --edit="3:Kelora lives in Vordale." --delete=5

Every memory call is printed as it happens. The memory is saved as readable JSON that says where each item
came from; --memory=FILE goes on from it, and without --input no checkpoint is needed.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from memalpha_jax import notebook
from memalpha_jax.command_line import define_flags
from memalpha_jax.episodes.chunkers import CountTokens, Unit, unit_chunker
from memalpha_jax.episodes.sentences import split_blocks
from memalpha_jax.errors import UserError, run_main
from memalpha_jax.memory.render import tokens_around
from memalpha_jax.memory.state import MemoryType
from memalpha_jax.notebook import Notebook, Origin, printable
from memalpha_jax.policy.policy import Policy, load_policy
from memalpha_jax.rollout.engine import make_engine
from memalpha_jax.rollout.steps import StepRecord, Steps
from memalpha_jax.rollout.stream import Stream
from memalpha_jax.stop_signal import StopSignal
from memalpha_jax.tools.calls import CallBatch, CallKind, Status, ToolCall
from memalpha_jax.tools.wire import parse_calls

SAVE_EVERY = 50
"""Chunks between saves while reading, so that an interrupted reading is not lost."""


@dataclasses.dataclass(frozen=True)
class CallResult:
    """One memory call and what became of it.

    Attributes:
      call: as the policy wrote it. status: after it was applied.
      text: what it stored, "" where it stored nothing. item_id: the item concerned; None for the core.
      chunk: number of the chunk it was written for.
    """

    call: ToolCall
    status: Status
    text: str
    item_id: int | None
    chunk: int

    def __str__(self) -> str:
        kind = self.call.kind.name.lower() if self.call.kind else "call"
        memory_type = self.call.memory_type
        where = notebook.type_name(MemoryType(memory_type)) if memory_type is not None else "?"
        item = f"[{self.item_id}] " if self.item_id is not None else ""
        wanted = self.call.content or self.call.name
        fault = "" if self.status == Status.OK else f"  ({self.status.name.lower().replace('_', ' ')})"
        return f"{kind:<6} {where:<8} {item}{printable(self.text or wanted)[:400]}{fault}"


@functools.lru_cache(maxsize=4)
def _steps(policy: Policy) -> Steps:
    """The compiled rollout of one policy, greedy."""
    return Steps(make_engine(policy.config, policy.memory, policy.rollout, policy.tokenizer, temperature=0.0))


class MemoryAgent:
    """Reads any amount of text with a policy and keeps what the policy stores.

    The memory lives twice: as arrays, which the policy reads, and as a `Notebook`, which people read.
    """

    def __init__(self, policy: Policy):
        self.policy = policy
        self._steps = _steps(policy)
        self.adopt(Notebook())

    @property
    def notebook(self) -> Notebook:
        """The memory with the origin of every item."""
        return self._book

    @property
    def memory(self) -> dict[str, Any]:
        """The memory as `core` (text), `episodic` and `semantic` (lists of {"id", "text"})."""
        return self._book.as_dict()

    def observe(
        self,
        text: str,
        source: str = "text",
        on_call: Callable[[CallResult], None] | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> list[CallResult]:
        """Reads `text` chunk by chunk; the results of all calls, in order.

        Args:
          text: of any length; it is cut into chunks that fit the prompt.
          source: what provenance calls it. on_call: told of each call as soon as it is applied.
          stopped: asked before each chunk whether to leave it and the rest unread.

        Raises:
          UserError: the prompt has no room for any text at all.
        """
        results: list[CallResult] = []
        at, limit = 0, self.policy.rollout.prompt_tokens
        waiting = collections.deque(cut_text(text, self._chunk_budget(), self._count))
        while waiting and not stopped():
            chunk = waiting.popleft()
            record = self._read(chunk)
            if record.prompt_len_N[0] > limit:  # the core has grown meanwhile; there was no reply
                room = self._count(chunk) - (int(record.prompt_len_N[0]) - limit)
                waiting.extendleft(reversed(cut_text(chunk, self._at_least_one(room), self._count)))
                continue
            start = text.index(chunk, at)
            at = start + len(chunk)
            origin = Origin(source, self._book.chunks_read, start, at, "")
            for result in self._record_calls(record, origin, chunk):
                results.append(result)
                if on_call is not None:
                    on_call(result)
        return results

    def ask(self, question: str) -> str:
        """The answer that the memory alone gives; "" if nothing in it does."""
        return notebook.ask(self._book, question).text

    def edit(self, note_id: int, text: str) -> None:
        """Replaces the text of an item; UserError for an unknown id."""
        self.adopt(notebook.update_note(self._book, note_id, text, notebook.by_hand(self._book, text)))

    def delete(self, note_id: int) -> None:
        """Removes an item; UserError for an unknown id."""
        self.adopt(notebook.delete_note(self._book, note_id))

    def save(self, path: str | Path) -> None:
        """Writes the memory as readable JSON; the file is replaced whole or not at all."""
        notebook.save_notebook(path, self._book)

    def load(self, path: str | Path) -> None:
        """Replaces the memory by a saved one; UserError when the file is none or does not fit the policy."""
        self.adopt(notebook.load_notebook(path))

    def adopt(self, book: Notebook) -> None:
        """Takes over a memory; UserError when it does not fit the policy."""
        state = notebook.to_state(book, self.policy.tokenizer, self.policy.memory)
        self._stream = Stream(self._steps, jax.tree.map(lambda x: jnp.asarray(x)[None], state))
        self._book = book

    def _count(self, text: str) -> int:
        return len(self.policy.tokenizer.encode(text))

    def _chunk_budget(self) -> int:
        """Tokens of a chunk that surely fits beside the core, at most what the policy was trained on."""
        taken = tokens_around(self._steps.engine.tables, int(self._stream.memory.core_len[0]), self.policy.memory)
        room = self._at_least_one(self.policy.rollout.prompt_tokens - taken)
        return min(room, self.policy.chunk_tokens)

    def _at_least_one(self, room: int) -> int:
        if room < 1:
            raise UserError(
                f"the template {self.policy.rollout.template!r} and the core paragraph fill the whole prompt "
                f"of {self.policy.rollout.prompt_tokens} tokens; shorten the core with --edit=core:TEXT"
            )
        return room

    def _as_arrays(self, chunk: str) -> tuple[np.ndarray, np.ndarray]:
        """Tokens [1, P] and length [1] of a chunk."""
        tokens = self.policy.tokenizer.encode(chunk)
        chunk_NC = np.zeros((1, self.policy.rollout.prompt_tokens), np.int32)
        chunk_NC[0, : len(tokens)] = tokens
        return chunk_NC, np.array([len(tokens)], np.int32)

    def _read(self, chunk: str) -> StepRecord:
        """One reply of the policy, applied to the memory."""
        key_N, active_N = jax.random.split(jax.random.key(0), 1), np.ones(1, bool)  # greedy: no key is used
        chunk_index, arrays = self._book.chunks_read, self._as_arrays(chunk)
        return self._stream.read(self.policy.params, key_N, chunk_index, *arrays, active_N)

    def _record_calls(self, record: StepRecord, origin: Origin, chunk: str) -> list[CallResult]:
        most = self.policy.rollout.max_calls
        reply = record.reply_NR[0, : int(record.reply_len_N[0])]
        results = []
        for k, call in enumerate(parse_calls(self._reply_text(reply), self.policy.rollout.wire)):
            # Calls beyond what one reply may hold were never tried.
            status = Status(int(record.statuses_NK[0, k])) if k < most else Status.CAPACITY
            results.append(self._record(call, status, record.calls, min(k, most - 1), origin, chunk))
        self._book = dataclasses.replace(self._book, chunks_read=origin.chunk + 1)
        return results

    def _record(
        self, call: ToolCall, status: Status, calls: CallBatch, k: int, origin: Origin, chunk: str
    ) -> CallResult:
        """Does to the notebook what call k did to the arrays."""
        if not status.success:
            return CallResult(call, status, "", call.memory_id, origin.chunk)
        text = self.policy.tokenizer.decode(calls.content_KL[0, k, : calls.length_K[0, k]].tolist())
        memory_type, item_id = MemoryType(int(calls.memory_type_K[0, k])), int(calls.item_id_K[0, k])
        origin = origin.about(text, chunk)
        if memory_type == MemoryType.CORE:
            item_id = -1
            self._book = notebook.set_core(self._book, text, origin)
        elif call.kind == CallKind.INSERT:
            item_id = self._book.next_id
            self._book = notebook.insert_note(self._book, memory_type, text, origin)
        elif call.kind == CallKind.UPDATE:
            self._book = notebook.update_note(self._book, item_id, text, origin)
        else:
            self._book = notebook.delete_note(self._book, item_id)
        return CallResult(call, status, text, item_id if item_id > 0 else None, origin.chunk)

    def _reply_text(self, tokens: np.ndarray) -> str:
        tokenizer = self.policy.tokenizer
        kept = [token for token in tokens.tolist() if token != tokenizer.eos_id]
        return b"".join(map(tokenizer.token_bytes, kept)).decode("utf-8", "surrogateescape")


def cut_text(text: str, max_tokens: int, count_tokens: CountTokens) -> list[str]:
    """Chunks of at most `max_tokens`: whole blocks between blank lines where they fit, else their parts."""
    units = [Unit(block) for block in split_blocks(text)]
    return [chunk.text for chunk in unit_chunker(max_tokens, count_tokens)(units)]


def read_text(path: str) -> str:
    """The text of a file, or of standard input for "-".

    Raises:
      UserError: absent, unreadable, empty, or not UTF-8 text.
    """
    name = "standard input" if path == "-" else path
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror or error}") from error
    zero = data.find(b"\0")
    if zero >= 0:
        raise UserError(f"{name} is not a text file: byte {zero} is zero; give plain UTF-8 text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is not UTF-8 text: byte {error.start} is 0x{data[error.start]:02x}; "
            "convert it first, for example with iconv"
        ) from error
    if not text.strip():
        raise UserError(f"{name} holds no text")
    return text


def free_name(name: str = "memory.json") -> Path:
    """The first of memory.json, memory-2.json, ... that does not exist."""
    path, n = Path(name), 1
    while path.exists():
        n += 1
        path = Path(name).with_stem(f"{Path(name).stem}-{n}")
    return path


def change_by_hand(book: Notebook, edits: Sequence[str], deletes: Sequence[str]) -> Notebook:
    """Applies `--edit=ID:TEXT` and `--delete=ID`; the id `core` means the core paragraph."""
    for entry in edits:
        name, colon, text = entry.partition(":")
        if not colon or not text.strip():
            raise UserError(f"--edit={entry}: expected ID:TEXT")
        origin = notebook.by_hand(book, text)
        if name == "core":
            book = notebook.set_core(book, text, origin)
        else:
            book = notebook.update_note(book, _item_id("--edit", name), text, origin)
    for name in deletes:
        if name == "core":
            book = notebook.set_core(book, "", None)
        else:
            book = notebook.delete_note(book, _item_id("--delete", name))
    return book


def _item_id(option: str, name: str) -> int:
    if not (name.isascii() and name.isdigit()):
        raise UserError(f"{option}: {name!r} is not an item's id; --list shows them")
    return int(name)


def read_input(agent: MemoryAgent, path: str, text: str, save_to: Path) -> str:
    """Reads a file or standard input, telling each call; saves now and then and however the reading ends.

    Returns the name of the signal that ended it early, "" where none did.
    """
    calls, saved = 0, agent.notebook.chunks_read
    agent.save(save_to)  # a place that cannot be written is better known before the reading

    def show(result: CallResult) -> None:
        nonlocal calls, saved
        calls += 1
        print(f"chunk {result.chunk + 1:<4} {result}", flush=True)
        if result.chunk >= saved + SAVE_EVERY:
            saved = result.chunk
            agent.save(save_to)

    before = agent.notebook.chunks_read
    source = "standard input" if path == "-" else path
    with StopSignal() as stop:
        try:
            agent.observe(text, source, on_call=show, stopped=lambda: stop.requested)
        finally:
            agent.save(save_to)
    book = agent.notebook
    print(f"{calls} calls on {book.chunks_read - before} chunks; {len(book.notes)} items in memory")
    return stop.name


def run(args: Any) -> int | None:
    """The command, from parsed flags; returns the exit code."""
    continued = args.memory is not None and Path(args.memory).exists()
    if not args.input and not continued:
        missing = f": there is no memory file {args.memory}" if args.memory else ""
        raise UserError(f"nothing to read{missing}; give --input=FILE (- is standard input) or --memory=FILE")
    if args.input and not args.checkpoint:
        raise UserError("--input needs a policy to read it; give --checkpoint=WORKDIR")
    book = notebook.load_notebook(args.memory) if continued else Notebook()
    save_to = Path(args.memory) if args.memory else free_name()
    edited = change_by_hand(book, args.edit, args.delete)
    if edited is not book:
        notebook.save_notebook(save_to, edited)
    book = edited
    if args.input:
        text = read_text(args.input)
        agent = MemoryAgent(load_policy(args.checkpoint))
        agent.adopt(book)
        stopped_by = read_input(agent, args.input, text, save_to)
        if stopped_by:
            print(f"{stopped_by}: reading stopped; memory saved in {save_to}")
            return 128 + signal.Signals[stopped_by]
        book = agent.notebook
        print(f"memory saved in {save_to}; --memory={save_to} goes on from it")
    if args.list:
        print(notebook.listing(book))
    for question in args.ask:
        answer = notebook.ask(book, question)
        guess = "" if answer.sure or not answer.text else "  (a guess: no item has all the words of the question)"
        print(f"Q: {question}\nA: {printable(answer.text) or '(nothing in memory answers this)'}{guess}")
    return None


def main(argv: Sequence[str]) -> int | None:
    del argv
    try:
        code = run(flags.FLAGS)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, such as `head`, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


if __name__ == "__main__":
    define_flags(config=False, workdir=False)
    flags.DEFINE_string("checkpoint", None, "Policy: a workdir, its checkpoints, or one step of them.")
    flags.DEFINE_string("input", None, "Text file to read, or - for standard input.")
    flags.DEFINE_multi_string("ask", [], "Question to answer from memory.")
    flags.DEFINE_string("memory", None, "Memory file to go on from and save to (default: a new memory.json).")
    flags.DEFINE_bool("list", False, "Show the memory with where each item came from.")
    flags.DEFINE_multi_string("edit", [], "ID:TEXT, replaces an item's text (ID core: the core paragraph).")
    flags.DEFINE_multi_string("delete", [], "ID of an item to delete (core: clears the core paragraph).")
    run_main(main)
