"""Cutting text into chunks that never exceed a number of tokens and lose nothing but white space at the cuts.

Units are packed greedily: paragraphs (lines) while they fit, and where one alone does not fit its sentences,
then its words, then its characters. Token counts are taken of the finished chunk, never added up from parts,
because a tokenizer may join or part tokens at a seam.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Hashable, Iterator, Sequence

from memalpha_jax.errors import UserError

CountTokens = Callable[[str], int]


@dataclasses.dataclass(frozen=True)
class Unit:
    """A piece of a stream that a chunker keeps whole where it fits into a chunk.

    Attributes:
      text: of a paragraph, an article, a labelled sample, a turn of a dialogue. key: the caller's name for it.
      title: of an article, shown above each of its parts. when, role: of a turn.
    """

    text: str
    key: Hashable = None
    title: str = ""
    when: str = ""
    role: str = ""


@dataclasses.dataclass(frozen=True)
class Chunk:
    """A chunk and the keys of the units in it, in order; a unit that was split is in several."""

    text: str
    keys: tuple[Hashable, ...]


Chunker = Callable[[Sequence[Unit]], list[Chunk]]
"""Cuts a stream: no chunk is longer than the chunker's limit, and nothing is lost, added or moved but white space and
the titles, time lines and roles that belong to the units.
"""

# Possessive quantifiers and the look-behind keep the search linear on runs of punctuation of any length.
_SENTENCE_END = re.compile(
    r"""(?<![.!?…؟।])[.!?…؟।]++["')\]»”’]*+\s++   # Latin, Arabic, Devanagari: white space follows
      | (?<![。！？])[。！？]++[”’」』）]*+\s*+      # Chinese, Japanese: it need not
      | \n\s*+""",
    re.VERBOSE,
)
_ABBREVIATION = re.compile(
    r"\b(?:[A-Z]|(?:[A-Za-z]\.)+[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|Mt|No|vs|etc|cf|ca|approx|Inc|Ltd|Co|Gen|Rev)\.\s*$"
)
_LINE_END = re.compile(r"\n\s*+")
_WORD_END = re.compile(r"\s++")


def split_sentences(text: str) -> list[str]:
    """Sentences with the white space that follows each: `"".join(split_sentences(text)) == text`."""
    return _cut_after(_SENTENCE_END, text, keep_together=_ends_in_abbreviation)


def _ends_in_abbreviation(text: str, end: int) -> bool:
    return "\n" not in text[end - 1 : end] and bool(_ABBREVIATION.search(text[max(0, end - 24) : end]))


def _cut_after(
    pattern: re.Pattern[str], text: str, keep_together: Callable[[str, int], bool] = lambda text, end: False
) -> list[str]:
    ends = [m.end() for m in pattern.finditer(text) if not keep_together(text, m.end())]
    if not ends or ends[-1] != len(text):
        ends.append(len(text))
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False) if start < end]


def chunk_text(text: str, max_tokens: int, count_tokens: CountTokens) -> list[str]:
    """Chunks of at most `max_tokens`, in order, none blank, together the whole text but for white space
    between them.

    `UserError` if one character alone has more than `max_tokens` tokens.
    """
    chunks = (chunk.strip() for chunk in _join(_units(text, max_tokens, count_tokens), max_tokens, count_tokens))
    return [chunk for chunk in chunks if chunk]


def _join(units: Sequence[str], max_tokens: int, count_tokens: CountTokens) -> list[str]:
    ranges = pack(len(units), lambda i, j: count_tokens("".join(units[i:j]).strip()) <= max_tokens)
    return ["".join(units[i:j]) for i, j in ranges]


def _units(text: str, max_tokens: int, count_tokens: CountTokens, depth: int = 0) -> list[str]:
    """Parts of `text` that fit, in order, as large as its structure allows; their concatenation is `text`."""
    units: list[str] = []
    for part in _CUTS[depth](text):
        if count_tokens(part.strip()) <= max_tokens:
            units.append(part)
        elif depth + 1 < len(_CUTS):
            finer = _units(part, max_tokens, count_tokens, depth + 1)
            # Words and characters stay with their own sentence or word rather than fill up the chunk before.
            units += finer if depth == 0 else _join(finer, max_tokens, count_tokens)
        else:
            raise UserError(
                f"the character {part!r} alone takes {count_tokens(part)} tokens, over the chunk limit of "
                f"{max_tokens}; raise config.episodes.chunk_tokens"
            )
    return units


_CUTS: tuple[Callable[[str], list[str]], ...] = (
    lambda text: _cut_after(_LINE_END, text),
    split_sentences,
    lambda text: _cut_after(_WORD_END, text),
    list,
)


def pack(count: int, fits: Callable[[int, int], bool], start: int = 0) -> Iterator[tuple[int, int]]:
    """Greedy half-open ranges over units start..count-1; each has one unit or `fits(start, end)`.

    Takes about 2 log2(n) calls of `fits` for a range of n units, so that long texts stay affordable.
    """
    while start < count:
        good, step = start + 1, 1
        while good < count and fits(start, min(good + step, count)):
            good, step = min(good + step, count), step * 2
        while step > 1:
            step //= 2
            if good + step <= count and fits(start, good + step):
                good += step
        yield start, good
        start = good


@dataclasses.dataclass(frozen=True)
class Turn:
    """One utterance: `key` is the caller's name for it, `when` the time of its session as shown."""

    key: str
    when: str
    role: str
    text: str


@dataclasses.dataclass(frozen=True)
class TurnChunk:
    """A chunk of dialogue and the keys of the turns in it."""

    text: str
    keys: tuple[str, ...]


def chunk_turns(turns: Sequence[Turn], max_tokens: int, count_tokens: CountTokens) -> list[TurnChunk]:
    """Packs dialogue turns, one per line as `<Role>text` under `[Dialogue at timestamp ..]`.

    The time line is repeated where a chunk starts or a new session begins. A turn is split only if it is
    longer than a chunk; its parts keep its role and key. Blank turns are left out.
    """

    def too_long(turn: Turn) -> bool:
        return count_tokens(_render((turn,))) > max_tokens

    pieces: list[Turn] = []
    for turn in turns:
        turn = dataclasses.replace(turn, text=" ".join(turn.text.split()))
        if turn.text:
            pieces += _split_turn(turn, max_tokens, count_tokens) if too_long(turn) else [turn]
    ranges = pack(len(pieces), lambda i, j: count_tokens(_render(pieces[i:j])) <= max_tokens)
    return [TurnChunk(_render(pieces[i:j]), _distinct(p.key for p in pieces[i:j])) for i, j in ranges]


def _split_turn(turn: Turn, max_tokens: int, count_tokens: CountTokens) -> list[Turn]:
    def as_turn(text: str) -> Turn:
        return dataclasses.replace(turn, text=text)

    parts = chunk_text(turn.text, max_tokens, lambda text: count_tokens(_render((as_turn(text),))))
    return [as_turn(part) for part in parts]


def _render(turns: Sequence[Turn]) -> str:
    lines: list[str] = []
    previous = None
    for turn in turns:
        if turn.when != previous:
            lines.append(f"[Dialogue at timestamp {turn.when}]")
        lines.append(f"<{turn.role}>{turn.text}")
        previous = turn.when
    return "\n".join(lines)


def _distinct(keys: Iterator[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(keys))
