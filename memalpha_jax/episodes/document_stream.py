"""Documents in one long stream of any length, with questions about a few of them: the form of RULER's QA tasks.

After RULER (arXiv 2404.06654, qa_1 and qa_2) as MemoryAgentBench (arXiv 2507.05257) uses it: one stream for all
questions, documents numbered `Document 1:` and so on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from memalpha_jax.episodes.chunkers import CountTokens, Unit, sentence_chunker
from memalpha_jax.episodes.documents import AskedQuestion, Document, one_line, with_evidence
from memalpha_jax.episodes.episode import MAX_QUESTIONS, Episode, validate
from memalpha_jax.episodes.official import field, read_records
from memalpha_jax.episodes.source import BuildOptions
from memalpha_jax.episodes.wrapping import DOCUMENTS, Wrapper
from memalpha_jax.errors import UserError

CHUNK_TOKENS = 2048
SHORTFALL = 0.01  # of the wanted length, where the documents end


def stream_episode(
    asked: Sequence[AskedQuestion],
    documents: Iterable[Document],
    distractors: Iterable[Document],
    *,
    source: str,
    stream_tokens: int,
    options: BuildOptions,
) -> Episode:
    """One episode of about `stream_tokens` tokens, at most that many before wrapping, and up to 100 questions.

    The documents of `MAX_QUESTIONS` questions drawn at random come first, as far as there is room; other `documents`
    fill it up, then `distractors`. All are shuffled, so that the answers lie anywhere. Documents that occur twice are
    taken once. `UserError` where all documents together are too short, or not even one question's documents fit.
    """
    rng = np.random.default_rng(options.seed)
    asked = [asked[i] for i in rng.permutation(len(asked))]
    known = list(dict.fromkeys(documents))
    known = [known[i] for i in rng.permutation(len(known))]
    others = list(dict.fromkeys(distractors))
    others = [others[i] for i in rng.permutation(len(others))]
    chosen = _choose(asked, [*known, *others], stream_tokens, options.count_tokens)
    inside = [question for question in asked if all(document in chosen for document in question.documents)]
    if not inside:
        raise UserError(f"{source}: no question's documents fit into a stream of {stream_tokens} tokens; set it longer")
    order = [list(chosen)[i] for i in rng.permutation(len(chosen))]
    units = [Unit(_shown(document, n), document) for n, document in enumerate(order, 1)]
    wrapper = Wrapper(DOCUMENTS, options.count_tokens)
    chunks = sentence_chunker(options.chunk_tokens or CHUNK_TOKENS, wrapper.count_tokens)(units)
    texts = tuple(wrapped.text for wrapped in wrapper.wrap([chunk.text for chunk in chunks], rng))
    metadata = {
        "stream_tokens": sum(chosen.values()),
        "documents": len(chosen),
        "distractors": len(chosen.keys() & set(others) - set(known)),
    }
    name = f"{source}-{options.seed}-{stream_tokens}"
    return validate(Episode(name, source, texts, with_evidence(inside[:MAX_QUESTIONS], chunks), metadata))


def read_passages(path: str | os.PathLike[str]) -> Iterator[Document]:
    """Documents that only distract: a JSON list, or JSON lines, of objects with `title` and `text`."""
    for record, where in read_records(path):
        document = Document(one_line(field(record, "text", str, where)), one_line(field(record, "title", str, where)))
        if document.text:
            yield document


def _shown(document: Document, number: int) -> str:
    return "\n".join(filter(None, (f"Document {number}:", document.title, document.text)))


def _choose(
    asked: Sequence[AskedQuestion], documents: Sequence[Document], stream_tokens: int, count_tokens: CountTokens
) -> dict[Document, int]:
    """The documents of the stream with their tokens, the number line and the break after it included."""
    chosen: dict[Document, int] = {}
    left = stream_tokens

    def tokens(document: Document) -> int:
        # Numbers are given out later; the longest that can occur is counted.
        return count_tokens(_shown(document, len(documents)) + "\n")

    for question in asked[:MAX_QUESTIONS]:
        new = {document: tokens(document) for document in question.documents if document not in chosen}
        if sum(new.values()) <= left:
            chosen.update(new)
            left -= sum(new.values())
    for document in documents:
        if document in chosen:
            continue
        size = tokens(document)
        if size > left:
            return chosen
        chosen[document] = size
        left -= size
    if left > SHORTFALL * stream_tokens:
        raise UserError(
            f"the {len(chosen)} documents at hand have {stream_tokens - left} tokens together, and a stream of "
            f"{stream_tokens} is wanted; add documents that distract, or set stream_tokens lower"
        )
    return chosen
