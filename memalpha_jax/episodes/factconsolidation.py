"""FactConsolidation: numbered facts that contradict earlier ones; the later fact wins. Questions of one or more hops.

Files, either of:

- MemoryAgentBench's `Conflict_Resolution` parquet file, or the same rows as JSON; see `memory_agent_bench` for the
  place and the columns; MIT. Rows: `factconsolidation_sh_6k`, `_32k`, `_64k`, `_262k`, and `factconsolidation_mh_..`
  alike: four episodes of each, 100 questions in each.
- the facts as text, `factconsolidation_6k_facts.txt`, one a line, and a JSON-lines file of questions,
  `factconsolidation_sh_6k_qa.jsonl`: `question`, `answers` [gold, ..]. One episode.

The facts are counterfactual edits of MQuAKE: `0. Thomas Kyd was born in the city of London.`, numbered in the order in
which they are told, perhaps under a line that says so. A fact ends with what it states of its subject, so a later fact
of the same beginning replaces it. Facts stay whole.

The files name no evidence. It is found here where it is certain: the chunk of the fact in force that ends with a gold,
if only one does, and for single-hop questions, if only one of them shares the most words with the question. For
questions of several hops that is the last hop.
"""

from __future__ import annotations

import functools
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from memalpha_jax.episodes.chunkers import Chunk, Unit, sample_chunker
from memalpha_jax.episodes.episode import Episode, Question, validate
from memalpha_jax.episodes.memory_agent_bench import read_rows
from memalpha_jax.episodes.official import field, read_jsonl, read_text, typed
from memalpha_jax.episodes.source import EVALUATION, BuildOptions, Paths, Published, Source
from memalpha_jax.episodes.wrapping import DOCUMENTS, Wrapper
from memalpha_jax.errors import UserError

SINGLE_HOP, MULTI_HOP = "factconsolidation_sh", "factconsolidation_mh"
CHUNK_TOKENS = 2048
_FACT = re.compile(r"(\d+)\.\s+(\S.*)")
_WORD = re.compile(r"\w+")
Asked = Sequence[tuple[str, tuple[str, ...]]]


def load_rows(path: str | os.PathLike[str], task: str, options: BuildOptions) -> Iterator[Episode]:
    """An episode for each row of `task`, SINGLE_HOP or MULTI_HOP.

    `UserError` names the file, the row and the field or the line of the context that is not as expected.
    """
    for row in read_rows(path, task):
        yield _episode(row.source, task, row.context, row.questions, f"{row.where}, field 'context'", options)


def load_text(
    facts: str | os.PathLike[str], questions: str | os.PathLike[str], task: str, options: BuildOptions
) -> Iterator[Episode]:
    """The episode of a text file of facts and a JSON-lines file of questions."""
    asked = []
    for record, where in read_jsonl(questions):
        answers = field(record, "answers", list, where)
        golds = tuple(typed(gold, str, f"{where}, field 'answers[{i}]'").strip() for i, gold in enumerate(answers))
        asked.append((field(record, "question", str, where).strip(), golds))
    name = os.path.basename(questions).split(".")[0].removesuffix("_qa")
    yield _episode(name, task, read_text(facts), asked, str(facts), options)


def _episode(name: str, task: str, context: str, asked: Asked, where: str, options: BuildOptions) -> Episode:
    heading, facts = _read_facts(context, where)
    units = [Unit(heading)] if heading else []
    units += [Unit(f"{number}. {text}", number) for number, text in facts]
    wrapper = Wrapper(DOCUMENTS, options.count_tokens)
    chunks = sample_chunker(options.chunk_tokens or CHUNK_TOKENS, wrapper.count_tokens)(units)
    kind = "single_hop" if task == SINGLE_HOP else "multi_hop"
    questions = tuple(
        Question(question, golds, kind, _chunk_of(_stated(facts, question, golds, task), chunks))
        for question, golds in asked
    )
    rng = np.random.default_rng((options.seed, zlib.crc32(name.encode("utf-8", "surrogatepass"))))
    texts = tuple(wrapped.text for wrapped in wrapper.wrap([chunk.text for chunk in chunks], rng))
    try:
        return validate(Episode(name, task, texts, questions, {"facts": len(facts)}))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _read_facts(context: str, where: str) -> tuple[str, list[tuple[int, str]]]:
    """The line above the facts, if any, and every fact with its number; the numbers rise."""
    heading, facts = "", list[tuple[int, str]]()
    for n, line in enumerate(context.split("\n"), 1):
        line = line.strip()
        match = _FACT.fullmatch(line)
        if match is None:
            if line and (heading or facts):
                raise UserError(f"{where}, line {n}: {line!r:.60} is no numbered fact such as '12. Water is wet.'")
            heading = line
            continue
        if facts and int(match[1]) <= facts[-1][0]:
            raise UserError(f"{where}, line {n}: fact {match[1]} follows fact {facts[-1][0]}; numbers must rise")
        facts.append((int(match[1]), match[2]))
    if not facts:
        raise UserError(f"{where} holds no numbered facts")
    return heading, facts


def _stated(facts: Sequence[tuple[int, str]], question: str, golds: tuple[str, ...], task: str) -> int | None:
    """The number of the fact in force that states a gold, None where more than one might be meant."""
    candidates = []  # number, words shared with the question
    asked = set(_WORD.findall(question.lower()))
    for i, (number, text) in enumerate(facts):
        for beginning in {_before(text, gold) for gold in golds} - {None}:
            assert beginning is not None
            if not any(later.startswith(beginning) for _, later in facts[i + 1 :]):
                candidates.append((len(asked & set(_WORD.findall(beginning.lower()))), number))
    if len(candidates) > 1 and task == SINGLE_HOP:
        most = max(candidates)[0]
        candidates = [candidate for candidate in candidates if candidate[0] == most]
    return candidates[0][1] if len(candidates) == 1 else None


def _before(text: str, gold: str) -> str | None:
    """What stands before the gold at the end of a fact, with its last space; None where it does not end so."""
    beginning = text.removesuffix(".").removesuffix(gold)
    return beginning if gold and beginning.endswith(" ") and text.removesuffix(".").endswith(gold) else None


def _chunk_of(number: int | None, chunks: Sequence[Chunk]) -> tuple[int, ...]:
    return () if number is None else tuple(t for t, chunk in enumerate(chunks) if number in chunk.keys)


def _load(paths: Paths, options: BuildOptions, task: str) -> Iterator[Episode]:
    if "rows" in paths:
        return load_rows(paths["rows"], task, options)
    for name in ("facts", "questions"):
        if name not in paths:
            raise UserError(f"{task} needs the benchmark's file, or text files of facts and questions; no {name}")
    return load_text(paths["facts"], paths["questions"], task, options)


def _loader(task: str) -> Callable[[Paths, BuildOptions], Iterator[Episode]]:
    return functools.partial(_load, task=task)


SOURCES = tuple(
    Source(
        name=task,
        role=EVALUATION,
        competence="conflict resolution",
        files={
            "rows": ("Conflict_Resolution*.parquet", "Conflict_Resolution*.json", "Conflict_Resolution*.jsonl"),
            "facts": ("factconsolidation_*_facts.txt",),
            "questions": (f"{task}_*_qa.jsonl",),
        },
        where="https://huggingface.co/datasets/ai-hyz/MemoryAgentBench",
        licence="MIT",
        load=_loader(task),
        published=Published(episodes=4, questions=100),
        optional=frozenset({"rows", "facts", "questions"}),
    )
    for task in (SINGLE_HOP, MULTI_HOP)
)
