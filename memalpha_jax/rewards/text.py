"""Words, sentences and time expressions of plain English text, for the reader and the judge."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_FUNCTION_WORDS = """
    a an the this that these those i me my mine we us our ours you your yours he him his she her hers it
    its they them their theirs who whom whose which what when where why how is am are was were be been
    being do does did done doing has have had having will would shall should can could may might must of
    in on at by for with from to into onto upon about as than then so and or but nor if because while
    during after before between among through over under up down out off not no now also just very too
    there here s t d m re ve ll
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())

_WORD = re.compile(r"\w+")
_LABEL_LINE = re.compile(r"\n\s*(?=label\s*:)", re.IGNORECASE)
# A full stop ends a sentence only before a capital, digit, quote or bracket, and never after a title or an
# initial; a classification sample stays in one piece with its label.
_SENTENCE_BREAK = re.compile(
    r"""(?<=[.!?])(?<!\b[A-Z]\.)(?<!Mr\.)(?<!Mrs\.)(?<!Ms\.)(?<!Dr\.)(?<!St\.)\s+"""
    r"""(?![Ll]abel\s*:)(?=["'(\[<\u201c]?[A-Z0-9])|\n+|\s+(?=Sample\s*:)"""
)

_MONTH = (
    r"(?:jan(?:uary|\.)?|feb(?:ruary|\.)?|mar(?:ch|\.)?|apr(?:il|\.)?|may|june?|july?|aug(?:ust|\.)?"
    r"|sept?(?:ember|\.)?|oct(?:ober|\.)?|nov(?:ember|\.)?|dec(?:ember|\.)?)"
)
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
_UNIT = r"(?:minute|hour|day|night|week|weekend|month|year|decade)s?"
_WEEKDAY = r"(?:monday|tuesday|wednesday|thursday|friday|saturday|sunday)"
_SEASON = r"(?:spring|summer|autumn|fall|winter)"
_TIME_PATTERNS = (  # the most telling kind first; within a text the kinds before win over those after
    (
        "date",
        rf"\b\d{{4}}[-/]\d{{1,2}}[-/]\d{{1,2}}\b|\b\d{{1,2}}[-/]\d{{1,2}}[-/]\d{{2,4}}\b"
        rf"|\b{_DAY}(?: of)? {_MONTH}(?!\w)(?:,? \d{{4}}\b)?|\b{_MONTH} {_DAY}\b(?![,.]\d)(?:,? \d{{4}}\b)?",
    ),
    ("month", rf"\b{_MONTH},? (?:1\d|20)\d\d\b"),
    ("year", r"\b(?:1\d|20)\d\d\b(?!,\d)"),
    (
        "relative",
        r"\b(?:yesterday|today|tomorrow|tonight)\b"
        rf"|\b(?:last|next|this) (?:{_UNIT}|{_WEEKDAY}|{_MONTH}|morning|afternoon|evening|{_SEASON})\b"
        rf"|\b(?:\d+|an?|one|two|three|four|five|six|a few|several) {_UNIT} (?:ago|later|earlier)\b"
        rf"|\b{_WEEKDAY}\b",
    ),
    ("clock", r"\b\d{1,2}:\d{2}(?::\d{2})?(?: ?[ap]\.?m\b)?|\b\d{1,2} ?[ap]\.?m\b"),
)
_TIME = re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in _TIME_PATTERNS), re.IGNORECASE)
TIME_KINDS = tuple(kind for kind, _ in _TIME_PATTERNS)


@dataclass(frozen=True)
class TimeExpression:
    """One expression of time: its kind (`TIME_KINDS`), its characters `[start, end)` and its text."""

    kind: str
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Sentence:
    """A sentence, its lower-cased words in order and the characters `[start, end)` of each word."""

    text: str
    words: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    word_set: frozenset[str]


@lru_cache(maxsize=65536)
def time_expressions(text: str) -> tuple[TimeExpression, ...]:
    """Every expression of time in a text, in order of appearance."""
    found = _TIME.finditer(text)
    return tuple(TimeExpression(match.lastgroup or "", *match.span(), match.group()) for match in found)


@lru_cache(maxsize=65536)
def sentence(text: str) -> Sentence:
    """A text as one sentence."""
    matches = list(_WORD.finditer(text))
    lowered = tuple(match.group().lower() for match in matches)
    return Sentence(text, lowered, tuple(match.span() for match in matches), frozenset(lowered))


@lru_cache(maxsize=65536)
def sentences(text: str) -> tuple[Sentence, ...]:
    """The sentences of a text that hold a word; a classification sample and its label are one sentence."""
    pieces = _SENTENCE_BREAK.split(_LABEL_LINE.sub(" ", text))
    return tuple(sentence(piece.strip()) for piece in pieces if _WORD.search(piece))
