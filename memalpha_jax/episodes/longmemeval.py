"""LongMemEval: a user's sessions with an assistant, and what it should remember of them.

Official files: `longmemeval_oracle.json`, `longmemeval_s.json` and `longmemeval_m.json` (or their `_cleaned` forms) of
huggingface.co/datasets/xiaowu0162/longmemeval-cleaned; licence MIT. Each is one list of 500 records with `question_id`,
`question_type`, `question`, `answer`, `question_date`, and the sessions of the history as `haystack_sessions` (lists
of `{"role", "content"}`, marked `has_answer` where a turn holds the evidence), `haystack_dates`,
`haystack_session_ids` and `answer_session_ids`. The oracle file holds the evidence sessions only.

Two more layouts of the same data are read: records with lists `questions`, `answers` and `answer_session_ids` (several
questions about one history), and `{"data": [..]}` with `id` (which ends in "-" and the question id), `conversation`
(turns that carry their session's `date`) and `questions`; there all sessions are evidence.

The 500 questions are the same in every file, so they are divided: two fifths, chosen by a hash of `question_id`, are
for training (`lme_train`, about 200 as in the paper) and the others for evaluation (`longmemeval_s`, about 300). A file
`longmemeval_evaluation.json`, a list of records with `question_id`, or `.txt`, one id per line, takes the place of the
hash in both. Records with several questions are evaluation data as they are: their further questions have no id, so
give such a file under that name where it is used beside `lme_train`.

`lme_train` puts four questions and their sessions, 30,000 tokens at most, into one episode: about 50 from the
official file. `longmemeval_s` has one episode per record. The five contexts of 60 questions that MemoryAgentBench made
of it are a file of theirs and are read with their other sets. A file is read whole and takes three to four times its
size in memory: about 1 GB for `longmemeval_s.json` (255 MB).
"""

from __future__ import annotations

import dataclasses
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from memalpha_jax.episodes.chunkers import Unit, session_chunker
from memalpha_jax.episodes.episode import Episode, Question, validate
from memalpha_jax.episodes.official import field, read_json, read_text, typed
from memalpha_jax.episodes.source import EVALUATION, TRAINING, BuildOptions, Paths, Published, Source
from memalpha_jax.errors import UserError

CHUNK_TOKENS = 2048
CLOSE_AT = 1800 / 2048  # a chunk closes between this share of its limit and the limit
TRAIN_QUESTIONS, TRAIN_TOKENS = 4, 30_000  # of an episode of lme_train

_DATE = re.compile(r"\d{4}/\d\d/\d\d \(\w{3}\) \d\d:\d\d")
_ABSTENTION = "_abs"  # ends the id of a question about what was never said


@dataclasses.dataclass(frozen=True)
class _Session:
    """`turns` as (role, text, whether it is marked as evidence)."""

    name: str
    when: str
    turns: tuple[tuple[str, str, bool], ...]

    def units(self) -> list[Unit]:
        return [
            Unit(text, (self.name, self.when, i), when=self.when, role=role.capitalize())
            for i, (role, text, _) in enumerate(self.turns)
        ]

    def evidence(self) -> set[tuple[str, str, int]]:
        """Keys of the marked turns, of all turns where none is marked."""
        marked = [i for i, turn in enumerate(self.turns) if turn[2]] or range(len(self.turns))
        return {(self.name, self.when, i) for i in marked}


@dataclasses.dataclass(frozen=True)
class _Asked:
    question: str
    answer: str
    kind: str
    evidence: frozenset[tuple[str, str, int]]


@dataclasses.dataclass(frozen=True)
class _Record:
    name: str
    sessions: tuple[_Session, ...]
    asked: tuple[_Asked, ...]


def load_lme_train(paths: Paths, options: BuildOptions) -> Iterator[Episode]:
    """Episodes of `lme_train` from `paths["oracle"]`; `UserError` names file, record and field of a fault.

    The records are shuffled by the seed, and each goes to the first episode that has room for it. A record that
    alone is over the limit of tokens is an episode by itself.
    """
    kept = _ids(paths.get("evaluation"))
    records = [r for r in _read(paths["oracle"]) if _for_training(r.name, kept)]
    if not records:
        raise UserError(f"{paths['oracle']} holds no question that is for training: all are used for evaluation")
    rng = np.random.default_rng(options.seed)
    shuffled = [records[i] for i in rng.permutation(len(records))]
    for i, group in enumerate(_groups(shuffled, options)):
        yield _episode(f"lme_train-{options.seed}-{i}", "lme_train", group, options, str(paths["oracle"]))


