"""Multi-Session Chat: pairs of people who talk again after hours or days, and one question about each pair.

The chats themselves (ParlAI's `msc_dialogue/session_5/*.txt`; Xu et al. 2022, arXiv 2107.07567) ask nothing. Memory
benchmarks ask the question that MemGPT added to 500 of them (arXiv 2310.08560, "deep memory retrieval"): the file
`msc_self_instruct.jsonl` of huggingface.co/datasets/MemGPT/MSC-Self-Instruct, licence Apache-2.0. A line is one pair in
ParlAI's layout, `previous_dialogs` (four sessions, each a `dialog` of `{"text"}` by two speakers in turn and its
`time_back`, "7 days 8 hours ago") and `dialog` (the fifth session), with `self_instruct`, where B asks and A answers.

A pair has about 1,600 tokens, so five pairs make one episode of 25 sessions and five questions, as in UMA's
evaluation (arXiv 2602.18493, appendix D): 100 episodes. Speakers and questions name the pair, because otherwise
nothing would tell the speakers of two pairs apart. Personas and their summaries are not shown: they hold the answers.
The source marks no evidence.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from memalpha_jax.episodes.chunkers import Unit, session_chunker
from memalpha_jax.episodes.episode import Episode, Question, validate
from memalpha_jax.episodes.official import field, read_jsonl
from memalpha_jax.episodes.source import EVALUATION, BuildOptions, Paths, Published, Source
from memalpha_jax.errors import UserError

CHUNK_TOKENS = 2048
CLOSE_AT = 1800 / 2048  # a chunk closes between this share of its limit and the limit
PAIRS = 5  # in one episode


def load_msc(paths: Paths, options: BuildOptions) -> Iterator[Episode]:
    """Episodes of `PAIRS` pairs, the last one of those left, in the order of `paths["pairs"]`.

    UserError names file, line and field of a fault.
    """
    limit = options.chunk_tokens or CHUNK_TOKENS
    chunker = session_chunker(limit, options.count_tokens, int(limit * CLOSE_AT))
    records = read_jsonl(paths["pairs"])
    for number in itertools.count():
        pairs = list(itertools.islice(records, PAIRS))
        if not pairs:
            return
        units = [unit for i, (record, where) in enumerate(pairs, 1) for unit in _units(record, i, where)]
        questions = tuple(_question(record, i, where) for i, (record, where) in enumerate(pairs, 1))
        chunks = tuple(chunk.text for chunk in chunker(units))
        yield validate(Episode(f"msc-{number}", "msc", chunks, questions), f"{pairs[0][1]} and the lines after it")


def _units(record: dict[str, Any], pair: int, where: str) -> Iterator[Unit]:
    previous = field(record, "previous_dialogs", list, where)
    for i, session in enumerate(previous, 1):
        at = f"{where}, previous_dialogs[{i - 1}]"
        back = str(session.get("time_back") or "") if isinstance(session, dict) else ""
        before = f", {back.removesuffix('ago').strip()} before the last" if back else ""
        yield from _session(field(session, "dialog", list, at), f"session {i} of pair {pair}{before}", pair, at)
    last = f"session {len(previous) + 1} of pair {pair}, the last"
    yield from _session(field(record, "dialog", list, where), last, pair, where)


def _session(turns: Sequence[Any], when: str, pair: int, where: str) -> Iterator[Unit]:
    for i, turn in enumerate(turns):
        at = f"{where}, dialog[{i}]"
        # Only the last session says who speaks; everywhere the two take turns, and Speaker 1 begins.
        speaker = turn.get("id") if isinstance(turn, dict) else None
        role = f"{speaker or f'Speaker {i % 2 + 1}'} of pair {pair}"
        yield Unit(field(turn, "text", str, at), (when, i), when=when, role=role)


def _question(record: dict[str, Any], pair: int, where: str) -> Question:
    if "self_instruct" not in record:
        raise UserError(
            f"{where}: no field 'self_instruct'; the chats alone hold no questions, take msc_self_instruct.jsonl of "
            "MemGPT/MSC-Self-Instruct"
        )
    asked = field(record, "self_instruct", dict, where)
    at = f"{where}, self_instruct"
    question = f"One speaker of pair {pair} asks the other: {field(asked, 'B', str, at).strip()}"
    return Question(question, field(asked, "A", str, at).strip(), "deep_memory_retrieval")


SOURCES = (
    Source(
        name="msc",
        role=EVALUATION,
        competence="accurate retrieval",
        files={"pairs": ("msc_self_instruct.jsonl",)},
        where="huggingface.co/datasets/MemGPT/MSC-Self-Instruct",
        licence="Apache-2.0",
        load=load_msc,
        published=Published(episodes=100, questions=5.0),
    ),
)
