"""RULER QA1: SQuAD paragraphs in one stream of 197,000 tokens, questions about a hundred of them.

Files: https://rajpurkar.github.io/SQuAD-explorer, `dev-v2.0.json` (as RULER takes it; 1,204 paragraphs),
`dev-v1.1.json` (2,067) or either training file; CC BY-SA 4.0. Layout: `data` [{`paragraphs` [{`context`, `qas`
[{`question`, `answers` [{`text`}, ..]}, ..]}, ..]}, ..]; questions without an answer are left out. One episode, like
MemoryAgentBench's `ruler_qa1_197K`; `stream_tokens` sets another length. Where the paragraphs are too few for it, the
passages of a second file fill it up: a JSON list of {`title`, `text`}, such as the 2WikiMultihopQA corpus (6,119
passages, Apache-2.0); the episode's metadata count them. The published episode is one draw, ours another: its documents
and questions are not the same ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from memalpha_jax.episodes.document_stream import read_passages, stream_episode
from memalpha_jax.episodes.documents import AskedQuestion, Document, Evidence, one_line
from memalpha_jax.episodes.episode import Episode
from memalpha_jax.episodes.official import field
from memalpha_jax.episodes.source import EVALUATION, BuildOptions, Paths, Published, Source
from memalpha_jax.episodes.squad import read_paragraphs
from memalpha_jax.errors import UserError

STREAM_TOKENS = 197_000


def load_ruler_qa1(
    path: str | os.PathLike[str], options: BuildOptions, distractors: str | os.PathLike[str] | None = None
) -> Iterator[Episode]:
    """The one episode; `distractors` is the file of further passages, whose titles are left out, as SQuAD has none.

    `UserError` names the file and the field that is not as expected, or the tokens that are lacking.
    """
    documents, asked = [], []
    for paragraph, where in read_paragraphs(path):
        document = Document(one_line(field(paragraph, "context", str, where)))
        if not document.text:
            continue
        documents.append(document)
        for q, record in enumerate(field(paragraph, "qas", list, where)):
            asked += _questions(record, f"{where}.qas[{q}]", document)
    if not asked:
        raise UserError(f"{path} holds no question with an answer")
    yield stream_episode(
        asked,
        documents,
        () if distractors is None else (Document(passage.text) for passage in read_passages(distractors)),
        source="ruler_qa1",
        stream_tokens=options.stream_tokens or STREAM_TOKENS,
        options=options,
    )


def _questions(record: Any, where: str, document: Document) -> list[AskedQuestion]:
    """The question of one record, none where it has no answer (v2.0)."""
    question = field(record, "question", str, where).strip()
    texts = [
        one_line(field(answer, "text", str, f"{where}.answers[{i}]"))
        for i, answer in enumerate(field(record, "answers", list, where))
    ]
    golds = tuple(dict.fromkeys(filter(None, texts)))
    if not question or not golds:
        return []
    return [AskedQuestion(question, golds, "qa", (Evidence(document, golds),))]


def _load(paths: Paths, options: BuildOptions) -> Iterator[Episode]:
    return load_ruler_qa1(paths["questions"], options, paths.get("distractors"))


SOURCES = (
    Source(
        name="ruler_qa1",
        role=EVALUATION,
        competence="accurate retrieval",
        files={
            "questions": ("dev-v2.0.json", "dev-v1.1*.json", "train-v*.json"),
            "distractors": ("2wikimultihopqa_corpus.json",),
        },
        where="https://rajpurkar.github.io/SQuAD-explorer",
        licence="CC BY-SA 4.0",
        load=_load,
        published=Published(episodes=1, questions=100),
        optional=frozenset({"distractors"}),
    ),
)
