"""The frozen reader: answers questions from a final memory alone. Here its embedded, deterministic form."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple, Protocol

from memalpha_jax.errors import UserError
from memalpha_jax.memory.retrieval import Bm25Index
from memalpha_jax.rewards import metrics
from memalpha_jax.rewards.text import (
    FUNCTION_WORDS,
    TIME_KINDS,
    Sentence,
    sentence,
    sentences,
    time_expressions,
)

_LABEL_QUESTION = re.compile(r"\blabel\s*[:=]?\s*\?*\s*$", re.IGNORECASE)
_LABEL = re.compile(r"\blabel\s*[:=]\s*(.*?)\s*(?=\blabel\s*[:=]|$)", re.IGNORECASE | re.DOTALL)
_LEADING_KEY = re.compile(r"\s*\w+\s*:")
_KEY = re.compile(r"(\w+)\s*:")
_HOW_MANY = re.compile(r"\bhow (?:many|much|old|long|far|tall|high|big|large)\b", re.IGNORECASE)
_WHEN = re.compile(r"\bwhen\b|\b(?:what|which) (?:date|day|month|year)\b", re.IGNORECASE)
_ASKED_CLASS = re.compile(r"\bwhich (\w+)|\bwhat (\w+)\s*\?*\s*$", re.IGNORECASE)
_CAPITALISED = re.compile(r"\b[A-Z]\w*")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


@dataclass(frozen=True)
class ReaderQuery:
    """A question and the memory it is put to: texts (lists in insertion order), and the question's source.

    `retrieved`: these are what somebody chose for the question, all of it to be read as it is.
    """

    question: str
    core: str = ""
    episodic: tuple[str, ...] = ()
    semantic: tuple[str, ...] = ()
    data_source: str = ""
    retrieved: bool = False


class Reader(Protocol):
    """Answers questions."""

    def answer(self, queries: list[ReaderQuery]) -> Sequence[str | None]:
        """One answer per query, in order; None where there is none for good, which is not a wrong answer."""
        ...


def every_answer(reader: Reader, queries: list[ReaderQuery]) -> list[str]:
    """The answers, for uses that cannot do without one; UserError where there is none for good."""
    answers = reader.answer(queries)
    given = [answer for answer in answers if answer is not None]
    if len(given) < len(queries):
        raise UserError(
            f"the reader gave no answer to {len(queries) - len(given)} of {len(queries)} questions; see the warnings "
            "above for the reason, and run the same command again"
        )
    return given


def asks_label(question: str, data_source: str) -> bool:
    r"""Whether the answer is the number of a class, `\boxed{n}`."""
    return metrics.is_classification(data_source) or _LABEL_QUESTION.search(question) is not None


@lru_cache(maxsize=512)
def _index(items: tuple[str, ...]) -> Bm25Index[int]:
    return Bm25Index(enumerate(items))


def retrieve(query: ReaderQuery, top_k: int) -> ReaderQuery:
    """The query with each list reduced to its `top_k` items by BM25, in score order (ties by insertion).

    Lists that were chosen for the question already keep their own order.
    """

    def best(items: tuple[str, ...]) -> tuple[str, ...]:
        rows = _index(items).rank(query.question, top_k) if items else []
        return tuple(items[row] for row in (sorted(rows) if query.retrieved else rows))

    return replace(query, episodic=best(query.episodic), semantic=best(query.semantic))


@dataclass(frozen=True)
class ExtractiveReader:
    """Retrieval followed by extraction; no model, no network, the same answer every time.

    Attributes:
      one_value: answer with one value, taken from the evidence sentence that shares most of the question's words.
        Among equals the oldest item wins, whatever its BM25 score, so that a stale fact left beside its correction is
        what gets answered, and a sentence naming two values is answered with both. False: the lenient published-like
        reader, whose answer is everything retrieved.
      top_k: items kept per list; the core paragraph is always read.
    """

    one_value: bool = True
    top_k: int = 20

    def answer(self, queries: list[ReaderQuery]) -> list[str]:
        """One answer per query; "" where the memory holds no evidence."""
        return [self._answer_one(query) for query in queries]

    def _answer_one(self, query: ReaderQuery) -> str:
        question = _read_question(query.question, asks_label(query.question, query.data_source))
        if not self.one_value and question.kind != "label":
            found = query if query.retrieved else retrieve(query, self.top_k)
            return "\n".join(text for text in (found.core, *found.semantic, *found.episodic) if text)
        # The core comes last: moving a correction there must not hide the stale item it contradicts.
        evidence = _evidence(self._kept(query, query.semantic)) + _evidence(self._kept(query, query.episodic))
        evidence += _evidence((query.core,))
        if metrics.find_source(query.data_source) == "generated":
            return _exact_answer(question, evidence)
        return _best_answer(question, evidence)

    def _kept(self, query: ReaderQuery, items: tuple[str, ...]) -> tuple[str, ...]:
        """The retrieved items in insertion order; retrieval is skipped where it would keep everything."""
        if query.retrieved or len(items) <= self.top_k:
            return items
        return tuple(items[row] for row in sorted(_index(items).rank(query.question, self.top_k)))


class _Evidence(NamedTuple):
    sentence: Sentence
    item: str


@lru_cache(maxsize=4096)
def _evidence(items: tuple[str, ...]) -> tuple[_Evidence, ...]:
    return tuple(_Evidence(one, item) for item in items for one in sentences(item))


class _Question(NamedTuple):
    """kind is "label", "when", "number" or "text"; `content`: the words evidence should share, in order."""

    kind: str
    words: frozenset[str]
    content: tuple[str, ...]
    content_set: frozenset[str]
    names: frozenset[str]


@lru_cache(maxsize=65536)
def _read_question(question: str, label: bool) -> _Question:
    read = sentence(question)
    keys = {key.lower() for key in _KEY.findall(question)}
    asked = {word.lower() for pair in _ASKED_CLASS.findall(question) for word in pair}
    left_out = FUNCTION_WORDS | keys | asked
    content = tuple(word for word in read.words if word not in left_out)
    names = frozenset(name.lower() for name in _CAPITALISED.findall(question)) - left_out
    if label:
        kind, names = "label", frozenset()
    elif _WHEN.search(question):
        kind = "when"
    else:
        kind = "number" if _HOW_MANY.search(question) else "text"
    return _Question(kind, read.word_set, content, frozenset(content), names)


def _exact_answer(question: _Question, evidence: Sequence[_Evidence]) -> str:
    """The value of the first sentence with every content word of the question, best in the same order."""
    if not question.content:
        return ""
    matching = [one.sentence for one in evidence if question.content_set <= one.sentence.word_set]
    if len(matching) > 1:
        matching.sort(key=lambda one: not _in_order(question.content, one.words))
    for one in matching:
        value = _exact_value(question, one)
        if value:
            return value
    return ""


def _in_order(content: tuple[str, ...], words: tuple[str, ...]) -> bool:
    remaining = iter(words)
    return all(word in remaining for word in content)


@lru_cache(maxsize=65536)
def _exact_value(question: _Question, one: Sentence) -> str:
    if question.kind == "label":
        return _label_value(one.text)
    if question.kind == "when":
        return _times(question, one.text)
    return _rest(question, one)


def _label_value(text: str) -> str:
    r"""`\boxed{n}` from "Label: n"; several different labels stay together in one box."""
    labels = dict.fromkeys(label.rstrip(" .;,") for label in _LABEL.findall(text))
    return f"\\boxed{{{', '.join(labels)}}}" if any(labels) else ""


def _times(question: _Question, text: str) -> str:
    """The times of the most telling kind that the question does not itself contain; several are all given."""
    found = [one for one in time_expressions(text) if not set(one.text.lower().split()) <= question.words]
    for kind in TIME_KINDS:
        texts = dict.fromkeys(one.text for one in found if one.kind == kind)
        if texts:
            return ", ".join(texts)
    return ""


def _rest(question: _Question, one: Sentence) -> str:
    """What follows the words shared with the question, up to the end; else what stands before them."""
    missing, after = set(question.content), 0
    while missing and after < len(one.words):
        missing.discard(one.words[after])
        after += 1
    before = next(place for place, word in enumerate(one.words) if word in question.content_set)
    key = _LEADING_KEY.match(one.text)
    start = 1 if key is not None and before > 0 else 0
    return _trimmed(one, after, len(one.words), question.words) or _trimmed(one, start, before, question.words)


def _trimmed(one: Sentence, start: int, end: int, known: frozenset[str]) -> str:
    """The characters of words `[start, end)` without function words and known words at either end."""
    dull = FUNCTION_WORDS | known
    while start < end and one.words[start] in dull:
        start += 1
    while end > start and one.words[end - 1] in dull:
        end -= 1
    return one.text[one.spans[start][0] : one.spans[end - 1][1]] if start < end else ""


def _best_answer(question: _Question, evidence: Sequence[_Evidence]) -> str:
    """A span of the sentence that shares the question's rarest words, with half of its names near."""
    sharing = [one for one in evidence if not question.content_set.isdisjoint(one.sentence.word_set)]
    frequency = Counter(word for one in sharing for word in question.content_set & one.sentence.word_set)
    weight = {word: math.log(1 + len(evidence) / count) for word, count in frequency.items()}

    def overlap(one: _Evidence) -> float:
        # Rounded so that equal sets of words tie whatever the order of summation.
        return round(sum(weight[word] for word in question.content_set & one.sentence.word_set), 9)

    for one in sorted(sharing, key=overlap, reverse=True):
        if 2 * len(question.names & sentence(one.item).word_set) < len(question.names):
            continue
        value = _span(question, one)
        if value:
            return value
    return ""


def _span(question: _Question, one: _Evidence) -> str:
    text = one.sentence.text
    if question.kind == "label":
        return _label_value(text)
    if question.kind == "when":
        found = _times(question, text) or _times(question, one.item)
        if found:
            return found
    if question.kind == "number":
        numbers = [match for match in _NUMBER.findall(text) if match not in question.words]
        if numbers:
            return ", ".join(dict.fromkeys(numbers))
    return _trimmed(one.sentence, 0, len(one.sentence.words), question.words)
