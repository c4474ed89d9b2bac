"""Questions about documents, whatever file they come from, and episodes of the documents that are asked about.

hotpotqa and musique make their episodes here; ruler_qa1 and ruler_qa2 put the same questions into one stream
(`document_stream`).
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Hashable, Iterator, Mapping, Sequence

import numpy as np

from memalpha_jax.episodes.chunkers import Chunk, CountTokens, Unit, variable_chunker
from memalpha_jax.episodes.episode import Episode, Question, validate
from memalpha_jax.episodes.source import BuildOptions
from memalpha_jax.episodes.wrapping import DOCUMENTS, Wrapper

MIN_CHUNK_TOKENS, MAX_CHUNK_TOKENS = 100, 2048
EPISODE_TOKENS = 10_000
MIN_QUESTIONS, MAX_ASKED, MAX_CHUNKS = 10, 200, 20


@dataclasses.dataclass(frozen=True)
class Document:
    """A text, in one line for each paragraph, and its title where it has one."""

    text: str
    title: str = ""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """A document that a question needs; `passages` are the sentences or golds in it that matter, if known."""

    document: Document
    passages: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class AskedQuestion:
    """A question, its gold or golds, its kind, and every document it needs."""

    question: str
    answer: str | tuple[str, ...]
    kind: str
    evidence: tuple[Evidence, ...]

    @property
    def documents(self) -> tuple[Document, ...]:
        return tuple(dict.fromkeys(evidence.document for evidence in self.evidence))


def one_line(text: str) -> str:
    """`text` with single spaces: a line break inside a paragraph would read as the start of the next one."""
    return " ".join(text.split())


def article_episodes(asked: Sequence[AskedQuestion], source: str, options: BuildOptions) -> Iterator[Episode]:
    """Episodes of the articles that questions need, in titled variable chunks, as published for HotpotQA.

    Questions are drawn in a random order and bring their articles with them; about `EPISODE_TOKENS` tokens of articles
    close an episode. It asks every question, not asked before, whose articles are all inside. The articles are
    shuffled, so that those of one question seldom share a chunk. Episodes outside `MIN_QUESTIONS`..`MAX_ASKED`
    questions or over `MAX_CHUNKS` chunks are left out.
    """
    for number, (documents, questions) in enumerate(_groups(asked, options.count_tokens, options.seed)):
        if not MIN_QUESTIONS <= len(questions) <= MAX_ASKED:
            continue
        rng = np.random.default_rng((options.seed, number))
        documents = [documents[i] for i in rng.permutation(len(documents))]
        wrapper = Wrapper(DOCUMENTS, options.count_tokens)
        limit = options.chunk_tokens or MAX_CHUNK_TOKENS
        cut = variable_chunker(MIN_CHUNK_TOKENS, limit, wrapper.count_tokens, rng)
        chunks = cut([Unit(document.text, document, document.title) for document in documents])
        if len(chunks) <= MAX_CHUNKS:
            name = f"{source}-{options.seed}-{number}"
            texts = tuple(wrapped.text for wrapped in wrapper.wrap([chunk.text for chunk in chunks], rng))
            yield validate(Episode(name, source, texts, with_evidence(questions, chunks)))


def _groups(
    asked: Sequence[AskedQuestion], count_tokens: CountTokens, seed: int
) -> Iterator[tuple[list[Document], list[AskedQuestion]]]:
    """The articles and questions of each episode."""
    askers: dict[Document, list[int]] = collections.defaultdict(list)
    for i, question in enumerate(asked):
        for document in question.documents:
            askers[document].append(i)
    done: set[int] = set()
    inside: dict[Document, None] = {}
    tokens = 0
    for i in np.random.default_rng(seed).permutation(len(asked)):
        if i in done:
            continue
        new = [document for document in asked[i].documents if document not in inside]
        inside.update(dict.fromkeys(new))
        tokens += sum(count_tokens(f"{document.title}\n{document.text}") for document in new)
        if tokens >= EPISODE_TOKENS:
            yield list(inside), _answerable(asked, askers, inside, done)
            inside, tokens = {}, 0
    if inside:
        yield list(inside), _answerable(asked, askers, inside, done)


def _answerable(
    asked: Sequence[AskedQuestion],
    askers: Mapping[Document, Sequence[int]],
    inside: Mapping[Document, None],
    done: set[int],
) -> list[AskedQuestion]:
    """The questions not in `done` whose documents are all inside; they are added to `done`."""
    found = []
    for i in dict.fromkeys(i for document in inside for i in askers[document]):
        if i not in done and all(document in inside for document in asked[i].documents):
            done.add(i)
            found.append(asked[i])
    return found


def with_evidence(asked: Sequence[AskedQuestion], chunks: Sequence[Chunk]) -> tuple[Question, ...]:
    """The questions with the indices of the chunks that hold what they need; chunks name their documents as keys.

    Of a document that was cut, the chunks with one of its passages; all of its chunks where no passage is in one piece.
    """
    squeezed = ["".join(chunk.text.split()) for chunk in chunks]
    places: dict[Hashable, list[int]] = collections.defaultdict(list)
    for t, chunk in enumerate(chunks):
        for key in chunk.keys:
            places[key].append(t)
    questions = []
    for question in asked:
        holding: set[int] = set()
        for evidence in question.evidence:
            where = places[evidence.document]
            passages = ["".join(passage.split()) for passage in evidence.passages]
            holding.update([t for t in where if any(passage in squeezed[t] for passage in passages)] or where)
        questions.append(Question(question.question, question.answer, question.kind, tuple(sorted(holding))))
    return tuple(questions)
