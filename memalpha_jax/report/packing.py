"""Traces as they lie in the report: one compressed block per episode, every text in it once.

A block is base64 of gzip of JSON, all texts as numbers of `texts`:

    texts: every text once
    chunks: of the stream
    questions: [text, kind, golds, numbers of the chunks that carry the answer]
    methods: by name, memory_tokens, write_calls, `steps` of [replies, operations, changes], and `answers` of
      [answer, score, calls, passages]
    operation: [name, kind, id, text, status]; change: [insert | update | delete, kind, id, before, after];
    passage: [text, kind, id, score, chunk], the most relevant first

The chunks of a stream come again in what methods kept of it, mostly further apart than the 32 KiB that gzip looks back.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memalpha_jax.episodes.episode import Episode


@dataclass(frozen=True)
class Trace:
    """What one method made of an episode: a record of `leaderboard.write`, and a line for each answer."""

    method: str
    record: Mapping[str, Any]
    answers: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class TracedEpisode:
    """An episode with the traces of some methods."""

    source: str
    episode: Episode
    traces: Sequence[Trace]


def pack(traced: TracedEpisode) -> str:
    """The block of one episode; the same for the same contents."""
    block = json.dumps(_block(traced), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(block.encode("ascii"), compresslevel=9, mtime=0)).decode("ascii")


def _block(traced: TracedEpisode) -> dict[str, Any]:
    texts: dict[str, int] = {}

    def number(text: str) -> int:
        return texts.setdefault(text, len(texts))

    episode = traced.episode
    block = {
        "chunks": [number(chunk) for chunk in episode.chunks],
        "questions": [
            [number(q.question), q.kind, [q.answer] if isinstance(q.answer, str) else list(q.answer), list(q.evidence)]
            for q in episode.questions
        ],
        "methods": {trace.method: _method(trace, number) for trace in traced.traces},
    }
    return {**block, "texts": list(texts)}


def _method(trace: Trace, number) -> dict[str, Any]:
    record = trace.record
    return {
        "memory_tokens": record["memory_tokens"],
        "write_calls": record["write_calls"],
        "steps": [_step(step, number) for step in record["steps"]],
        "answers": [
            [answer["answer"], answer["score"], context["calls"], _passages(record["texts"], context, number)]
            for answer, context in zip(trace.answers, record["contexts"], strict=True)
        ],
    }


def _step(step: Mapping[str, Any], number) -> list[list]:
    operations = [[o["name"], o["kind"], o["id"], number(o["text"]), o["status"]] for o in step["operations"]]
    changes = [[c["change"], c["kind"], c["id"], number(c["before"]), number(c["after"])] for c in step["changes"]]
    return [[number(reply) for reply in step["replies"]], operations, changes]


def _passages(texts: Sequence[str], context: Mapping[str, Any], number) -> list[list]:
    return [
        [number(texts[text]), kind, name, score, chunk]
        for text, kind, name, _place, score, chunk in context["passages"]
    ]
