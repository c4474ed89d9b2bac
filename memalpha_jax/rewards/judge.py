"""Judges of what was stored: is a text what its kind of memory is for?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

from memalpha_jax.errors import UserError
from memalpha_jax.memory.state import MemoryType
from memalpha_jax.rewards import metrics
from memalpha_jax.rewards.text import FUNCTION_WORDS, TimeExpression, sentence, time_expressions

MIN_WORDS = 3
"""A text of fewer words states nothing."""

_PLACEHOLDER = re.compile(
    r"\b(?:placeholder|lorem ipsum|to be (?:added|determined|filled|updated)|tbd|todo|n/a|your text)\b"
    r"|\binsert .{0,20}here\b"
    r"|^\W*(?:no|none|nothing|empty|not)\b(?: \w+){0,3} (?:yet|available|provided|known|stored|so far)\b"
    r"|^\W*(?:core|core[ _]memory|(?:the |this )?(?:core |memory )*(?:is )?empty)\W*$"
    r"|^\s*[\[<{(][^\[\]<>{}()]*[\]>})]\s*$",
    re.IGNORECASE,
)
_INTERJECTION = re.compile(
    r"^\W*(?:well|(?:ha){2,}|hey|hi|hello|oh|ah|aw+|wow|hm+|yeah|yes|yep|no|nope|ok|okay|sure|lol"
    r"|thanks?|thank you|bye|goodbye|good (?:morning|evening|night|luck)|congrats|cool|nice|great)\b"
    r"\W*(?:,|!|\.|$)",
    re.IGNORECASE,
)
_SMALL_TALK = re.compile(
    r"^\W*(?:\w+,? ){1,3}(?:just |then )?(?:smiled|laughed|waved|winked|nodded|yawned|grinned|giggled"
    r"|chuckled|frowned|shrugged|sighed|blushed|joked|chatted|hummed|whistled|clapped|cheered|stared|looked|glanced)\b"
    r"|^\W*(?:\w+,? ){1,3}(?:looks|feels|seems|looked|felt|seemed) (?:so |very |a bit |quite )?\w+\W*$",
    re.IGNORECASE,
)
_LABELLED = re.compile(r"\S.*\blabel\s*[:=]\s*[\w\\]", re.IGNORECASE | re.DOTALL)
_STATIVE = re.compile(
    r"\b(?:is|are|was|were|be|been|has|have|had|born|means|consists|contains|lasts?)\b", re.IGNORECASE
)
_KEY = re.compile(r"^\W*(?:\w+\s*:\s*)?(?:(?:on|at|in|since|by|during|around)\s+)?", re.IGNORECASE)


class JudgeQuery(NamedTuple):
    """A text that a call stored and the `MemoryType` it was stored as."""

    memory_type: int
    text: str


class JudgeError(UserError):
    """The judge could not be reached or gave no verdict.

    partial: verdicts it did give, in the order of the queries, None for the missing ones; or None where there
    are none.
    """

    def __init__(self, message: str, partial: Sequence[bool | None] | None = None):
        super().__init__(message)
        self.partial = partial


class Judge(Protocol):
    """Gives one verdict per stored text, in order; raises `JudgeError` rather than invent one."""

    def verdicts(self, queries: Sequence[JudgeQuery]) -> list[bool]: ...


class GradeQuery(NamedTuple):
    """An answer to be graded against its gold answers (sources for which `metrics.needs_grader` holds)."""

    question: str
    golds: tuple[str, ...]
    answer: str


class Grader(Protocol):
    """Grades answers."""

    def replies(self, queries: Sequence[GradeQuery]) -> Sequence[str | None]:
        """One reply per query, in order, whose first word is yes or no; None where there is none for good."""
        ...


@dataclass(frozen=True)
class RulesGrader:
    """A grader made of a rule: a normalised gold answer inside the normalised answer is right.

    It is deterministic and offline, and stricter than a language model: other words for the same are wrong.
    """

    def replies(self, queries: Sequence[GradeQuery]) -> list[str]:
        """ "yes" or "no" for each query."""
        return ["yes" if metrics.gold_inside(query.answer, query.golds) else "no" for query in queries]


@dataclass(frozen=True)
class RulesJudge:
    """A judge made of rules: deterministic, offline, cached.

    core: not a placeholder. episodic: something that happened, with its time. semantic: a statement of
    knowledge (fact, labelled sample), not a dated event, a question, a greeting or small talk.
    """

    def verdict(self, memory_type: int, text: str) -> bool:
        """Whether `text` is fit for memory `memory_type` (a `MemoryType`); unknown types are refused."""
        return _verdict(int(memory_type), text)

    def verdicts(self, queries: Sequence[JudgeQuery]) -> list[bool]:
        """One verdict per query."""
        return [_verdict(int(query.memory_type), query.text) for query in queries]


@lru_cache(maxsize=262144)
def _verdict(memory_type: int, text: str) -> bool:
    if memory_type == MemoryType.CORE:
        return len(sentence(text).words) >= MIN_WORDS and not _PLACEHOLDER.search(text)
    if _is_chatter(text):
        return False
    if memory_type == MemoryType.EPISODIC:
        return _is_dated_happening(text)
    return memory_type == MemoryType.SEMANTIC and _is_knowledge(text)


def _is_chatter(text: str) -> bool:
    """Too little to say anything, or a question, an exclamation, a greeting, a gesture, a passing mood."""
    if len(sentence(text).words) < MIN_WORDS:
        return True
    ending = text.rstrip(" \t\r\n\"')")[-1:]
    if ending in ("?", "!") and not _LABELLED.search(text):
        return True
    return bool(_INTERJECTION.search(text) or _SMALL_TALK.search(text))


def _is_dated_happening(text: str) -> bool:
    """Has an expression of time and at least two words of content besides."""
    times = time_expressions(text)
    return bool(times) and _content_words(text, times) >= 2


def _content_words(text: str, times: Sequence[TimeExpression]) -> int:
    one = sentence(text)
    outside = (
        word not in FUNCTION_WORDS and not any(time.start <= span[0] < time.end for time in times)
        for word, span in zip(one.words, one.spans, strict=True)
    )
    return sum(outside)


def _is_knowledge(text: str) -> bool:
    if _PLACEHOLDER.search(text):
        return False
    if _LABELLED.search(text):
        return True
    # A year may belong to lasting knowledge; a day, a weekday or "yesterday" belongs to an event, unless the
    # sentence states what something is or was.
    days = [time for time in time_expressions(text) if time.kind in ("date", "relative", "clock")]
    if not days:
        return True
    key = _KEY.match(text)
    leads = days[0].start <= (key.end() if key else 0)
    return not leads and _STATIVE.search(text) is not None
