"""Cutting a stream of units into chunks that never exceed a number of tokens and lose nothing but white space.

All chunkers work alike: units become pieces that fit into a chunk alone, and runs of pieces are packed greedily.
Tokens are counted of the finished chunk, never added up from parts, because a tokenizer may join or part tokens at a
seam.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np

from memalpha_jax.episodes.sentences import SENTENCES, pack, split_sentences, split_text
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
the titles, time lines and roles that belong to the units. Units without text are left out. `UserError` where the
limit has no room for a title, a role or a single character.
"""


@dataclasses.dataclass(frozen=True)
class _Piece:
    """A part of unit number `unit` that fits into a chunk: the whole of it, unless it is too long."""

    unit: int
    text: str


def sentence_chunker(max_tokens: int, count_tokens: CountTokens) -> Chunker:
    """Packs sentences greedily up to `max_tokens`; a sentence alone too long is cut at lines, words, characters."""

    def chunk(units: Sequence[Unit]) -> list[Chunk]:
        stream = _Stream(units, count_tokens)
        sentences = [_Piece(i, text) for i, unit in stream.with_text() for text in split_sentences(unit.text.lstrip())]
        ranges = list(stream.ranges(sentences, itertools.repeat(max_tokens)))
        if any(tokens > max_tokens for _, _, tokens in ranges):
            sentences = stream.split_long(sentences, ranges, max_tokens, SENTENCES + 1)
            ranges = list(stream.ranges(sentences, itertools.repeat(max_tokens)))
        return stream.chunks(sentences, ranges)

    return chunk


def unit_chunker(max_tokens: int, count_tokens: CountTokens) -> Chunker:
    """Packs whole units greedily up to `max_tokens`; a unit alone too long is split at blank lines, then sentences."""
    return _whole_unit_chunker(max_tokens, count_tokens, itertools.repeat(max_tokens))


def variable_chunker(min_tokens: int, max_tokens: int, count_tokens: CountTokens, rng: np.random.Generator) -> Chunker:
    """Packs whole units to a target drawn uniformly from min_tokens..max_tokens for each chunk.

    A unit that alone is longer than its target is a chunk by itself; one longer than `max_tokens` is split at blank
    lines, then sentences.
    """
    low = min(min_tokens, max_tokens)
    targets = (int(rng.integers(low, max_tokens + 1)) for _ in itertools.count())
    return _whole_unit_chunker(max_tokens, count_tokens, targets)


def _whole_unit_chunker(max_tokens: int, count_tokens: CountTokens, targets: Iterator[int]) -> Chunker:
    def chunk(units: Sequence[Unit]) -> list[Chunk]:
        stream = _Stream(units, count_tokens)
        pieces = [_Piece(i, unit.text.lstrip()) for i, unit in stream.with_text()]
        pieces = stream.split_long(pieces, stream.each_alone(pieces), max_tokens)
        return stream.chunks(pieces, list(stream.ranges(pieces, targets)))

    return chunk


def session_chunker(max_tokens: int, count_tokens: CountTokens, min_tokens: int) -> Chunker:
    """Packs dialogue turns, one line each: `<role>text` under `[Dialogue at timestamp when]`.

    The time line is repeated where a chunk starts or a new session begins. A chunk closes with the turn that brings it
    to `min_tokens`, or before one that does not fit any more. A turn is split only if it is longer than a chunk.
    """

    def chunk(units: Sequence[Unit]) -> list[Chunk]:
        stream = _Stream(units, count_tokens)
        # One turn, one line: a line break inside could read as the start of another turn.
        turns = [_Piece(i, " ".join(unit.text.split())) for i, unit in stream.with_text()]
        turns = stream.split_long(turns, stream.each_alone(turns), max_tokens)
        return stream.chunks(turns, list(stream.ranges(turns, itertools.repeat(min_tokens - 1), reach=max_tokens)))

    return chunk


