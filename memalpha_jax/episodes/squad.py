"""SQuAD in its official JSON layout (v1.1 or v2.0) as episodes: shuffled contexts, packed into chunks.

Official files: `train-v1.1.json`, `dev-v1.1.json` of https://rajpurkar.github.io/SQuAD-explorer/, CC BY-SA 4.0:
`{"data": [{"title", "paragraphs": [{"context", "qas": [{"question", "answers": [{"text", ..}], ..}]}]}]}`. The training
file has 442 articles with 18,896 paragraphs and 87,599 questions: by the shape of the dev file (36 episodes from 2,067
paragraphs), about 320 episodes of 10 chunks.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from memalpha_jax.episodes.chunkers import Chunk, CountTokens, Unit, variable_chunker
from memalpha_jax.episodes.episode import Episode, Question, validate
from memalpha_jax.episodes.official import field, read_json
from memalpha_jax.episodes.source import TRAINING, BuildOptions, Paths, Published, Source
from memalpha_jax.episodes.wrapping import DOCUMENTS, Wrapper
from memalpha_jax.errors import UserError

MIN_CHUNK_TOKENS = 100
CHUNK_TOKENS = 2048
CHUNKS = 10
MOST_CHUNKS = 20
MIN_QUESTIONS = 30


@dataclasses.dataclass(frozen=True)
class _Paragraph:
    text: str
    questions: tuple[tuple[str, str], ...]  # (question, first gold answer)


def load_squad(
    path: str | os.PathLike[str],
    *,
    chunk_tokens: int,
    chunks_per_episode: int,
    count_tokens: CountTokens,
    seed: int,
    min_questions: int = 1,
    wrapped: bool = False,
) -> list[Episode]:
    """Episodes of at most `chunks_per_episode` chunks of whole paragraphs, one per line.

    Each chunk is packed to a length drawn uniformly from 100 to `chunk_tokens`; a paragraph over `chunk_tokens` is
    split by sentences. Contexts that occur twice are read once. A question goes with the paragraph it was asked about
    and takes its first gold answer. An episode ends before a chunk that starts a paragraph it would cut; episodes with
    fewer than `min_questions` are left out. With `wrapped`, chunks are dated dialogues, and the limit is theirs.
    `UserError` names the file and the field that is not as expected.
    """
    rng = np.random.default_rng(seed)
    paragraphs = _unique_contexts([_read_paragraph(record, where) for record, where in read_paragraphs(path)])
    order = rng.permutation(len(paragraphs)).tolist()
    wrapper = Wrapper(DOCUMENTS, count_tokens)
    chunker = variable_chunker(MIN_CHUNK_TOKENS, chunk_tokens, wrapper.count_tokens if wrapped else count_tokens, rng)
    episodes = []
    for chunks, cut in _groups(chunker([Unit(paragraphs[i].text, key=i) for i in order]), chunks_per_episode):
        questions = _questions(chunks, paragraphs, cut)
        if len(questions) >= max(1, min_questions):
            texts = [chunk.text for chunk in chunks]
            shown = [w.text for w in wrapper.wrap(texts, rng)] if wrapped else texts
            episodes.append(validate(Episode(f"squad-{seed}-{chunks[0].keys[0]}", "squad", tuple(shown), questions)))
    if not episodes:
        raise UserError(f"{path} gives no episode with at least {max(1, min_questions)} questions")
    return episodes


def read_paragraphs(path: str | os.PathLike[str]) -> Iterator[tuple[Any, str]]:
    """The record of every paragraph, as it stands in the file, and its place."""
    for a, article in enumerate(field(read_json(path), "data", list, str(path))):
        where = f"{path}, data[{a}]"
        for p, paragraph in enumerate(field(article, "paragraphs", list, where)):
            yield paragraph, f"{where}.paragraphs[{p}]"


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


def _groups(chunks: Sequence[Chunk], most: int) -> Iterator[tuple[Sequence[Chunk], set]]:
    """Runs of at most `most` chunks that cut no paragraph, and the keys of those that had to be cut: where one
    paragraph is longer than a whole episode.
    """
    crosses = [bool(set(a.keys) & set(b.keys)) for a, b in itertools.pairwise(chunks)] + [False]
    start = 0
    while start < len(chunks):
        last = min(start + most, len(chunks)) - 1
        end = next((t + 1 for t in range(last, start - 1, -1) if not crosses[t]), last + 1)
        outside = {chunks[t].keys[-1] for t in (start - 1, end - 1) if t >= 0 and crosses[t]}
        yield chunks[start:end], outside
        start = end


def _questions(chunks: Sequence[Chunk], paragraphs: Sequence[_Paragraph], cut: set) -> tuple[Question, ...]:
    """The questions of all paragraphs that lie in the chunks whole, with the chunks that hold the gold."""
    places: dict = {}
    for t, chunk in enumerate(chunks):
        for key in chunk.keys:
            places.setdefault(key, []).append(t)
    questions = []
    for key, where in places.items():
        for asked, gold in paragraphs[key].questions if key not in cut else ():
            holding = [t for t in where if gold in chunks[t].text] or where
            questions.append(Question(asked, gold, "qa", tuple(holding)))
    return tuple(questions)


def _load(paths: Paths, options: BuildOptions) -> Iterator[Episode]:
    episodes = load_squad(
        paths["questions"],
        chunk_tokens=options.chunk_tokens or CHUNK_TOKENS,
        chunks_per_episode=options.chunks or CHUNKS,
        count_tokens=options.count_tokens,
        seed=options.seed,
        min_questions=MIN_QUESTIONS,
        wrapped=True,
    )
    yield from (episode for episode in episodes if len(episode.chunks) <= MOST_CHUNKS)


SOURCES = (
    Source(
        name="squad",
        role=TRAINING,
        competence="accurate retrieval",
        files={"questions": ("train-v1.1.json", "train-v2.0.json", "dev-v1.1*.json")},
        where="https://rajpurkar.github.io/SQuAD-explorer/ (train-v1.1.json)",
        licence="CC BY-SA 4.0",
        load=_load,
        published=Published(chunks=10.0, chunk_tokens=1078, questions=95.5),
    ),
)