def load_longmemeval(paths: Paths, options: BuildOptions) -> Iterator[Episode]:
    """One episode of `longmemeval_s` per record of `paths["history"]` that is for evaluation."""
    kept, found = _ids(paths.get("evaluation")), False
    for record in _read(paths["history"]):
        if len(record.asked) > 1 or not _for_training(record.name, kept):
            found = True
            yield _episode(f"longmemeval_s-{record.name}", "longmemeval_s", [record], options, str(paths["history"]))
    if not found:
        raise UserError(f"{paths['history']} holds no question that is for evaluation: all are used for training")


def _for_training(name: str, evaluation: frozenset[str] | None) -> bool:
    name = name.removesuffix(_ABSTENTION)  # the two forms of a question share their sessions
    return zlib.crc32(name.encode()) % 5 < 2 if evaluation is None else name not in evaluation


def _ids(path: os.PathLike[str] | None) -> frozenset[str] | None:
    if path is None:
        return None
    text = read_text(path)
    if text.lstrip()[:1] in ("[", "{"):
        names = [record.name for record in _read(path)]
    else:
        names = text.split()
    if not names:
        raise UserError(f"{path} holds no question ids; expected a list of records or one id per line")
    return frozenset(name.removesuffix(_ABSTENTION) for name in names)


def _groups(records: Iterable[_Record], options: BuildOptions) -> list[list[_Record]]:
    limit = options.stream_tokens or TRAIN_TOKENS
    groups: list[list[_Record]] = []
    sizes: list[int] = []
    for record in records:
        size = sum(options.count_tokens(text) for session in record.sessions for _, text, _ in session.turns)
        room = (i for i, g in enumerate(groups) if len(g) < TRAIN_QUESTIONS and sizes[i] + size <= limit)
        place = next(room, len(groups))
        if place == len(groups):
            groups.append([])
            sizes.append(0)
        groups[place].append(record)
        sizes[place] += size
    return groups


def _episode(name: str, source: str, records: Sequence[_Record], options: BuildOptions, where: str) -> Episode:
    sessions = {(s.name, s.when): s for record in records for s in record.sessions}
    in_time = sorted(sessions.values(), key=lambda session: session.when)  # year first, so text sorts as time
    limit = options.chunk_tokens or CHUNK_TOKENS
    chunker = session_chunker(limit, options.count_tokens, int(limit * CLOSE_AT))
    chunks = chunker([unit for session in in_time for unit in session.units()])
    questions = tuple(
        Question(
            a.question, a.answer, a.kind, tuple(t for t, c in enumerate(chunks) if not a.evidence.isdisjoint(c.keys))
        )
        for record in records
        for a in record.asked
    )
    about = {"question_ids": [record.name for record in records]}
    return validate(Episode(name, source, tuple(chunk.text for chunk in chunks), questions, about), where)


def _read(path: os.PathLike[str]) -> Iterator[_Record]:
    data = read_json(path)
    wrapped = isinstance(data, dict) and "data" in data
    records = typed(data["data"] if wrapped else data, list, f"{path}, field 'data'" if wrapped else str(path))
    if not records:
        raise UserError(f"{path} holds no records")
    for i, record in enumerate(records):
        where = f"{path}, {'data' if wrapped else ''}[{i}]"
        yield _flat_record(record, where) if wrapped else _record(record, where)


def _record(record: Any, where: str) -> _Record:
    name = field(record, "question_id", str, where)
    kind = _kind(name, field(record, "question_type", str, where))
    sessions = tuple(_sessions(record, where))
    if "questions" in record:
        lists = [field(record, key, list, where) for key in ("questions", "answers", "answer_session_ids")]
        if len({len(values) for values in lists}) > 1:
            raise UserError(f"{where}: 'questions', 'answers' and 'answer_session_ids' differ in length")
        asked = list(zip(*lists, strict=True))
        kind = "qa"  # the type is that of one of them
    else:
        asked = [(record.get("question"), record.get("answer"), record.get("answer_session_ids"))]
    date = field(record, "question_date", str, where)
    return _Record(name, sessions, tuple(_asked(q, a, ids, kind, date, sessions, where) for q, a, ids in asked))


def _kind(name: str, kind: str) -> str:
    return "abstention" if name.endswith(_ABSTENTION) else kind


