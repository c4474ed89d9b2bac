"""Replies on disk, by request: one SQLite file, whole at any moment, for several threads and processes."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from memalpha_jax.chat.model import Completion
from memalpha_jax.errors import UserError
from memalpha_jax.workdir import disk_errors

FILE = "replies.sqlite"
_WAIT_S = 60.0


class ReplyCache:
    """`get` and `put` by key. A reply that was put is there after a kill at any moment.

    Both raise UserError where the folder cannot hold such a file, or holds one that is none.
    """

    def __init__(self, folder: Path):
        """Nothing is made before it is needed."""
        self._path, self._lock = folder / FILE, threading.Lock()
        self._opened: sqlite3.Connection | None = None

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._opened is None:
            with disk_errors(f"cannot create {self._path.parent}"):
                self._path.parent.mkdir(parents=True, exist_ok=True)
            opened = sqlite3.connect(self._path, timeout=_WAIT_S, check_same_thread=False)
            opened.execute("PRAGMA journal_mode=WAL")  # a writer keeps nobody from reading
            opened.execute("PRAGMA synchronous=NORMAL")  # whole in any case; only a power cut loses the last
            opened.execute(
                "CREATE TABLE IF NOT EXISTS replies "
                "(key TEXT PRIMARY KEY, text TEXT NOT NULL, prompt_tokens INTEGER, completion_tokens INTEGER)"
            )
            opened.commit()
            self._opened = opened
        return self._opened

    def get(self, key: str) -> Completion | None:
        """The reply to the request of this key, None where there is none yet."""
        with self._lock, self._errors():
            query = "SELECT text, prompt_tokens, completion_tokens FROM replies WHERE key = ?"
            row = self._connection.execute(query, (key,)).fetchone()
        return None if row is None else Completion(row[0], "", row[1], row[2])

    def put(self, key: str, reply: Completion) -> Completion:
        """Keeps the first reply of a key, and returns the one kept."""
        with self._lock, self._errors():
            values = key, reply.text, reply.prompt_tokens, reply.completion_tokens
            self._connection.execute("INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?)", values)
            self._connection.commit()
        return self.get(key) or reply

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise UserError(
                f"the kept replies in {self._path} cannot be used: {error}; make room or permission there, or delete "
                "the file, and the replies are asked for again"
            ) from error
