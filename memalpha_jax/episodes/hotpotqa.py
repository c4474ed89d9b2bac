"""HotpotQA: questions that need two Wikipedia articles, which come in titled chunks of varying length.

Files: https://hotpotqa.github.io, `hotpot_train_v1.1.json` (90,447 questions) or `hotpot_dev_distractor_v1.json`
(7,405); CC BY-SA 4.0. Two layouts are read, told apart by their fields, each as one JSON list or as JSON lines:

- official: `_id`, `question`, `answer`, `type`, `supporting_facts` [[title, sentence number], ..],
  `context` [[title, [sentence, ..]], ..];
- that of the IRCoT samples: `question_id`, `question_text`, `answers_objects` [{`spans`: [text, ..]}, ..],
  `contexts` [{`title`, `paragraph_text`, `is_supporting`}, ..].

An episode closes at about 10,000 tokens of supporting articles. That gives about 45 questions; the published 17 are
what a closed-book filter leaves of them. 500 questions of the development set make about 9 episodes, the training set
about 1,600.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator
from typing import Any

from memalpha_jax.episodes.documents import AskedQuestion, Document, Evidence, article_episodes, one_line
from memalpha_jax.episodes.episode import Episode
from memalpha_jax.episodes.official import field, read_records, typed
from memalpha_jax.episodes.source import TRAINING, BuildOptions, Paths, Published, Source
from memalpha_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class HotpotRecord:
    """One record in either layout. `asked` is None where a supporting article is missing from the context."""

    asked: AskedQuestion | None
    documents: tuple[Document, ...]


def load_hotpotqa(path: str | os.PathLike[str], options: BuildOptions) -> Iterator[Episode]:
    """Episodes of supporting articles; `UserError` names the file, the record and the field that is not as expected."""
    asked = [record.asked for record in read_hotpotqa(path) if record.asked]
    if not asked:
        raise UserError(
            f"{path}: no question has all its supporting articles in its context; use the training file or the "
            "'distractor' development file"
        )
    found = False
    for episode in article_episodes(asked, "hotpotqa", options):
        found = True
        yield episode
    if not found:
        raise UserError(f"{path} holds {len(asked)} questions, too few for an episode of the smallest size")


def read_hotpotqa(path: str | os.PathLike[str]) -> Iterator[HotpotRecord]:
    """The records of a file in either layout, in order."""
    for record, where in read_records(path):
        if "contexts" in record:
            yield _ircot(record, where)
        elif "context" in record:
            yield _official(record, where)
        else:
            raise UserError(
                f"{where}: no field 'context' (official layout) nor 'contexts' (IRCoT layout), only {sorted(record)}"
            )


def _official(record: dict[str, Any], where: str) -> HotpotRecord:
    sentences: dict[str, list[str]] = {}
    for c, entry in enumerate(field(record, "context", list, where)):
        at = f"{where}, field 'context[{c}]'"
        title, parts = _pair(entry, at)
        parts = typed(parts, list, at)
        sentences[one_line(typed(title, str, at))] = [one_line(typed(part, str, at)) for part in parts]
    facts: dict[str, list[int]] = {}
    for f, entry in enumerate(field(record, "supporting_facts", list, where)):
        at = f"{where}, field 'supporting_facts[{f}]'"
        title, number = _pair(entry, at)
        facts.setdefault(one_line(typed(title, str, at)), []).append(typed(number, int, at))
    documents = {title: Document(" ".join(filter(None, parts)), title) for title, parts in sentences.items()}
    evidence = tuple(
        # Some records count a sentence too many.
        Evidence(documents[title], tuple(sentences[title][n] for n in numbers if 0 <= n < len(sentences[title])))
        for title, numbers in facts.items()
        if title in documents and documents[title].text
    )
    kind = field(record, "type", str, where) if "type" in record else "qa"
    question, answer = field(record, "question", str, where), field(record, "answer", str, where)
    return _record(question, answer, kind, evidence, len(facts), documents.values())


def _ircot(record: dict[str, Any], where: str) -> HotpotRecord:
    answers = field(record, "answers_objects", list, where)
    spans = field(answers[0], "spans", list, f"{where}, field 'answers_objects[0]'") if answers else []
    if not spans:
        raise UserError(f"{where}, field 'answers_objects' holds no answer")
    answer = one_line(typed(spans[0], str, f"{where}, field 'answers_objects[0].spans[0]'"))
    documents, evidence = [], []
    for c, context in enumerate(field(record, "contexts", list, where)):
        at = f"{where}, field 'contexts[{c}]'"
        text, title = field(context, "paragraph_text", str, at), field(context, "title", str, at)
        documents.append(Document(one_line(text), one_line(title)))
        if field(context, "is_supporting", bool, at):
            evidence.append(Evidence(documents[-1], (answer,) if answer in documents[-1].text else ()))
    question = field(record, "question_text", str, where)
    return _record(question, answer, "qa", tuple(evidence), max(1, len(evidence)), documents)


def _record(
    question: str,
    answer: str,
    kind: str,
    evidence: tuple[Evidence, ...],
    needed: int,
    documents: Iterable[Document],
) -> HotpotRecord:
    complete = len(evidence) == needed and question.strip() and answer.strip()
    asked = AskedQuestion(question.strip(), answer.strip(), kind, evidence) if complete else None
    return HotpotRecord(asked, tuple(document for document in documents if document.text))


def _pair(entry: Any, where: str) -> tuple[Any, Any]:
    values = typed(entry, list, where)
    if len(values) != 2:
        raise UserError(f"{where} has {len(values)} entries, expected 2; is this the official layout?")
    return values[0], values[1]


def _load(paths: Paths, options: BuildOptions) -> Iterator[Episode]:
    return load_hotpotqa(paths["questions"], options)


SOURCES = (
    Source(
        name="hotpotqa",
        role=TRAINING,
        competence="accurate retrieval",
        files={"questions": ("hotpot_train_v1.1.json", "hotpot_dev_distractor_v1.json", "ircot_*.jsonl")},
        where="https://hotpotqa.github.io",
        licence="CC BY-SA 4.0",
        load=_load,
        published=Published(chunks=9.3, chunk_tokens=1051, questions=17),
    ),
)
