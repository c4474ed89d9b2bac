"""Cutting text at the ends of its blocks, sentences, lines and words, and longest runs of such parts under a limit.

Sentences are those of `sentencex` (rules for abbreviations, initials, numbers and quotation marks; stops of many
scripts). A text is cut at the ends it finds, so whatever it does, the parts join to the text.
"""

from __future__ import annotations

import bisect
import itertools
import re
import sys
from collections.abc import Callable, Iterator, Sequence

import sentencex

from memalpha_jax.errors import UserError

WINDOW = 16_384
"""Characters looked at at once: sentencex takes quadratic time on quotation marks that never close."""

# Possessive quantifiers keep the search linear on runs of any length.
_BLOCK_END = re.compile(r"\n[^\S\n]*+\n\s*+")
_LINE_END = re.compile(r"\n\s*+")
_WORD_END = re.compile(r"\s++")

# sentencex panics at white space of several bytes before a full stop, drops some empty lines, and cannot take half a
# surrogate pair. One character for one keeps the positions.
_PLAIN = dict.fromkeys((c for c in range(sys.maxunicode + 1) if chr(c).isspace()), " ")
_PLAIN |= dict.fromkeys(range(0xD800, 0xE000), "?")

CHARACTERS_PER_TOKEN = 4
"""First guess at how long a part of so many tokens is."""


def split_sentences(text: str) -> list[str]:
    """Sentences with the white space that follows each: `"".join(split_sentences(text)) == text`.

    A blank line ends a sentence; a line end alone does not, since texts are wrapped at any width.
    """
    return [sentence for block in split_blocks(text) for sentence in _sentences_of_block(block)]


def _sentences_of_block(block: str) -> list[str]:
    plain = block.translate(_PLAIN)
    ends, start = [], 0
    while start < len(plain):
        stop = _end_of_window(plain, start)
        found = list(itertools.accumulate(map(len, sentencex.segment("en", plain[start:stop])), initial=start))[1:]
        # The last sentence of a window may go on after it, so the next window starts with it.
        inner = found[:-1] if stop < len(plain) and len(found) > 1 else [*found[:-1], stop]
        ends += inner
        start = inner[-1]
    # White space before the first sentence belongs to it.
    ends = [end for end, begin in zip(ends, [0, *ends], strict=False) if not plain[begin:end].isspace()]
    return _cut(block, ends)


def _end_of_window(text: str, start: int) -> int:
    stop = start + WINDOW
    if stop >= len(text):
        return len(text)
    space = text.rfind(" ", start, stop)
    return space + 1 if space > start else stop


def _cut(text: str, ends: Sequence[int]) -> list[str]:
    """Parts of `text` up to each of `ends`; what follows the last end belongs to the last part."""
    ends = [*ends[:-1], len(text)]
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False) if start < end]


def _cut_after(pattern: re.Pattern[str], text: str) -> list[str]:
    return _cut(text, [m.end() for m in pattern.finditer(text) if m.end() < len(text)] + [len(text)])


def split_blocks(text: str) -> list[str]:
    """What lies between blank lines, with the blank lines that follow each: joined, they are `text`."""
    return _cut_after(_BLOCK_END, text)


def _split_characters(word: str) -> list[str]:
    """White space after a word stays with its last character, for it would be a part without text."""
    kept = len(word.rstrip())
    return [*word[: kept - 1], word[kept - 1 :]] if kept else [word]


FINER: tuple[Callable[[str], list[str]], ...] = (
    split_blocks,
    split_sentences,
    lambda text: _cut_after(_LINE_END, text),
    lambda text: _cut_after(_WORD_END, text),
    _split_characters,
)
SENTENCES = 1
"""Index in `FINER` of the cuts into sentences; after it come those for a sentence that is too long."""


def split_text(text: str, limit: int, count: Callable[[str], int], level: int = 0) -> list[str]:
    """As few parts of at most `limit` as a greedy packing gives, cut where `FINER[level:]` says: at the first level
    that suffices. Joined, they are `text`. `UserError` if one character alone is too long.
    """
    if level == len(FINER):
        raise UserError(f"the character {text.strip()!r} alone takes {count(text)} tokens, over the limit of {limit}")
    parts, out = FINER[level](text), []
    measure = lambda i, j: count("".join(parts[i:j]))
    for start, end, tokens in pack(list(map(len, parts)), measure, itertools.repeat(limit)):
        piece = "".join(parts[start:end])
        out += [piece] if tokens <= limit else split_text(piece, limit, count, level + 1)
    return out


def pack(
    lengths: Sequence[int], measure: Callable[[int, int], int], limits: Iterator[int], reach: int = 0
) -> Iterator[tuple[int, int, int]]:
    """Greedy half-open ranges over parts, `(start, end, tokens)`, the longest under the next of `limits` each.

    A range of one part may be longer than its limit. With `reach`, a range within its limit takes one part more if it
    then has at most so many tokens. The end is guessed from the tokens per character met so far, so a range takes a few
    calls of `measure`, however many parts it has.

    Args:
      lengths: characters of each part. measure: tokens of parts i..j-1 together; more parts, more tokens.
      limits: as many numbers as there are ranges are taken from it.
    """
    ends = list(itertools.accumulate(lengths, initial=0))
    start, rate = 0, 1 / CHARACTERS_PER_TOKEN
    while start < len(lengths):
        limit = next(limits)
        end, tokens, rate = _longest(ends, start, measure, limit, rate)
        if tokens <= limit and reach and end < len(lengths) and (longer := measure(start, end + 1)) <= reach:
            end, tokens = end + 1, longer
        yield start, end, tokens
        start = end


def _longest(
    ends: Sequence[int], start: int, measure: Callable[[int, int], int], limit: int, rate: float
) -> tuple[int, int, float]:
    """End and tokens of the longest range from `start` within `limit`, or of one part; and the last rate met."""
    good, good_tokens, bad, bad_tokens = start, 0, len(ends), 0
    for tries in itertools.count():
        if bad - good <= 1:
            break
        # A guess is at most twice what is known to fit (or 4 times the first guess): no call takes a text far too long.
        known = max(ends[good] - ends[start], 2 * CHARACTERS_PER_TOKEN * limit)
        wanted = min(ends[good] + (limit - good_tokens) / rate, ends[start] + 2 * known)
        guess = bisect.bisect_right(ends, wanted) - 1
        if tries > 3 and bad < len(ends):  # the rate is not the same everywhere
            guess = (good + bad) // 2
        guess = min(max(guess, good + 1), bad - 1)
        tokens = measure(start, guess)
        if tokens <= limit:
            good, good_tokens = guess, tokens
        else:
            bad, bad_tokens = guess, tokens
        rate = max(tokens, 1) / max(ends[guess] - ends[start], 1)
    return (good, good_tokens, rate) if good > start else (start + 1, bad_tokens, rate)
