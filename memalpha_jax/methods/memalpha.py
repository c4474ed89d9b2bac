"""memalpha: a policy, trained or not, that writes core, episodic and semantic memory through tool calls.

The memories of one `open` are rows of one batched `MemoryState`, and a chunk of each is read by one step of the
rollout that training uses, greedy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from memalpha_jax.chat.lockstep import Lockstep
from memalpha_jax.errors import UserError
from memalpha_jax.evaluation import WrittenCall, written_calls
from memalpha_jax.memory.state import (
    LISTS,
    MemoryState,
    empty_memory,
    grow_for,
    memory_core,
    memory_items,
    memory_tokens,
    unstack,
)
from memalpha_jax.methods.method import CORE, Context, Entry, Operation, Passage, WriteRecord
from memalpha_jax.methods.retrieval import Retrieval
from memalpha_jax.padded_sizes import power_of_two
from memalpha_jax.policy.lora import fingerprint
from memalpha_jax.policy.policy import Policy
from memalpha_jax.rollout.engine import make_engine
from memalpha_jax.rollout.rollout import trajectory_keys
from memalpha_jax.rollout.steps import Steps
from memalpha_jax.rollout.stream import Stream, reply_room
from memalpha_jax.tools.calls import Status

FIRST_ROOM = 64
"""Replies that a new memory has room for; it doubles when it must, and every growth costs a compilation."""


class MemAlpha:
    """Our memory, written by `policy`; the core and the `top_k` best entries of each list are handed over."""

    name = "memalpha"

    def __init__(self, policy: Policy, top_k: int, retrieval: Retrieval):
        self.policy, self.top_k, self.retrieval = policy, top_k, retrieval
        engine = make_engine(policy.config, policy.memory, policy.rollout, policy.tokenizer, temperature=0.0)
        self.steps = Steps(engine)

    @property
    def about(self) -> str:
        step = f"step {self.policy.step}" if self.policy.step else "no step of training known"
        found = f"{self.retrieval.about}, {self.top_k} of each list"
        return f"core, episodic and semantic memory written by the policy ({step}); {found}"

    @property
    def identity(self) -> str:
        p, found = self.policy, self.retrieval.identity
        return f"memalpha {fingerprint(p.params)} top_k={self.top_k} {found} {p.config} {p.memory} {p.rollout}"

    def open(self, n: int) -> list[Written]:
        rows = _Rows(self, n)
        return [Written(rows, row) for row in range(n)]


class _Rows:
    """The memories of one `open`, written in step."""

    def __init__(self, method: MemAlpha, n: int):
        self.method, self.engine, self.tokenizer = method, method.steps.engine, method.policy.tokenizer
        self.lockstep: Lockstep[list[int], WriteRecord] = Lockstep(self._read, n)
        room = power_of_two(n)  # few batch sizes are compiled
        calls, tokens = reply_room(self.engine)
        memory = grow_for(empty_memory(self.engine.memory, (room,)), FIRST_ROOM * calls, tokens)
        self.stream = Stream(method.steps, memory)
        self._step_N = np.zeros(room, np.int32)
        self._key_N = trajectory_keys(0, 0, np.arange(room, dtype=np.int32), np.zeros(room, np.int32))
        self._host: list[MemoryState] | None = None

    def _read(self, chunks: Mapping[int, list[int]]) -> dict[int, WriteRecord]:
        """One chunk for each of the given rows. Rows that have left keep their memory."""
        self._host = None
        C = self.engine.rollout.prompt_tokens
        chunk_NC = np.zeros((len(self._step_N), C), np.int32)
        length_N = np.zeros(len(self._step_N), np.int32)
        for row, tokens in chunks.items():
            chunk_NC[row, : len(tokens)], length_N[row] = tokens, len(tokens)
        step = int(self._step_N[next(iter(chunks))])  # rows that are left have all read as many
        params = self.method.policy.params
        record = self.stream.read(params, self._key_N, step, chunk_NC, length_N, length_N > 0)
        found = {}
        for row in chunks:
            self._step_N[row] += 1
            over = int(record.prompt_len_N[row]) - C
            reply = self.tokenizer.decode(record.reply_NR[row, : record.reply_len_N[row]].tolist())
            calls = written_calls(self.tokenizer, record.calls, record.statuses_NK, row)
            operations = tuple(operation_of(call) for call in calls)
            if over > 0:
                if over > int(record.core_len_N[row]):
                    raise UserError(_too_long(step, len(chunks[row]), over))
                operations = (Operation("read", status="no room beside the core"),)
            lengths = int(record.prompt_len_N[row]), int(record.reply_len_N[row])
            found[row] = WriteRecord((reply,), operations, *lengths)
        return found

    def state(self, row: int) -> MemoryState:
        """The memory of one row on the host."""
        if self._host is None:
            self._host = unstack(self.stream.memory)
        return self._host[row]


def _too_long(step: int, tokens: int, over: int) -> str:
    return (
        f"chunk {step + 1} of an episode has {tokens} tokens and makes a prompt that is {over} over the limit of the "
        f"policy; set config.episodes.chunk_tokens to at most {max(1, tokens - over)}"
    )


def operation_of(call: WrittenCall) -> Operation:
    """A call of the policy as an operation of the method."""
    kind = "" if call.memory_type < 0 else ("core", *(k.name.lower() for k in LISTS))[call.memory_type]
    item = "" if call.item_id < 0 else str(call.item_id)
    status = "ok" if call.status == Status.OK else call.status.name.lower()
    return Operation(call.kind.name.lower(), kind, item, call.text, status)


class Written:
    """The memory of `MemAlpha`."""

    def __init__(self, rows: _Rows, row: int):
        self._rows, self._row = rows, row
        self._ranking = rows.method.retrieval.open()
        self._entries: list[Entry] | None = None

    @property
    def stream(self) -> Stream:
        """Of this memory and those opened with it."""
        return self._rows.stream

    def write(self, chunk: str) -> WriteRecord:
        tokens = self._rows.tokenizer.encode(chunk)
        limit = self._rows.engine.rollout.prompt_tokens
        if len(tokens) > limit:
            raise UserError(
                f"a chunk has {len(tokens)} tokens, over the policy's prompt of {limit}; "
                "lower config.episodes.chunk_tokens or raise config.policy.prompt_tokens"
            )
        self._entries = None
        return self._rows.lockstep.ask(self._row, tokens)

    def read(self, question: str) -> Context:
        entries = self.entries()
        core = [Passage(e.text, CORE, e.id, place) for place, e in enumerate(entries) if e.kind == CORE]
        kinds = [kind.name.lower() for kind in LISTS]
        return Context((*core, *self._ranking.best_passages(entries, kinds, question, self._rows.method.top_k)))

    def entries(self) -> Sequence[Entry]:
        if self._entries is None:
            state, decode = self._rows.state(self._row), self._rows.tokenizer.decode
            core = decode(memory_core(state))
            items = memory_items(state)
            self._entries = [Entry("core", CORE, core, -1)] if core else []
            self._entries += [Entry(str(i.id), i.type.name.lower(), decode(i.tokens), i.last_chunk) for i in items]
        return self._entries

    @property
    def memory_tokens(self) -> int:
        return int(jax.device_get(memory_tokens(self._rows.state(self._row))))

    def close(self) -> None:
        self._rows.lockstep.leave(self._row)
