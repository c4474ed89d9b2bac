"""The episode record: chunks to read, questions to answer afterwards, and the JSON lines it travels in.

Every source ends in this type, and everything after the loaders trusts that an `Episode` went through
`validate`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from memalpha_jax.errors import UserError

MAX_QUESTIONS = 100


@dataclasses.dataclass(frozen=True)
class Question:
    """One question about the whole episode.

    `answer` is one gold, or several (keywords or aliases: the metric of the episode's source decides which).
    `kind` groups questions in tables; `evidence` holds the 0-based indices of the chunks that carry the
    answer.
    """

    question: str
    answer: str | tuple[str, ...]
    kind: str = "qa"
    evidence: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Episode:
    """A stream of chunks and the questions asked after the last one. `metadata` must be JSON data."""

    instance_id: str
    data_source: str
    chunks: tuple[str, ...]
    questions: tuple[Question, ...]
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)


def validate(episode: Episode, where: str = "") -> Episode:
    """Returns the episode, its questions thinned to `MAX_QUESTIONS`; `UserError` names the instance and the
    field, after the place it was read from, if given.
    """
    problem = next(iter(_problems(episode)), None)
    if problem:
        raise UserError(f"{where}: " * bool(where) + f"episode {episode.instance_id!r}: {problem}")
    if len(episode.questions) <= MAX_QUESTIONS:
        return episode
    return dataclasses.replace(episode, questions=sample_questions(episode.questions, episode.instance_id))


def sample_questions(questions: tuple[Question, ...], instance_id: str) -> tuple[Question, ...]:
    """At most `MAX_QUESTIONS`, order kept; the choice depends on `instance_id` alone, so it is the same every
    run.
    """
    if len(questions) <= MAX_QUESTIONS:
        return questions
    rng = np.random.default_rng(zlib.crc32(instance_id.encode("utf-8", "surrogatepass")))
    kept = sorted(rng.choice(len(questions), MAX_QUESTIONS, replace=False))
    return tuple(questions[i] for i in kept)


def _problems(episode: Episode) -> Iterable[str]:
    if not episode.instance_id:
        yield "field 'instance_id' is empty"
    if not episode.data_source:
        yield "field 'data_source' is empty; it chooses the metric"
    if not episode.chunks:
        yield "field 'chunks' is empty; an episode needs at least one chunk"
    for i, chunk in enumerate(episode.chunks):
        if not chunk.strip():
            yield f"field 'chunks[{i}]' holds no text"
    if not episode.questions:
        yield "field 'questions' is empty; without questions there is nothing to reward, drop the episode"
    for i, question in enumerate(episode.questions):
        yield from _question_problems(question, f"questions[{i}]", len(episode.chunks))


def _question_problems(question: Question, where: str, num_chunks: int) -> Iterable[str]:
    if not question.question.strip():
        yield f"field '{where}.question' holds no text"
    golds = (question.answer,) if isinstance(question.answer, str) else question.answer
    if not golds or any(not gold.strip() for gold in golds):
        yield f"field '{where}.answer' holds no text"
    if any(not 0 <= chunk < num_chunks for chunk in question.evidence):
        yield (f"field '{where}.evidence' is {list(question.evidence)}; there are {num_chunks} chunks, from 0")


def episode_from_json(record: Any, where: str) -> Episode:
    """The episode of one decoded JSON object. `where` (file and line) opens every `UserError`."""
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected a JSON object with the fields of an episode, got {_name(record)}")
    episode = Episode(
        instance_id=_typed(record, "instance_id", str, where),
        data_source=_typed(record, "data_source", str, where),
        chunks=_strings(_typed(record, "chunks", list, where), "chunks", where),
        questions=tuple(
            _question_from_json(q, f"questions[{i}]", where)
            for i, q in enumerate(_typed(record, "questions", list, where))
        ),
        metadata=_typed(record, "metadata", dict, where, {}),
    )
    return validate(episode, where)


def _question_from_json(record: Any, field: str, where: str) -> Question:
    if not isinstance(record, dict):
        raise UserError(f"{where}: field '{field}' must be an object, got {_name(record)}")
    answer = record.get("answer")
    if isinstance(answer, list):
        answer = _strings(answer, f"{field}.answer", where)
    elif not isinstance(answer, str):
        raise UserError(f"{where}: field '{field}.answer' must be text or a list of texts, got {_name(answer)}")
    evidence = _typed(record, "evidence", list, where, [], f"{field}.evidence")
    if not all(type(chunk) is int for chunk in evidence):
        raise UserError(f"{where}: field '{field}.evidence' must be a list of chunk indices, got {evidence!r:.80}")
    return Question(
        question=_typed(record, "question", str, where, name=f"{field}.question"),
        answer=answer,
        kind=_typed(record, "kind", str, where, "qa", f"{field}.kind"),
        evidence=tuple(evidence),
    )


def _typed(record: dict, key: str, kind: type, where: str, default: Any = None, name: str = "") -> Any:
    value = record.get(key, default)
    if not isinstance(value, kind):
        found = "is missing" if key not in record else f"must be {_KINDS[kind]}, got {_name(value)}"
        raise UserError(f"{where}: field '{name or key}' {found}")
    return value


def _strings(values: list, field: str, where: str) -> tuple[str, ...]:
    for i, value in enumerate(values):
        if not isinstance(value, str):
            raise UserError(f"{where}: field '{field}[{i}]' must be text, got {_name(value)}")
    return tuple(values)


_KINDS: dict[type, str] = {str: "text", list: "a list", dict: "an object"}


def _name(value: Any) -> str:
    return f"{type(value).__name__} {value!r:.60}"


def episode_to_json(episode: Episode) -> dict[str, Any]:
    """Plain JSON data that `episode_from_json` turns back into an equal episode."""
    record = dataclasses.asdict(episode)
    record["chunks"] = list(episode.chunks)
    for question in record["questions"]:
        if isinstance(question["answer"], tuple):
            question["answer"] = list(question["answer"])
        question["evidence"] = list(question["evidence"])
    record["questions"] = list(record["questions"])
    return record


def read_episodes(path: str | os.PathLike[str]) -> list[Episode]:
    """Episodes of a JSON-lines file (blank lines skipped); `UserError` names file, line and field of the
    first fault.
    """
    try:
        # Bytes, cut at "\n" only: text may hold other line separators, which JSON leaves unescaped.
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")
    except OSError as error:
        raise UserError(f"cannot read episodes from {path}: {error.strerror or error}") from None
    episodes = [_read_line(line, f"{path}, line {n}") for n, line in enumerate(lines, 1) if line.strip()]
    if not episodes:
        raise UserError(f"{path} holds no episodes; expected one JSON object per line")
    _reject_repeated_ids(episodes, path)
    return episodes


def _read_line(line: bytes, where: str) -> Episode:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON ({error})") from None
    return episode_from_json(record, where)


def _reject_repeated_ids(episodes: list[Episode], path: str | os.PathLike[str]) -> None:
    seen: set[str] = set()
    for episode in episodes:
        if episode.instance_id in seen:
            raise UserError(f"{path}: field 'instance_id' {episode.instance_id!r} occurs twice; ids must be unique")
        seen.add(episode.instance_id)


def write_episodes(path: str | os.PathLike[str], episodes: Iterable[Episode]) -> None:
    """Writes JSON lines; readers of `path` see the old file or the whole new one, never a part."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=folder, prefix=".episodes-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            for episode in episodes:
                file.write(json.dumps(episode_to_json(episode)) + "\n")
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