def _asked(
    question: Any, answer: Any, ids: Any, kind: str, date: str, sessions: Sequence[_Session], where: str
) -> _Asked:
    at = f"{where}, field 'answer_session_ids'"
    wanted = {typed(name, str, at) for name in typed(ids, list, at)}
    missing = wanted - {session.name for session in sessions}
    if missing:
        raise UserError(f"{where}: evidence session {min(missing)!r} is not in 'haystack_session_ids'")
    keys = [key for session in sessions if session.name in wanted for key in session.evidence()]
    asked = typed(question, str, f"{where}, field 'question'")
    # What was never said has no place; "how long ago" needs the day of asking.
    evidence = frozenset() if kind == "abstention" else frozenset(keys)
    return _Asked(f"Today is {date}. {asked}" if date else asked, _answer(answer, where), kind, evidence)


def _answer(answer: Any, where: str) -> str:
    return str(answer) if type(answer) in (int, float) else typed(answer, str, f"{where}, field 'answer'")


def _sessions(record: Any, where: str) -> Iterator[_Session]:
    names = field(record, "haystack_session_ids", list, where)
    dates = field(record, "haystack_dates", list, where)
    sessions = field(record, "haystack_sessions", list, where)
    if not len(names) == len(dates) == len(sessions):
        raise UserError(
            f"{where}: 'haystack_session_ids', 'haystack_dates' and 'haystack_sessions' have {len(names)}, "
            f"{len(dates)} and {len(sessions)} entries; they must go together"
        )
    for i, (name, date, turns) in enumerate(zip(names, dates, sessions, strict=True)):
        at = f"{where}.haystack_sessions[{i}]"
        read = tuple(_turn(turn, f"{at}[{j}]") for j, turn in enumerate(typed(turns, list, at)))
        yield _Session(typed(name, str, f"{where}.haystack_session_ids[{i}]"), _date(date, where), read)


def _turn(turn: Any, where: str) -> tuple[str, str, bool]:
    return field(turn, "role", str, where), field(turn, "content", str, where), turn.get("has_answer") is True


def _date(value: Any, where: str) -> str:
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        raise UserError(f"{where}: the date {value!r:.40} is not like '2023/05/20 (Sat) 02:21'")
    return value


def _flat_record(record: Any, where: str) -> _Record:
    name = field(record, "id", str, where).rpartition("-")[2]
    turns: dict[str, list[tuple[str, str, bool]]] = {}
    for i, turn in enumerate(field(record, "conversation", list, where)):
        at = f"{where}.conversation[{i}]"
        turns.setdefault(_date(field(turn, "date", str, at), at), []).append(_turn(turn, at))
    sessions = tuple(_Session(f"{name}/{i}", when, tuple(said)) for i, (when, said) in enumerate(turns.items()))
    kind, ids = _kind(name, field(record, "question_type", str, where)), [session.name for session in sessions]
    asked = tuple(
        _asked(q.get("question"), q.get("answer"), ids, kind, "", sessions, f"{where}.questions[{i}]")
        for i, q in enumerate(field(record, "questions", list, where))
    )
    return _Record(name, sessions, asked)


_WHERE = "huggingface.co/datasets/xiaowu0162/longmemeval-cleaned"
_EVALUATION = ("longmemeval_evaluation.json", "longmemeval_evaluation.txt")
SOURCES = (
    Source(
        name="lme_train",
        role=TRAINING,
        competence="accurate retrieval",
        files={"oracle": ("longmemeval_oracle.json", "longmemeval_oracle*.json"), "evaluation": _EVALUATION},
        where=_WHERE,
        licence="MIT",
        load=load_lme_train,
        published=Published(episodes=50, chunks=15.4, chunk_tokens=1527.7, questions=4.0),
        optional=frozenset({"evaluation"}),
    ),
    Source(
        name="longmemeval_s",
        role=EVALUATION,
        competence="accurate retrieval",
        files={
            "history": ("longmemeval_s.json", "longmemeval_s_cleaned.json", "longmemeval_s*.json"),
            "evaluation": _EVALUATION,
        },
        where=_WHERE,
        licence="MIT",
        load=load_longmemeval,
        # MemoryAgentBench's five contexts.
        published=Published(episodes=5, chunks=218.6, chunk_tokens=1591.4, questions=60.0),
        optional=frozenset({"evaluation"}),
    ),
)
