"""PerLTQA in English: the life of one character as events with their dialogues, and questions about it.

Official files: `perltmem_en_v2.json` (memories) and `perltqa_en_v2.json` (questions) of
github.com/Elvin-Yiming-Du/PerLTQA, folder Dataset/en_v2; licence CC BY-NC 4.0. The first maps 141 names to `events`
(id to `summary`, `content`, `Creation Time`, `Characters`) and `dialogues` (id to `events`, the event's id, and
`contents`, time to a list of "Name: text"); the first English version is a list of such records, each named by its
`profile`. The second is a list of `{name: {section: ..}}` for 32 names, each section but `profile` a list of
`{memory id: [{"Question", "Answer", "Reference Memory", "Memory Anchors"}]}`.

One episode per character, one event with its dialogues per chunk, in the order of the file. An event longer than a
chunk is split by sentences and turns. All sections but `profile` are asked. The answers are sentences, and the gold is
keywords separated by ";": published ones were made by a language model; here they are the anchors that the answer
holds, else what `extract_keywords` finds. `metadata["long_answers"]` maps every question to its whole answer.
A character with more than 30 chunks or fewer than 20 questions is left out, as are questions without an answer:
31 episodes from the official files by the paper's count.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from memalpha_jax.episodes.chunkers import Chunk, CountTokens, Unit, sentence_chunker, session_chunker
from memalpha_jax.episodes.episode import Episode, Question, validate
from memalpha_jax.episodes.keywords import extract_keywords
from memalpha_jax.episodes.official import field, read_json, typed
from memalpha_jax.episodes.source import TRAINING, BuildOptions, Paths, Published, Source
from memalpha_jax.errors import UserError

CHUNK_TOKENS = 2048
MAX_CHUNKS, MIN_QUESTIONS = 30, 20
SECTIONS = ("social_relationship", "events", "dialogues")
MAX_KEYWORDS = 4
SHORT_ANSWER = 3  # words: such an answer is its own keyword

_MEMORY_ID = re.compile(r"\d+(?:_\d+)+(?:#\d+)?")


def load_perltqa(paths: Paths, options: BuildOptions, min_questions: int = MIN_QUESTIONS) -> Iterator[Episode]:
    """Episodes of the characters that both `paths["memory"]` and `paths["questions"]` name.

    UserError names file, record and field of a fault, and says so where no character gives an episode.
    """
    memories = _memories(paths["memory"])
    found = False
    for name, sections, where in _characters(paths["questions"]):
        if name not in memories:
            continue  # one of the official 32 has no memory
        memory, memory_where = memories[name]
        chunks = _chunks(name, memory, memory_where, options)
        questions, answers = _questions(sections, chunks, memory, where)
        if len(chunks) <= MAX_CHUNKS and len(questions) >= min_questions:
            found = True
            episode = Episode(
                f"perltqa-{name}", "perltqa", tuple(c.text for c in chunks), questions, {"long_answers": answers}
            )
            yield validate(episode)
    if not found:
        raise UserError(
            f"{paths['questions']} and {paths['memory']} share no character with 1 to {MAX_CHUNKS} events and at least "
            f"{min_questions} questions"
        )


def _memories(path: os.PathLike[str]) -> dict[str, tuple[dict[str, Any], str]]:
    data = read_json(path)
    if isinstance(data, list):  # the first English version
        named = {}
        for i, record in enumerate(data):
            where = f"{path}, [{i}]"
            profile = field(record, "profile", dict, where)
            named[field(profile, "Protagonist", str, f"{where}.profile")] = (record, where)
    else:
        named = {name: (m, f"{path}, {name!r}") for name, m in typed(data, dict, str(path)).items()}
    if not named:
        raise UserError(f"{path} holds no characters")
    return named


def _characters(path: os.PathLike[str]) -> Iterator[tuple[str, dict[str, Any], str]]:
    records = typed(read_json(path), list, str(path))
    if not records:
        raise UserError(f"{path} holds no characters")
    for i, record in enumerate(records):
        for name, sections in typed(record, dict, f"{path}, [{i}]").items():
            where = f"{path}, [{i}].{name}"
            yield name, typed(sections, dict, where), where


def _chunks(name: str, memory: Any, where: str, options: BuildOptions) -> list[Chunk]:
    """The chunks, their keys the ids of the events and dialogues in them."""
    dialogues: dict[str, list[Unit]] = {}
    for key, dialogue in field(memory, "dialogues", dict, where).items():
        at = f"{where}.dialogues[{key!r}]"
        event = dialogue.get("events") if isinstance(dialogue, dict) else None
        turns = list(_turns(key, field(dialogue, "contents", dict, at), f"{at}.contents"))
        dialogues.setdefault(str(event or key.partition("#")[0]), []).extend(turns)
    limit = options.chunk_tokens or CHUNK_TOKENS
    chunks: list[Chunk] = []
    for key, event in field(memory, "events", dict, where).items():
        text = _event_text(name, event, f"{where}.events[{key!r}]")
        chunks += _event_chunks(key, text, dialogues.pop(key, []), limit, options.count_tokens)
    for turns in dialogues.values():  # of events that are not told
        chunks += session_chunker(limit, options.count_tokens, limit)(turns)
    return chunks


def _turns(key: str, contents: Mapping[str, Any], where: str) -> Iterator[Unit]:
    for when, lines in contents.items():
        for i, line in enumerate(typed(lines, list, f"{where}[{when!r}]")):
            role, colon, text = typed(line, str, f"{where}[{when!r}][{i}]").partition(":")
            yield Unit(text.strip(), key, when=when, role=role.strip()) if colon else Unit(line, key, when=when)


def _event_text(name: str, event: Any, where: str) -> str:
    when = " ".join(field(event, "Creation Time", str, where).split())
    lines = [f"[Event of {name}, {when}]" if when else f"[Event of {name}]"]
    lines += [f"Summary: {' '.join(field(event, 'summary', str, where).split())}"]
    return "\n".join([*lines, f"Content: {' '.join(field(event, 'content', str, where).split())}"])


def _event_chunks(key: str, text: str, turns: Sequence[Unit], limit: int, count_tokens: CountTokens) -> list[Chunk]:
    told = sentence_chunker(limit, count_tokens)([Unit(text, key)])
    said = session_chunker(limit, count_tokens, limit)(turns) if turns else []
    if len(told) == 1 and len(said) == 1 and count_tokens(whole := f"{text}\n{said[0].text}") <= limit:
        return [Chunk(whole, (key, *said[0].keys))]
    return told + said


def _questions(
    sections: Mapping[str, Any], chunks: Sequence[Chunk], memory: Mapping[str, Any], where: str
) -> tuple[tuple[Question, ...], dict[str, str]]:
    questions: dict[str, Question] = {}
    answers: dict[str, str] = {}
    for section in SECTIONS:
        for key, record, at in _asked(sections.get(section) or [], f"{where}.{section}"):
            asked, answer = field(record, "Question", str, at).strip(), record.get("Answer")
            answer = " ".join(str(answer).split()) if type(answer) in (int, float) else _text_or_none(answer, at)
            if not asked or not answer or asked in questions:
                continue
            ids = set(_MEMORY_ID.findall(str(record.get("Reference Memory") or ""))) or {key}
            ids |= _events_with(ids, memory) if section == "social_relationship" else set()
            evidence = tuple(t for t, chunk in enumerate(chunks) if not ids.isdisjoint(chunk.keys))
            text = "\n".join(chunks[t].text for t in evidence)
            gold = ";".join(_keywords(asked, answer, _anchors(record, at), text))
            questions[asked] = Question(asked, gold, section, evidence)
            answers[asked] = answer
    return tuple(questions.values()), answers


def _text_or_none(answer: Any, where: str) -> str:
    return " ".join(typed(answer, str, f"{where}, field 'Answer'").split()) if answer is not None else ""


def _asked(section: Any, where: str) -> Iterator[tuple[str, Any, str]]:
    for i, by_memory in enumerate(typed(section, list, where)):
        for key, records in typed(by_memory, dict, f"{where}[{i}]").items():
            at = f"{where}[{i}].{key}"
            yield from ((key, record, f"{at}[{j}]") for j, record in enumerate(typed(records, list, at)))


def _events_with(people: set[str], memory: Mapping[str, Any]) -> set[str]:
    events = memory["events"].items()
    return {key for key, event in events if people & {key.rpartition("_")[0], *map(str, event.get("Characters") or ())}}


def _anchors(record: Mapping[str, Any], where: str) -> list[str]:
    anchors = typed(record.get("Memory Anchors") or [], list, f"{where}, field 'Memory Anchors'")
    return [phrase for i, a in enumerate(anchors) for phrase in typed(a, dict, f"{where}.'Memory Anchors'[{i}]")]


def _keywords(asked: str, answer: str, anchors: Sequence[str], text: str) -> list[str]:
    """Parts of the answer that the question does not give away; never empty, none with a ";"."""
    if len(answer.split()) <= SHORT_ANSWER:
        return [answer.rstrip(".").replace(";", ",") or answer]
    phrases = [part.strip() for anchor in anchors for part in re.split("[,;]", anchor)]
    found = [p for p in dict.fromkeys(phrases) if p and p.lower() in answer.lower()]
    found = found or list(extract_keywords(answer, text, 2 * MAX_KEYWORDS))
    new = [p for p in found if p.lower() not in asked.lower()]
    return new[:MAX_KEYWORDS] or [answer.replace(";", ",")]


SOURCES = (
    Source(
        name="perltqa",
        role=TRAINING,
        competence="accurate retrieval",
        files={
            "memory": ("perltmem_en_v2.json", "Dataset/en_v2/perltmem_en_v2.json", "perltmem_en.json"),
            "questions": ("perltqa_en_v2.json", "Dataset/en_v2/perltqa_en_v2.json", "perltqa_en.json"),
        },
        where="github.com/Elvin-Yiming-Du/PerLTQA, folder Dataset/en_v2",
        licence="CC BY-NC 4.0",
        load=load_perltqa,
        published=Published(episodes=31, chunks=23.3, chunk_tokens=523.6, questions=100.0),
    ),
)
