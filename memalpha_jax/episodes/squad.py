"""SQuAD in its official JSON layout (v1.1 or v2.0) as episodes: shuffled contexts, packed into chunks."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence

import numpy as np

from memalpha_jax.episodes.chunkers import CountTokens, chunk_text, pack
from memalpha_jax.episodes.episode import Episode, Question, validate
from memalpha_jax.episodes.official import field, read_json
from memalpha_jax.errors import UserError

MIN_CHUNK_TOKENS = 100


@dataclasses.dataclass(frozen=True)
class _Paragraph:
    text: str
    questions: tuple[tuple[str, str], ...]  # (question, first gold answer)
    pieces: int = 1  # parts it was split into


@dataclasses.dataclass(frozen=True)
class _Piece:
    """A part of a paragraph that fits a chunk: the whole of it, unless it is too long."""

    text: str
    paragraph: int


def load_squad(
    path: str | os.PathLike[str],
    *,
    chunk_tokens: int,
    chunks_per_episode: int,
    count_tokens: CountTokens,
    seed: int,
    min_questions: int = 1,
) -> list[Episode]:
    """Episodes of at most `chunks_per_episode` chunks of whole paragraphs, one per line.

    Each chunk is packed to a length drawn uniformly from 100 to `chunk_tokens`; a paragraph over
    `chunk_tokens` is split by sentences. Contexts that occur twice are read once. A question goes with the
    paragraph it was asked about and takes its first gold answer. A paragraph that would be cut by the end of
    an episode moves to the next one; episodes with fewer than `min_questions` are left out. `UserError` names
    the file and the field that is not as expected.
    """
    rng = np.random.default_rng(seed)
    paragraphs = _unique_contexts(_read(path))
    paragraphs = [paragraphs[i] for i in rng.permutation(len(paragraphs))]
    pieces: list[_Piece] = []
    for i, paragraph in enumerate(paragraphs):
        texts = chunk_text(paragraph.text, chunk_tokens, count_tokens)
        paragraphs[i] = dataclasses.replace(paragraph, pieces=len(texts))
        pieces += [_Piece(text, i) for text in texts]
    episodes = []
    for chunks in _pack_episodes(pieces, chunk_tokens, chunks_per_episode, count_tokens, rng):
        episode = _episode(chunks, paragraphs, f"squad-{seed}-{chunks[0][0].paragraph}")
        if len(episode.questions) >= max(1, min_questions):
            episodes.append(validate(episode))
    if not episodes:
        raise UserError(f"{path} gives no episode with at least {max(1, min_questions)} questions")
    return episodes


def _read(path: str | os.PathLike[str]) -> list[_Paragraph]:
    paragraphs = []
    for a, article in enumerate(field(read_json(path), "data", list, str(path))):
        where = f"{path}, data[{a}]"
        for p, paragraph in enumerate(field(article, "paragraphs", list, where)):
            paragraphs.append(_read_paragraph(paragraph, f"{where}.paragraphs[{p}]"))
    return paragraphs


def _read_paragraph(paragraph: dict, where: str) -> _Paragraph:
    # One paragraph, one line: a line break inside would read as the start of the next paragraph.
    text = " ".join(field(paragraph, "context", str, where).split())
    questions = []
    for q, record in enumerate(field(paragraph, "qas", list, where)):
        at = f"{where}.qas[{q}]"
        asked, answers = field(record, "question", str, at).strip(), field(record, "answers", list, at)
        if answers and asked:  # v2.0 has questions without an answer
            gold = " ".join(field(answers[0], "text", str, f"{at}.answers[0]").split())
            questions += [(asked, gold)] if gold else []
    return _Paragraph(text, tuple(questions))


def _unique_contexts(paragraphs: Sequence[_Paragraph]) -> list[_Paragraph]:
    merged: dict[str, dict[tuple[str, str], None]] = {}
    for paragraph in paragraphs:
        merged.setdefault(paragraph.text, {}).update(dict.fromkeys(paragraph.questions))
    return [_Paragraph(text, tuple(questions)) for text, questions in merged.items() if text]


def _pack_episodes(
    pieces: Sequence[_Piece],
    chunk_tokens: int,
    chunks_per_episode: int,
    count_tokens: CountTokens,
    rng: np.random.Generator,
) -> Iterator[list[Sequence[_Piece]]]:
    """Episodes as lists of chunks. A paragraph that would go on in the next episode is moved there."""
    start = 0
    while start < len(pieces):
        targets: dict[int, int] = {}  # by the first piece of the chunk

        def fits(i: int, j: int, targets: dict[int, int] = targets) -> bool:
            if i not in targets:
                targets[i] = int(rng.integers(min(MIN_CHUNK_TOKENS, chunk_tokens), chunk_tokens + 1))
            return count_tokens(_text(pieces[i:j])) <= targets[i]

        ranges = list(itertools.islice(pack(len(pieces), fits, start), chunks_per_episode))
        end = _last_whole_paragraph(pieces, start, ranges[-1][1])
        yield [pieces[i : min(j, end)] for i, j in ranges if i < end]
        start = end


def _last_whole_paragraph(pieces: Sequence[_Piece], start: int, end: int) -> int:
    """The last end, not over `end`, that cuts no paragraph; `end` itself if one paragraph fills the
    episode.
    """
    whole = end
    while start < whole < len(pieces) and pieces[whole - 1].paragraph == pieces[whole].paragraph:
        whole -= 1
    return whole if whole > start else end


def _text(pieces: Sequence[_Piece]) -> str:
    return "\n".join(piece.text for piece in pieces)


def _episode(chunks: Sequence[Sequence[_Piece]], paragraphs: Sequence[_Paragraph], name: str) -> Episode:
    texts = tuple(_text(chunk) for chunk in chunks)
    places: dict[int, list[int]] = {}  # paragraph -> the chunk of each of its pieces
    for t, chunk in enumerate(chunks):
        for piece in chunk:
            places.setdefault(piece.paragraph, []).append(t)
    questions = []
    for i, where in places.items():
        if len(where) < paragraphs[i].pieces:
            continue  # the rest of it lies in the next episode, perhaps with the answer
        for asked, gold in paragraphs[i].questions:
            holding = [t for t in where if gold in texts[t]] or where
            questions.append(Question(asked, gold, "qa", tuple(dict.fromkeys(holding))))
    return Episode(name, "squad", texts, tuple(questions))
