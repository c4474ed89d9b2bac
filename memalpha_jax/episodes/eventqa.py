"""EventQA: a whole novel, and which of six events happens next after those that a question tells.

Files: MemoryAgentBench's `Accurate_Retrieval` parquet file, or the same rows as JSON; see `memory_agent_bench` for the
place and the columns; MIT, but the novels have rights of their own. Rows: `eventqa_full`, five novels of about half a
million tokens, and the first tokens of the same five, `eventqa_65536` and `eventqa_131072`; 15 episodes with 100
questions each. A question lists the events so far and six candidates; its gold is the text of the true one, in the
benchmark's words, not the novel's, and the file does not say where its evidence is: questions have none here.

The paper that we reproduce leaves it out. A novel is cut like its other long books, at sentences, to 2,048 tokens, as
dated reading events; MemoryAgentBench itself feeds 4,096 (`chunk_tokens`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from memalpha_jax.episodes.chunkers import Unit, sentence_chunker
from memalpha_jax.episodes.episode import Episode, Question, validate
from memalpha_jax.episodes.memory_agent_bench import BenchmarkRow, read_rows
from memalpha_jax.episodes.source import EVALUATION, BuildOptions, Paths, Published, Source
from memalpha_jax.episodes.wrapping import READING, Wrapper

CHUNK_TOKENS = 2048


def load_eventqa(path: str | os.PathLike[str], options: BuildOptions) -> Iterator[Episode]:
    """One episode for each row; `UserError` names the file, the row and the field that is not as expected."""
    for number, row in enumerate(read_rows(path, "eventqa")):
        yield _episode(row, number, options)


def _episode(row: BenchmarkRow, number: int, options: BuildOptions) -> Episode:
    wrapper = Wrapper(READING, options.count_tokens)
    cut = sentence_chunker(options.chunk_tokens or CHUNK_TOKENS, wrapper.count_tokens)
    parts = [chunk.text for chunk in cut([Unit(row.context)])]
    rng = np.random.default_rng((options.seed, number))
    chunks = tuple(wrapped.text for wrapped in wrapper.wrap(parts, rng))
    questions = tuple(Question(question, golds, "next_event") for question, golds in row.questions)
    return validate(Episode(f"{row.source}-{number}", "eventqa", chunks, questions, {"source": row.source}), row.where)


def _load(paths: Paths, options: BuildOptions) -> Iterator[Episode]:
    return load_eventqa(paths["rows"], options)


SOURCES = (
    Source(
        name="eventqa",
        role=EVALUATION,
        competence="accurate retrieval",
        files={"rows": ("Accurate_Retrieval*.parquet", "eventqa*.jsonl", "eventqa*.json")},
        where="https://huggingface.co/datasets/ai-hyz/MemoryAgentBench",
        licence="MIT; the novels have rights of their own",
        load=_load,
        published=Published(episodes=15, questions=100),
    ),
)
