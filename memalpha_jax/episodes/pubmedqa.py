"""PubMedQA's `ori_pqal.json` as sentences of abstracts with their section, a stand-in for PubMed-RCT.

Official file: github.com/pubmedqa/pubmedqa (MIT; the abstracts are PubMed's), an object of abstracts by id with
`CONTEXTS` (paragraphs), `LABELS` (their headings) and `LONG_ANSWER` (the conclusion).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from memalpha_jax.episodes.labelled import Sample, sample
from memalpha_jax.episodes.official import field, read_json, typed
from memalpha_jax.episodes.sentences import split_sentences
from memalpha_jax.errors import UserError

CONCLUSIONS = "CONCLUSIONS"
_HEADING_WORDS = {
    "BACKGROUND": "BACKGROUND CONTEXT INTRODUCTION RATIONALE",
    "OBJECTIVE": "OBJECTIVE OBJECTIVES OBJECT PURPOSE PURPOSES AIM AIMS GOAL HYPOTHESIS HYPOTHESES QUESTION QUESTIONS",
    "METHODS": "METHOD METHODS METHODOLOGY MATERIAL MATERIALS DESIGN SETTING SETTINGS LOCATION PATIENT PATIENTS "
    "PARTICIPANT PARTICIPANTS SUBJECTS POPULATION SAMPLE PROBANDS INTERVENTION INTERVENTIONS MEASURE MEASURES MEASURED "
    "MEASUREMENT MEASUREMENTS OUTCOME OUTCOMES POINT EXTRACTION SOURCE SOURCES SELECTION SYNTHESIS COLLECTION "
    "VARIABLES DEFINITION",
    "RESULTS": "RESULT RESULTS FINDING FINDINGS OBSERVATIONS",
    "CONCLUSIONS": "CONCLUSION CONCLUSIONS DISCUSSION INTERPRETATION",
}
SECTIONS = tuple(_HEADING_WORDS)
_SECTION_OF = {word: section for section, words in _HEADING_WORDS.items() for word in words.split()}
_NO_SECTION = frozenset(
    (
        *("UNLABELLED", "SUMMARY", "LIMITATIONS", "KEY LIMITATIONS", "CASE REPORT", "CASE REPORTS"),
        *("CASE PRESENTATION", "CASE DESCRIPTION", "PRESENTATION", "DESCRIPTION", "MAIN BODY", "ICU LOS"),
        *(", FSAII", ", SCCVII", "TRIAL REGISTRATION", "CLINICAL TRIAL REGISTRATION"),
    )
)
"""Headings that tell of no one section."""


def read_abstract_sentences(path: str | os.PathLike[str]) -> Iterator[tuple[str, Sample]]:
    """Every sentence with the id of its abstract; its label is one of `SECTIONS`.

    A heading counts by its words: "PATIENTS AND METHODS" is METHODS. Paragraphs under a heading of several sections
    ("METHODS AND RESULTS") or of none are left out. UserError for a heading of which no word is known.
    """
    for key, abstract in typed(read_json(path), dict, f"{path}").items():
        where = f"{path}, {key!r:.80}"
        paragraphs, headings = field(abstract, "CONTEXTS", list, where), field(abstract, "LABELS", list, where)
        if len(paragraphs) != len(headings):
            raise UserError(f"{where} has {len(paragraphs)} CONTEXTS and {len(headings)} LABELS; each needs its own")
        for i, (paragraph, heading) in enumerate(zip(paragraphs, headings, strict=True)):
            label = _section(typed(heading, str, f"{where}, field 'LABELS[{i}]'"), f"{where}, field 'LABELS[{i}]'")
            if label:
                yield from _split(key, paragraph, label, where, f"CONTEXTS[{i}]")
        yield from _split(key, field(abstract, "LONG_ANSWER", str, where), CONCLUSIONS, where, "LONG_ANSWER")


def _split(key: str, paragraph: str, label: str, where: str, name: str) -> Iterator[tuple[str, Sample]]:
    for sentence in split_sentences(typed(paragraph, str, f"{where}, field {name!r}")):
        if sentence.strip():
            yield key, sample(sentence, label, where, (name, "LABELS"))


def _section(heading: str, where: str) -> str:
    """The one section that a heading names; "" if it names several or is known to name none."""
    heading = heading.strip().upper()
    if heading in _NO_SECTION:
        return ""
    named = {_SECTION_OF[word] for word in re.findall(r"[A-Z]+", heading) if word in _SECTION_OF}
    if not named:
        raise UserError(f"{where} is {heading!r:.80}, which names none of the sections {', '.join(SECTIONS)}")
    return named.pop() if len(named) == 1 else ""
