"""A book read part by part over some days, then summarised: what BookSum, InfBench-Sum and SQuALITY have in common."""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from memalpha_jax.episodes.chunkers import Unit, sentence_chunker
from memalpha_jax.episodes.episode import Episode, Question, validate
from memalpha_jax.episodes.source import BuildOptions, KeywordExtractor
from memalpha_jax.episodes.wrapping import READING, Wrapper

CHUNK_TOKENS = 2048
MAX_KEYWORDS = 20
WHOLE_TEXT = "Summarise what happens in the part of the book that I read from {first} to {last}."

_BLANK_LINES = re.compile(r"\n{3,}")


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question, with `{first}` and `{last}` where the days of reading go, and the summary that answers it."""

    question: str
    summary: str


def reading_episode(
    name: str,
    source: str,
    text: str,
    asked: Sequence[Asked],
    options: BuildOptions,
    metadata: Mapping[str, Any] | None = None,
    max_chunks: int = 0,
) -> Episode | None:
    """An episode of the sentences of `text` in chunks of at most `options.chunk_tokens`, dated one to three days apart.

    The gold of a question is at most `MAX_KEYWORDS` keywords of its summary that the question does not name, and its
    evidence every chunk. `metadata["long_answers"]` maps every question to its summary. None where no question has
    a keyword, and where there would be more than `max_chunks` chunks (0: no limit). The days depend on
    `options.seed` and `name` alone.
    """
    text = _BLANK_LINES.sub("\n\n", "\n".join(line.strip() for line in text.split("\n")))
    wrapper = Wrapper(READING, options.count_tokens)
    chunks = sentence_chunker(options.chunk_tokens or CHUNK_TOKENS, wrapper.count_tokens)([Unit(text)])
    if not chunks or 0 < max_chunks < len(chunks):
        return None
    rng = np.random.default_rng([options.seed, zlib.crc32(name.encode("utf-8", "surrogatepass"))])
    wrapped = wrapper.wrap([chunk.text for chunk in chunks], rng)
    everywhere = tuple(range(len(wrapped)))
    questions, summaries = [], {}
    for one in asked:
        gold = _keywords(one, text, options.extract_keywords)
        if gold:
            # Not str.format: a question from a file may hold braces.
            question = one.question.replace("{first}", str(wrapped[0].date)).replace("{last}", str(wrapped[-1].date))
            questions.append(Question(question, gold, "summary", everywhere))
            summaries[question] = one.summary
    if not questions:
        return None
    about = {**(metadata or {}), "long_answers": summaries}
    return validate(Episode(name, source, tuple(part.text for part in wrapped), tuple(questions), about))


def _keywords(asked: Asked, text: str, extract_keywords: KeywordExtractor) -> tuple[str, ...]:
    question = asked.question.lower()
    found = extract_keywords(asked.summary, text, 2 * MAX_KEYWORDS)
    return tuple(word for word in found if word.lower() not in question)[:MAX_KEYWORDS]
