"""The dialogue that chunks arrive in: dated, opened by a user, answered by an assistant.

A wrapper is longer than nothing, so a chunker gets `Wrapper.count_tokens` for its own and then its limit holds for
the wrapped text:

    wrapper = Wrapper(DOCUMENTS, count_tokens)
    chunks = sentence_chunker(2048, wrapper.count_tokens)(units)
    wrapped = wrapper.wrap([chunk.text for chunk in chunks], rng)
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
from collections.abc import Sequence

import numpy as np

from memalpha_jax.episodes.chunkers import CountTokens

FIRST_DAY = datetime.date(2024, 1, 1)


@dataclasses.dataclass(frozen=True)
class Style:
    """What is said around a chunk.

    Attributes:
      openers, replies: of the user and the assistant; one of each is drawn for every chunk. All openers end alike, and
        so do all beginnings of replies, so that a tokenizer sees the same seams whichever is drawn.
      step_days: least and most days between one chunk and the next.
    """

    openers: tuple[str, ...]
    replies: tuple[str, ...]
    step_days: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        assert all(opener.endswith(":") for opener in self.openers)


DOCUMENTS = Style(
    openers=(
        "Please read this and keep what it says:",
        "Here is something I came across today; remember the facts in it:",
        "I have some reading for you. Take in the following text:",
        "I may ask you about this passage later, so learn it well:",
        "Today's material is below. Note whatever could matter:",
        "Could you go through these paragraphs and remember them:",
    ),
    replies=(
        "I have read it and will remember what it says.",
        "Thank you, I have taken in the facts.",
        "Done. You can ask me about it whenever you like.",
        "I have been through all of it and kept the details.",
        "Noted; I will have it at hand when you need it.",
    ),
)
SAMPLES = Style(
    openers=(
        "Here are labelled examples; learn which label goes with which kind of sample:",
        "I will show you samples with their labels, so that you can label others later:",
        "Study how these samples are labelled:",
        "Please learn this labelling scheme from the examples below:",
        "These examples are classified already; find out by what rule:",
    ),
    replies=(
        "I have learnt how these samples are labelled.",
        "Thank you, I will label others the same way.",
        "I have studied the examples and their labels.",
        "Understood; I will use these labels from now on.",
    ),
)
READING = Style(
    openers=(
        "I went on with my book today. This is the part I read:",
        "Another evening with the book; here is how it continued:",
        "I read some more of the story. It goes on like this:",
        "Here is today's part of the book that I am reading:",
        "I got a bit further in the book, with the following part:",
    ),
    replies=(
        "Thank you for sharing it; I will remember what happened in this part.",
        "I have followed the story up to here.",
        "Noted, with the day on which you read it.",
        "I will keep in mind what this part tells.",
    ),
    step_days=(1, 3),
)


@dataclasses.dataclass(frozen=True)
class Wrapped:
    """A wrapped chunk and its day."""

    text: str
    date: datetime.date


@dataclasses.dataclass(frozen=True)
class Wrapper:
    """Wraps the chunks of one episode after another in a style; `count_plain` counts tokens of bare text."""

    style: Style
    count_plain: CountTokens

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` in the longest wrapping it can get."""
        opener, reply, day = self._longest
        return self.count_plain(_dialogue(day, opener, text, reply))

    def wrap(self, texts: Sequence[str], rng: np.random.Generator) -> list[Wrapped]:
        """The chunks of one episode, the first on 2024-01-01."""
        low, high = self.style.step_days
        steps = rng.integers(low, high + 1, size=max(len(texts) - 1, 0)).tolist()
        days = np.cumsum([0, *steps]).tolist()
        return [
            self._wrap(text, FIRST_DAY + datetime.timedelta(day), rng) for text, day in zip(texts, days, strict=True)
        ]

    def _wrap(self, text: str, date: datetime.date, rng: np.random.Generator) -> Wrapped:
        opener = self.style.openers[rng.integers(len(self.style.openers))]
        reply = self.style.replies[rng.integers(len(self.style.replies))]
        return Wrapped(_dialogue(date.isoformat(), opener, text, reply), date)

    @functools.cached_property
    def _longest(self) -> tuple[str, str, str]:
        longest = functools.partial(max, key=self.count_plain)
        # Two years of days show every day and month; a tokenizer may spell dates in a varying number of tokens.
        days = [(FIRST_DAY + datetime.timedelta(day)).isoformat() for day in range(731)]
        return longest(self.style.openers), longest(self.style.replies), longest(days)


def _dialogue(day: str, opener: str, text: str, reply: str) -> str:
    return f"[Dialogue at timestamp {day}]\n<User>{opener}\n{text}\n<Assistant>{reply}"


def labelled_sample(text: str, label: str) -> str:
    """A sample and its label on a line each, whatever line breaks the text has."""
    return f"Sample: {' '.join(text.split())}\nLabel: {label}"
