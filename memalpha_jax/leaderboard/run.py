"""Runs every method on every source: memories first, then the answers from them, both kept as they come."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging

from memalpha_jax.episodes.chunkers import CountTokens
from memalpha_jax.episodes.episode import Episode
from memalpha_jax.leaderboard.config import LeaderboardConfig
from memalpha_jax.leaderboard.store import Store, episode_key, key_of
from memalpha_jax.leaderboard.write import write_episodes
from memalpha_jax.methods.context import fit, reader_query
from memalpha_jax.methods.method import Method, Passage
from memalpha_jax.rewards.judge import Grader
from memalpha_jax.rewards.make import NO_GRADER, Named
from memalpha_jax.rewards.metrics import needs_grader
from memalpha_jax.rewards.reader import Reader
from memalpha_jax.rewards.reward import score_answers
from memalpha_jax.rewards.rouge import references, rouge_l

ANSWERS_AT_ONCE = 64
PUBLISHED_BUDGET = 30_000
"""Tokens of memory in a prompt of the paper's reader (arXiv 2509.25911)."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One method on one source. `memories`, `answers`: the keys of each episode's records."""

    method: str
    source: str
    episodes: tuple[Episode, ...]
    memories: tuple[str, ...]
    answers: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a comparison is made of.

    Attributes:
      grader: None where there is none, which does for sources whose answers a rule scores.
      reader_name, grader_name: tell their answers and grades from another's.
      check: called before the first thing that is left to do; raises UserError where it cannot be done.
    """

    methods: Mapping[str, Method]
    episodes: Mapping[str, Sequence[Episode]]
    reader: Reader
    reader_name: Named
    count_tokens: CountTokens
    grader: Grader | None = None
    grader_name: Named = NO_GRADER
    check: Callable[[], None] = lambda: None


def run(config: LeaderboardConfig, parts: Parts, store: Store) -> list[Cell]:
    """Does what the store does not hold yet; the cells in the order of methods and sources."""
    cells = [
        _cell(config, parts, name, source, tuple(episodes))
        for name in parts.methods
        for source, episodes in parts.episodes.items()
    ]
    if not all(_is_finished(cell, store) for cell in cells):
        parts.check()
    progress = Progress(sum(len(cell.episodes) for cell in cells))
    for cell in cells:
        for at in range(0, len(cell.episodes), config.batch):
            group = slice(at, at + config.batch)
            stored = all(map(store.has_memory, cell.memories[group]))
            _write_group(config, parts, store, cell, group)
            for i in range(len(cell.episodes))[group]:
                _answer(parts, store, cell, i, published=config.published)
            progress.done(len(cell.episodes[group]), stored, f"{cell.method} on {cell.source}")
    return cells


def _cell(config: LeaderboardConfig, parts: Parts, name: str, source: str, episodes: tuple[Episode, ...]) -> Cell:
    reader, grader = parts.reader_name.identity, parts.grader_name.identity
    memories = tuple(key_of(parts.methods[name].identity, budget_of(config, name), episode_key(e)) for e in episodes)
    answers = tuple(
        key_of(memory, reader, grader if needs_grader(e.data_source) else "", config.published)
        for memory, e in zip(memories, episodes, strict=True)
    )
    return Cell(name, source, episodes, memories, answers)


def budget_of(config: LeaderboardConfig, method: str) -> int | None:
    """Tokens that the reader is shown of a method at most; None for no limit but the method's own."""
    if config.budgets == "shared":
        return config.reader.budget
    return PUBLISHED_BUDGET if method == "memalpha" else None


def _is_finished(cell: Cell, store: Store) -> bool:
    return all(map(store.has_memory, cell.memories)) and all(
        len(store.read_answers(key)) == len(episode.questions)
        for key, episode in zip(cell.answers, cell.episodes, strict=True)
    )


def _write_group(config: LeaderboardConfig, parts: Parts, store: Store, cell: Cell, group: slice) -> None:
    """Writes a group as a whole, so that a run that was interrupted writes the same batches as one that was not."""
    keys = cell.memories[group]
    if all(store.has_memory(key) for key in keys):
        return
    budget = budget_of(config, cell.method)
    shorten = functools.partial(fit, budget=budget, count_tokens=parts.count_tokens) if budget else lambda whole: whole
    records = write_episodes(parts.methods[cell.method], cell.episodes[group], shorten)
    for key, record in zip(keys, records, strict=True):
        store.save_memory(key, record)


def _answer(parts: Parts, store: Store, cell: Cell, i: int, published: bool) -> None:
    """Answers and scores what is left of one episode's questions."""
    episode, key = cell.episodes[i], cell.answers[i]
    given = store.read_answers(key)
    if len(given) == len(episode.questions):
        return
    record = store.read_memory(cell.memories[i])
    for at in range(0, len(episode.questions), ANSWERS_AT_ONCE):
        batch = range(at, min(at + ANSWERS_AT_ONCE, len(episode.questions)))
        chosen = [q for q in batch if q not in given]
        if chosen:
            store.add_answers(key, _answers(parts, episode, record, chosen, published))


def _answers(
    parts: Parts, episode: Episode, record: Mapping[str, Any], chosen: Sequence[int], published: bool
) -> dict[int, dict[str, Any]]:
    """Of the chosen questions those whose answer and score did not fail for good."""
    questions = [episode.questions[q] for q in chosen]
    queries = [
        reader_query(passages_of(record, record["contexts"][q]), question.question, episode.data_source)
        for q, question in zip(chosen, questions, strict=True)
    ]
    answers = [record["contexts"][q]["answer"] for q in chosen]
    asked = [n for n, answer in enumerate(answers) if answer is None]
    for n, answer in zip(asked, parts.reader.answer([queries[n] for n in asked]), strict=True):
        answers[n] = answer
    golds = [question.answer for question in questions]
    scores = score_answers(queries, answers, golds, published=published, grader=parts.grader)
    found: dict[int, dict[str, Any]] = {}
    for q, question, answer, score in zip(chosen, questions, answers, scores, strict=True):
        if score is not None:
            found[q] = {"answer": answer, "score": score}
            if people_wrote := references(episode, question):
                found[q]["rouge_l"] = rouge_l(answer, people_wrote)
    return found


def passages_of(record: Mapping[str, Any], context: Mapping[str, Any]) -> list[Passage]:
    """The passages that a record keeps for one question."""
    return [Passage(record["texts"][text], *rest) for text, *rest in context["passages"]]


class Progress:
    """Says how far a run is and about how long it still takes, by the episodes that were not stored before."""

    def __init__(self, total: int):
        self._total, self._done, self._written, self._start = total, 0, 0, time.monotonic()

    def done(self, episodes: int, stored: bool, what: str) -> None:
        """`episodes` more are finished; `stored`: an earlier call has written them."""
        self._done += episodes
        self._written += 0 if stored else episodes
        left = ""
        if self._written:
            seconds = (time.monotonic() - self._start) / self._written * (self._total - self._done)
            left = f", about {_duration(seconds)} left"
        logging.info("%s: %d of %d episodes%s", what, self._done, self._total, left)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
