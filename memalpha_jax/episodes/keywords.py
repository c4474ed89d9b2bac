"""Keywords of a summary without a language model: the words that a summary uses far more than its text does."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from memalpha_jax.rewards.text import FUNCTION_WORDS

MIN_LETTERS = 4  # of a keyword that is no name: shorter ones are found inside other words
MAX_NAME_WORDS = 3

# Words that say little about any one story, and words with which people talk about stories.
_DULL_WORDS = """
    able again ago all almost already also always another any anyone anything around away back became become becomes
    began begin beginning begins being best better both came come comes coming different each either else end ending
    ends enough even eventually ever every everyone everything fact few finally first found gave get gets getting give
    given gives goes going gone good got great hence her here hers herself himself how however itself just keep kept
    know known knows last later least less let like little long longer made make makes making many maybe might more
    most much must myself near need needs never new next none nothing now number often once one only other others
    ourselves own part perhaps place put quite rather really said same say saying says second seem seemed seems several
    shall show shows since some someone something sometimes soon still such take taken takes taking tell tells
    themselves thing things though three through throughout thus time times together told took toward towards two under
    until upon use used uses using usually very want wanted wants way well went while whole whose without would yet
    yourself yourselves
    dr jr miss mr mrs ms sir sr st
    author book chapter chapters character characters narrator passage plot reader readers scene setting stories story
    summary
"""
_DULL = FUNCTION_WORDS | frozenset(_DULL_WORDS.split())

_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_POSSESSIVE = re.compile(r"['’]s$|['’]$")


def extract_keywords(summary: str, text: str, limit: int) -> tuple[str, ...]:
    """At most `limit` names and content words of `summary` that occur in `text` as well, the most telling first.

    A candidate is a run of up to three capitalised words that nobody writes small, or a single word of four letters and
    more that is neither a function word nor one that fits any story. Candidates are ranked by the log-likelihood ratio
    G² of their frequency in the summary against that in the text (Dunning 1993, "Accurate methods for the statistics
    of surprise and coincidence"; as a measure of keywords Rayson and Garside 2000, "Comparing corpora using frequency
    profiling"): with counts a in the summary and b in the text, expected a' and b' if both used it alike,

        G² = 2 (a ln(a / a') + b ln(b / b')),    a' = A (a + b) / (A + B),    b' = B (a + b) / (A + B)

    for A and B words in all. Words that the summary uses less than the text are left out. A candidate inside a better
    one, or around it, is left out too, and so is another form of it ("ships" beside "ship"). The result depends on
    the arguments alone; it is empty where nothing of the summary occurs in the text. No keyword holds a comma or a
    semicolon.
    """
    told, read = _words(summary), _read(text)
    small = _small(told) + read.small
    candidates = Counter(_candidates(told, small))
    scored = []
    for place, (candidate, times) in enumerate(candidates.items()):
        lowered = candidate.lower()
        seen = read.stream.count(f" {lowered} ") if " " in lowered else read.counts[lowered]
        if seen and times * read.words > seen * len(told):
            scored.append((-_log_likelihood(times, seen, len(told), read.words), place, candidate))
    return tuple(_distinct((candidate for _, _, candidate in sorted(scored)), limit))


@dataclasses.dataclass(frozen=True)
class _Read:
    """What is needed of a text: its number of words, its words in small letters as counts and in order (a space before
    and after each), and the counts of words that are written small.
    """

    words: int
    counts: Counter[str]
    stream: str
    small: Counter[str]


@functools.lru_cache(maxsize=2)  # several summaries of one text follow each other
def _read(text: str) -> _Read:
    words = _words(text)
    lowered = [word.lower() for word, _ in words]
    return _Read(len(words), Counter(lowered), f" {' '.join(lowered)} ", _small(words))


def _small(words: Sequence[tuple[str, bool]]) -> Counter[str]:
    return Counter(word for word, _ in words if word[:1].islower())


def _words(text: str) -> list[tuple[str, bool]]:
    """The words of a text without possessive endings, each with whether only a space parts it from the one before."""
    words = []
    end = -1
    for match in _WORD.finditer(text):
        # Nothing else joins the words of a name: a keyword is looked for as it stands.
        words.append((_POSSESSIVE.sub("", match.group()), text[end : match.start()] == " "))
        end = match.end()
    return [(word, joined) for word, joined in words if word]


def _candidates(words: Sequence[tuple[str, bool]], small: Counter[str]) -> Iterator[str]:
    name: list[str] = []
    for word, joined in (*words, ("", False)):
        capitalised = word[:1].isupper() and not small[word.lower()] and word.lower() not in FUNCTION_WORDS
        if name and not (capitalised and joined and len(name) < MAX_NAME_WORDS):
            if len(name) > 1 or (len(name[0]) > 1 and name[0].lower() not in _DULL):
                yield " ".join(name)
            name = []
        if capitalised:
            name.append(word)
        elif len(word) >= MIN_LETTERS and word.lower() not in _DULL:
            yield word.lower()


def _log_likelihood(told: int, seen: int, all_told: int, all_seen: int) -> float:
    share = (told + seen) / (all_told + all_seen)
    return 2 * (told * math.log(told / (all_told * share)) + seen * math.log(seen / (all_seen * share)))


def _distinct(ranked: Iterator[str], limit: int) -> Iterator[str]:
    kept: list[str] = []
    for candidate in ranked:
        if len(kept) >= limit:
            return
        lowered = candidate.lower()
        if not any(_overlap(lowered, other) for other in kept):
            kept.append(lowered)
            yield candidate


def _overlap(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    return f" {short} " in f" {long} " or long.startswith(short)
