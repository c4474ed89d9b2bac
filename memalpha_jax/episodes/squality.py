"""SQuALITY: science fiction stories of about 29,000 characters, with questions that four people answered at length.

Official files: `train.jsonl`, `dev.jsonl`, `test.jsonl` of github.com/nyu-mll/SQuALITY (arXiv 2205.11465), folder
data/v1-3/txt; answers CC BY 4.0, stories of Project Gutenberg. A line is one story: `metadata` (`passage_id`),
`document`, and `questions`, five of `{"question_text", "question_number", "responses"}` with `response_text` each; the
first asks for the plot. One episode per story (50, 25 and 52), five questions.

It stands in for BookSum and InfBench-Sum where those are not at hand. The gold of a question is the keywords of all its
answers together, without words of the question: what several people mention ranks higher, as in the pyramid method of
Nenkova and Passonneau (2004).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from memalpha_jax.episodes.episode import Episode
from memalpha_jax.episodes.official import field, read_jsonl
from memalpha_jax.episodes.reading import Asked, reading_episode
from memalpha_jax.episodes.source import EVALUATION, BuildOptions, Paths, Source
from memalpha_jax.errors import UserError


def load_squality(paths: Paths, options: BuildOptions) -> Iterator[Episode]:
    """One episode per story of `paths["stories"]`; `UserError` names file, line and field of a fault."""
    for record, where in read_jsonl(paths["stories"]):
        name = field(field(record, "metadata", dict, where), "passage_id", str, f"{where}, metadata")
        questions = enumerate(field(record, "questions", list, where))
        asked = [one for i, q in questions if (one := _asked(q, f"{where}, questions[{i}]"))]
        text = field(record, "document", str, where)
        episode = reading_episode(f"squality-{name}", "squality", text, asked, options)
        if episode is None:
            raise UserError(f"{where}: no question has an answer that shares a word with field 'document'")
        yield episode


def _asked(record: Any, where: str) -> Asked | None:
    """None where nobody answered."""
    text = field(record, "question_text", str, where).strip()
    responses = enumerate(field(record, "responses", list, where))
    answers = [field(r, "response_text", str, f"{where}.responses[{i}]").strip() for i, r in responses]
    told = "\n".join(answer for answer in answers if answer)
    return Asked(f"About the story that I read from {{first}} to {{last}}: {text}", told) if told and text else None


SOURCES = (
    Source(
        name="squality",
        role=EVALUATION,
        competence="long-range understanding",
        files={"stories": ("dev.jsonl", "train.jsonl", "test.jsonl")},
        where="github.com/nyu-mll/SQuALITY, folder data/v1-3/txt",
        licence="CC BY 4.0; stories of Project Gutenberg",
        load=load_squality,
    ),
)
