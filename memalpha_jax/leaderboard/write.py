"""Writing the memories of some episodes side by side, with a record of everything that happened.

The record of one episode, as JSON:

    steps: for each chunk, `replies` of the method's model, `operations` it led to, `changes` of the memory
    contexts: for each question the `passages` handed over, as [number in `texts`, kind, id, place, score, chunk],
      `answer` where the method itself has one, and `calls` of a model
    texts: the texts of all passages, once each
    memory_tokens, prompt_tokens, reply_tokens, write_calls
    seconds: of writing, the only entry that differs from run to run
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from memalpha_jax.episodes.episode import Episode
from memalpha_jax.methods.method import Context, Entry, Memory, Method

LONGEST_TRACE = 1000
"""Chunks; what changes in the memory of a longer stream is not recorded chunk by chunk."""


def write_episodes(method: Method, episodes: Sequence[Episode], fit: Callable[[Context], Context]) -> list[dict]:
    """One record per episode; `fit` cuts a context to the reader's budget."""
    memories = method.open(len(episodes))
    with ThreadPoolExecutor(len(episodes)) as pool:
        return list(pool.map(lambda memory, episode: _write(memory, episode, fit), memories, episodes))


def _write(memory: Memory, episode: Episode, fit: Callable[[Context], Context]) -> dict[str, Any]:
    try:
        steps, seconds = [], 0.0
        before: dict[str, Entry] = {}
        traced = len(episode.chunks) <= LONGEST_TRACE
        prompt_tokens = reply_tokens = calls = 0
        for chunk in episode.chunks:
            start = time.monotonic()
            done = memory.write(chunk)
            seconds += time.monotonic() - start
            prompt_tokens, reply_tokens = prompt_tokens + done.prompt_tokens, reply_tokens + done.reply_tokens
            calls += len(done.replies)
            if traced:
                after = _by_name(memory.entries())
                operations = [dataclasses.asdict(operation) for operation in done.operations]
                steps.append({"replies": done.replies, "operations": operations, "changes": changes(before, after)})
                before = after
        contexts = [fit(memory.read(question.question)) for question in episode.questions]
        texts: dict[str, int] = {}
        return {
            "instance_id": episode.instance_id,
            "steps": steps,
            "contexts": [_context(context, texts) for context in contexts],
            "texts": list(texts),
            "memory_tokens": memory.memory_tokens,
            "prompt_tokens": prompt_tokens,
            "reply_tokens": reply_tokens,
            "write_calls": calls,
            "seconds": seconds,
        }
    finally:
        memory.close()


def _by_name(entries: Sequence[Entry]) -> dict[str, Entry]:
    return {f"{entry.kind}/{entry.id}": entry for entry in entries}


def changes(before: Mapping[str, Entry], after: Mapping[str, Entry]) -> list[dict[str, str]]:
    """What turns one memory into the other: entries deleted, changed and added, with their texts before and after."""
    found = [_change("delete", old, old.text, "") for name, old in before.items() if name not in after]
    for name, new in after.items():
        old_text = before[name].text if name in before else None
        if old_text is None:
            found.append(_change("insert", new, "", new.text))
        elif old_text != new.text:
            found.append(_change("update", new, old_text, new.text))
    return found


def _change(name: str, entry: Entry, before: str, after: str) -> dict[str, str]:
    return {"change": name, "kind": entry.kind, "id": entry.id, "before": before, "after": after}


def _context(context: Context, texts: dict[str, int]) -> dict[str, Any]:
    passages = [
        [texts.setdefault(p.text, len(texts)), p.kind, p.id, p.place, p.score, p.chunk] for p in context.passages
    ]
    return {"passages": passages, "answer": context.answer, "calls": context.calls}
