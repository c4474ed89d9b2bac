"""MuSiQue: questions of two to four hops over Wikipedia paragraphs, in episodes of the same form as hotpotqa's.

Files: https://github.com/StonyBrookNLP/musique (its `download_data.sh`), `musique_ans_v1.0_dev.jsonl` (2,417
questions) or `musique_ans_v1.0_train.jsonl` (19,938); CC BY 4.0. Layout, one JSON object a line: `id` (its start tells
the hops, `2hop__`, `3hop1__`, `4hop3__`), `question`, `answer`, `answer_aliases`, `paragraphs` [{`idx`, `title`,
`paragraph_text`, `is_supporting`}, ..], in the `full` files `answerable`, whose unanswerable half is left out. The test
files have no answers.

The paper that we reproduce does not use it, so there are no published figures: an episode closes at about 10,000
tokens of supporting paragraphs, in titled chunks, as hotpotqa's do, so that a policy trained there meets more hops and
nothing else that is new. The development set makes about 60 episodes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from memalpha_jax.episodes.documents import AskedQuestion, Document, Evidence, article_episodes, one_line
from memalpha_jax.episodes.episode import Episode
from memalpha_jax.episodes.official import field, read_records, typed
from memalpha_jax.episodes.source import EVALUATION, BuildOptions, Paths, Source
from memalpha_jax.errors import UserError

_HOPS = re.compile(r"([2-9]hop)")


def load_musique(path: str | os.PathLike[str], options: BuildOptions) -> Iterator[Episode]:
    """Episodes of supporting paragraphs, golds with their aliases, `kind` the number of hops.

    `UserError` names the file, the line and the field that is not as expected.
    """
    asked = [question for record, where in read_records(path) if (question := _question(record, where))]
    found = False
    for episode in article_episodes(asked, "musique", options):
        found = True
        yield episode
    if not found:
        raise UserError(f"{path} holds {len(asked)} answerable questions, too few for an episode of the smallest size")


def _question(record: dict[str, Any], where: str) -> AskedQuestion | None:
    if not typed(record.get("answerable", True), bool, f"{where}, field 'answerable'"):
        return None
    answer, aliases = field(record, "answer", str, where), field(record, "answer_aliases", list, where)
    texts = [answer, *(typed(alias, str, f"{where}, field 'answer_aliases[{i}]'") for i, alias in enumerate(aliases))]
    golds = tuple(dict.fromkeys(filter(None, map(one_line, texts))))
    if not golds:
        raise UserError(f"{where}, field 'answer' holds no text")
    evidence = []
    for p, paragraph in enumerate(field(record, "paragraphs", list, where)):
        at = f"{where}, field 'paragraphs[{p}]'"
        if field(paragraph, "is_supporting", bool, at):
            text, title = field(paragraph, "paragraph_text", str, at), field(paragraph, "title", str, at)
            document = Document(one_line(text), one_line(title))
            evidence.append(Evidence(document, tuple(gold for gold in golds if gold in document.text)))
    if not evidence:
        raise UserError(f"{where}, field 'paragraphs': none is_supporting; an answerable question needs some")
    hops = _HOPS.match(field(record, "id", str, where))
    question = field(record, "question", str, where).strip()
    return AskedQuestion(question, golds, hops[1] if hops else "qa", tuple(evidence))


def _load(paths: Paths, options: BuildOptions) -> Iterator[Episode]:
    return load_musique(paths["questions"], options)


SOURCES = (
    Source(
        name="musique",
        role=EVALUATION,
        competence="accurate retrieval",
        files={"questions": ("musique_ans_v1.0_dev.jsonl", "musique_full_v1.0_dev.jsonl", "musique_*_train.jsonl")},
        where="https://github.com/StonyBrookNLP/musique",
        licence="CC BY 4.0",
        load=_load,
    ),
)
