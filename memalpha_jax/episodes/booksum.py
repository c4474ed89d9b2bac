"""BookSum: chapters of novels, plays and stories, each read over some days and then summarised.

Official files: `chapters/train.jsonl` (193 MB) and `chapters/test.jsonl` of
huggingface.co/datasets/ubaada/booksum-complete-cleaned, the form of BookSum (arXiv 2105.08209, code BSD-3-Clause, books
from Project Gutenberg) that the paper took, both of them. A line is one chapter: `bid`, `book_title`, `chapter_id`,
`text`, `summary` (a list of `{"source", "text", "analysis"}`, one for each site that summarises it) and `is_aggregate`.

One episode per chapter, with one question for its keywords; those of 5 to 20 chunks are kept, 1,542 by the paper's
count. As in the paper the first summary counts. Chapters without a summary are left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from memalpha_jax.episodes.episode import Episode
from memalpha_jax.episodes.official import field, read_jsonl
from memalpha_jax.episodes.reading import WHOLE_TEXT, Asked, reading_episode
from memalpha_jax.episodes.source import TRAINING, BuildOptions, Paths, Published, Source
from memalpha_jax.errors import UserError

MIN_CHUNKS, MAX_CHUNKS = 5, 20


def load_booksum(paths: Paths, options: BuildOptions) -> Iterator[Episode]:
    """Episodes of the chapters of `paths["train"]` and, where it is given, `paths["test"]`.

    UserError names file, line and field of a fault, and says so where no chapter gives an episode.
    """
    found = False
    files = [paths[name] for name in ("train", "test") if name in paths]
    for number, (record, where) in enumerate(itertools.chain.from_iterable(map(read_jsonl, files))):
        title, text = field(record, "book_title", str, where), field(record, "text", str, where)
        summary = _first_summary(field(record, "summary", list, where), where)
        if not text.strip() or not summary:
            continue
        asked = [Asked(WHOLE_TEXT, summary)]
        about = {"book_title": title, "chapter_id": str(record.get("chapter_id"))}
        episode = reading_episode(f"booksum-{number}", "booksum", text, asked, options, about, MAX_CHUNKS)
        if episode is not None and len(episode.chunks) >= MIN_CHUNKS:
            found = True
            yield episode
    if not found:
        raise UserError(
            f"{paths['train']} holds no chapter of {MIN_CHUNKS} to {MAX_CHUNKS} chunks with a summary that shares "
            "words with it"
        )


def _first_summary(summaries: list[Any], where: str) -> str:
    texts = (field(summary, "text", str, f"{where}, summary[{i}]").strip() for i, summary in enumerate(summaries))
    return next((text for text in texts if text), "")


SOURCES = (
    Source(
        name="booksum",
        role=TRAINING,
        competence="long-range understanding",
        files={"train": ("chapters/train.jsonl", "train.jsonl"), "test": ("chapters/test.jsonl", "test.jsonl")},
        where="huggingface.co/datasets/ubaada/booksum-complete-cleaned, folder chapters",
        licence="BSD-3-Clause; books of Project Gutenberg",
        load=load_booksum,
        published=Published(episodes=1542, chunks=8.0, chunk_tokens=1915.8, questions=1.0),
        optional=frozenset({"test"}),
    ),
)
