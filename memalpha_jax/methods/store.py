"""Typed entries with ids, and core blocks of limited length: what the memories of several methods are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence, Set

from memalpha_jax.episodes.chunkers import CountTokens
from memalpha_jax.methods.method import CORE, Entry, Operation, Passage
from memalpha_jax.methods.ranking import Ranking
from memalpha_jax.methods.replies import Edit


class EntryStore:
    """Entries of several kinds in insertion order; ids count up from 1 and are never used again."""

    def __init__(self, count_tokens: CountTokens, ranking: Ranking):
        self._count, self._ranking = count_tokens, ranking
        self._entries: dict[str, Entry] = {}
        self._next, self.tokens = 1, 0

    def entries(self) -> list[Entry]:
        return list(self._entries.values())

    def insert(self, kind: str, text: str, chunk: int) -> Operation:
        """Adds an entry, unless its text is blank."""
        if not text.strip():
            return Operation("insert", kind, status="empty_content")
        entry = Entry(str(self._next), kind, text, chunk)
        self._next += 1
        self._put(entry)
        return Operation("insert", kind, entry.id, text)

    def update(self, kind: str, id: str, text: str, chunk: int) -> Operation:
        """Replaces the text of an entry of this kind, which keeps its place."""
        done = Operation("update", kind, id, text)
        if self._is_missing(kind, id):
            return dataclasses.replace(done, status="unknown_id")
        if not text.strip():
            return dataclasses.replace(done, status="empty_content")
        self._put(Entry(id, kind, text, chunk))
        return done

    def delete(self, kind: str, id: str) -> Operation:
        if self._is_missing(kind, id):
            return Operation("delete", kind, id, status="unknown_id")
        self.tokens -= self._count(self._entries.pop(id).text)
        return Operation("delete", kind, id)

    def apply(self, edit: Edit, kind: str, shown: Set[str], chunk: int) -> Operation:
        """Does what a model says: add or insert, update, delete, none or noop; it may only change what was `shown`."""
        if edit.name in ("add", "insert"):
            return self.insert(kind, edit.text, chunk)
        if edit.name in ("none", "noop"):
            return Operation("none", kind, edit.id, edit.text)
        if edit.name not in ("update", "delete"):
            return Operation(edit.name or "edit", kind, edit.id, edit.text, "unknown_event")
        if edit.id not in shown:
            return Operation(edit.name, kind, edit.id, edit.text, "unknown_id")
        return self.delete(kind, edit.id) if edit.name == "delete" else self.update(kind, edit.id, edit.text, chunk)

    def search(self, kinds: Sequence[str], query: str, k: int) -> list[Passage]:
        """The `k` entries of each of the kinds that fit best."""
        return self._ranking.best_passages(self.entries(), kinds, query, k)

    def _is_missing(self, kind: str, id: str) -> bool:
        entry = self._entries.get(id)
        return entry is None or entry.kind != kind

    def _put(self, entry: Entry) -> None:
        old = self._entries.get(entry.id)
        self.tokens += self._count(entry.text) - (self._count(old.text) if old else 0)
        self._entries[entry.id] = entry


class CoreBlocks:
    """Named texts that are always in view, each of at most `limit` tokens: an edit that makes one longer is refused."""

    def __init__(self, names: Sequence[str], limit: int, count_tokens: CountTokens):
        self._limit, self._count = limit, count_tokens
        self._texts = dict.fromkeys(names, "")

    def append(self, name: str, text: str) -> Operation:
        """Adds a line."""
        done = Operation("append", CORE, name, text)
        if not text.strip():
            return dataclasses.replace(done, status="empty_content")
        before = self._texts.get(name, "")
        return self._set(done, f"{before}\n{text}" if before else text)

    def replace(self, name: str, old: str, new: str) -> Operation:
        """Puts `new` where the block first has `old`; an empty `new` removes it."""
        done = Operation("replace", CORE, name, new)
        before = self._texts.get(name, "")
        if name in self._texts and (not old or old not in before):
            return dataclasses.replace(done, status="old text not found")
        return self._set(done, before.replace(old, new, 1))

    def rewrite(self, name: str, text: str) -> Operation:
        """Replaces the whole block."""
        return self._set(Operation("rewrite", CORE, name, text), text)

    def lines(self) -> list[str]:
        """For prompts: every block under its name, empty ones too."""
        return [f"{name}:\n{text}" for name, text in self._texts.items()]

    def entries(self) -> list[Entry]:
        return [Entry(name, CORE, text, -1) for name, text in self._texts.items() if text]

    def passages(self) -> list[Passage]:
        return [Passage(e.text, CORE, e.id, place) for place, e in enumerate(self.entries())]

    @property
    def tokens(self) -> int:
        return sum(self._count(text) for text in self._texts.values())

    def _set(self, done: Operation, text: str) -> Operation:
        if done.id not in self._texts:
            return dataclasses.replace(done, status="unknown_block")
        if self._count(text) > self._limit:
            return dataclasses.replace(done, status="full")
        self._texts[done.id] = text.strip()
        return done
