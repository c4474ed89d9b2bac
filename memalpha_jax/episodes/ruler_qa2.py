"""RULER QA2: HotpotQA paragraphs in one stream of 421,000 tokens, questions that need two of them each.

Files: https://hotpotqa.github.io, `hotpot_dev_distractor_v1.json` (as RULER takes it; 7,405 questions, 10 paragraphs
with each), or a file in the IRCoT layout; CC BY-SA 4.0; see `hotpotqa` for both layouts. The paragraphs of all
questions are the documents, gold or not. Where they are too few for the length, the passages of a second file fill it
up: a JSON list of {`title`, `text`}, such as the 2WikiMultihopQA corpus (6,119 passages, Apache-2.0); the episode's
metadata count them. One episode, like MemoryAgentBench's `ruler_qa2_421K`; `stream_tokens` sets another length. The
published episode is one draw, ours another: its documents and questions are not the same ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from memalpha_jax.episodes.document_stream import read_passages, stream_episode
from memalpha_jax.episodes.episode import Episode
from memalpha_jax.episodes.hotpotqa import read_hotpotqa
from memalpha_jax.episodes.source import EVALUATION, BuildOptions, Paths, Published, Source
from memalpha_jax.errors import UserError

STREAM_TOKENS = 421_000


def load_ruler_qa2(
    path: str | os.PathLike[str], options: BuildOptions, distractors: str | os.PathLike[str] | None = None
) -> Iterator[Episode]:
    """The one episode; `distractors` is the file of further passages.

    `UserError` names the file and the field that is not as expected, or the tokens that are lacking.
    """
    records = list(read_hotpotqa(path))
    asked = [record.asked for record in records if record.asked]
    if not asked:
        raise UserError(f"{path}: no question has all its supporting articles in its context")
    yield stream_episode(
        asked,
        (document for record in records for document in record.documents),
        () if distractors is None else read_passages(distractors),
        source="ruler_qa2",
        stream_tokens=options.stream_tokens or STREAM_TOKENS,
        options=options,
    )


def _load(paths: Paths, options: BuildOptions) -> Iterator[Episode]:
    return load_ruler_qa2(paths["questions"], options, paths.get("distractors"))


SOURCES = (
    Source(
        name="ruler_qa2",
        role=EVALUATION,
        competence="accurate retrieval",
        files={
            "questions": ("hotpot_dev_distractor_v1.json", "ircot_*.jsonl"),
            "distractors": ("2wikimultihopqa_corpus.json",),
        },
        where="https://hotpotqa.github.io",
        licence="CC BY-SA 4.0",
        load=_load,
        published=Published(episodes=1, questions=100),
        optional=frozenset({"distractors"}),
    ),
)