def sample_chunker(max_tokens: int, count_tokens: CountTokens) -> Chunker:
    """Packs whole labelled samples greedily; `UserError` for one that alone is longer than `max_tokens`."""

    def chunk(units: Sequence[Unit]) -> list[Chunk]:
        stream = _Stream(units, count_tokens)
        samples = [_Piece(i, unit.text.lstrip()) for i, unit in stream.with_text()]
        ranges = list(stream.ranges(samples, itertools.repeat(max_tokens)))
        for start, _, tokens in ranges:
            if tokens > max_tokens:
                raise UserError(
                    f"the labelled sample {samples[start].text!r:.60} takes {tokens} tokens, over the chunk limit of "
                    f"{max_tokens}, and samples are never cut; raise the limit or leave the sample out"
                )
        return stream.chunks(samples, ranges)

    return chunk


@dataclasses.dataclass(frozen=True)
class _Stream:
    """The units that are being cut and how their tokens are counted."""

    units: Sequence[Unit]
    count_tokens: CountTokens

    def with_text(self) -> list[tuple[int, Unit]]:
        return [(i, unit) for i, unit in enumerate(self.units) if unit.text.strip()]

    def measure(self, pieces: Sequence[_Piece]) -> int:
        return self.count_tokens(self.text(pieces))

    def each_alone(self, pieces: Sequence[_Piece]) -> list[tuple[int, int, int]]:
        return [(i, i + 1, self.measure((piece,))) for i, piece in enumerate(pieces)]

    def ranges(
        self, pieces: Sequence[_Piece], targets: Iterator[int], reach: int = 0
    ) -> Iterator[tuple[int, int, int]]:
        lengths = [len(piece.text) for piece in pieces]
        return pack(lengths, lambda i, j: self.measure(pieces[i:j]), targets, reach)

    def split_long(
        self, pieces: Sequence[_Piece], ranges: Sequence[tuple[int, int, int]], limit: int, level: int = 0
    ) -> list[_Piece]:
        """The pieces, those whose range is over the limit (they are alone in it) in parts that are not."""
        out: list[_Piece] = []
        for start, end, tokens in ranges:
            out += pieces[start:end] if tokens <= limit else self._split(pieces[start], limit, level)
        return out

    def _split(self, piece: _Piece, limit: int, level: int) -> list[_Piece]:
        def count(text: str) -> int:
            return self.measure((_Piece(piece.unit, text),))

        try:
            return [_Piece(piece.unit, text) for text in split_text(piece.text, limit, count, level)]
        except UserError as error:
            head = _head(self.units[piece.unit], None)
            shown = f" below its head {head!r:.60}" if head else ""
            raise UserError(f"{error}{shown}; raise chunk_tokens") from None

    def chunks(self, pieces: Sequence[_Piece], ranges: Sequence[tuple[int, int, int]]) -> list[Chunk]:
        return [
            Chunk(self.text(pieces[i:j]), tuple(dict.fromkeys(self.units[p.unit].key for p in pieces[i:j])))
            for i, j, _ in ranges
        ]

    def text(self, pieces: Sequence[_Piece]) -> str:
        """The chunk of consecutive pieces: each unit starts a line below its head; its parts join as they were."""
        shown: list[str] = []
        previous = None
        for number, parts in itertools.groupby(pieces, key=lambda piece: piece.unit):
            unit = self.units[number]
            if shown and not shown[-1].endswith("\n"):
                shown.append("\n")
            shown.append(_head(unit, previous) + "".join(part.text for part in parts))
            previous = unit
        return "".join(shown).strip()


def _head(unit: Unit, previous: Unit | None) -> str:
    """What stands before the text of a unit; `previous` is the unit before it in the chunk."""
    new_session = unit.when and (previous is None or unit.when != previous.when)
    when = f"[Dialogue at timestamp {unit.when}]\n" if new_session else ""
    title = f"Title: {unit.title}\n" if unit.title else ""
    role = f"<{unit.role}>" if unit.role else ""
    return when + title + role
