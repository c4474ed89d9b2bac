"""LoCoMo in its official JSON layout: one long-running conversation of two people per episode.

Official file: `locomo10.json` of github.com/snap-research/locomo, folder data (arXiv 2402.17753); CC BY-NC 4.0. It is
a list of ten records with `sample_id`, `conversation` (`session_N`, turns with `speaker`, `dia_id` and `text`, and
`session_N_date_time`) and `qa` (`question`, `answer`, `category`, and `evidence`, the `dia_id` of turns). Ten
episodes; of their 1,986 questions the 1,540 with an answer are asked, at most 100 of a conversation.
"""

from __future__ import annotations

import os
import re
from typing import Any

from memalpha_jax.episodes.chunkers import Chunk, CountTokens, Unit, session_chunker
from memalpha_jax.episodes.episode import Episode, Question, validate
from memalpha_jax.episodes.official import field, read_json, typed
from memalpha_jax.episodes.source import EVALUATION, Published, Source
from memalpha_jax.errors import UserError

CATEGORIES = {1: "multi_hop", 2: "temporal", 3: "open_domain", 4: "single_hop"}
ADVERSARIAL = 5  # asks about things never said; it has no gold answer


def load_locomo(path: str | os.PathLike[str], *, chunk_tokens: int, count_tokens: CountTokens) -> list[Episode]:
    """One episode per conversation: sessions in order, turns packed whole into chunks of `chunk_tokens`.

    Shared pictures appear as their captions. Questions of the adversarial category are left out; `kind` names
    the category. `UserError` names the file and the field that is not as expected.
    """
    records = typed(read_json(path), list, str(path))
    if not records:
        raise UserError(f"{path} holds no conversations")
    return [_episode(record, f"{path}, [{i}]", chunk_tokens, count_tokens) for i, record in enumerate(records)]


def _episode(record: Any, where: str, chunk_tokens: int, count_tokens: CountTokens) -> Episode:
    turns = _turns(field(record, "conversation", dict, where), f"{where}.conversation")
    chunks = session_chunker(chunk_tokens, count_tokens, chunk_tokens)(turns)
    questions = [
        question
        for i, qa in enumerate(field(record, "qa", list, where))
        if (question := _question(qa, f"{where}.qa[{i}]", chunks))
    ]
    name = field(record, "sample_id", str, where)
    return validate(Episode(name, "locomo", tuple(c.text for c in chunks), tuple(questions)), where)


def _turns(conversation: dict[str, Any], where: str) -> list[Unit]:
    turns = []
    for number in sorted(int(m[1]) for key in conversation if (m := re.fullmatch(r"session_(\d+)", key))):
        session = f"session_{number}"
        when = " ".join(field(conversation, f"{session}_date_time", str, where).split())
        for i, turn in enumerate(field(conversation, session, list, where)):
            at = f"{where}.{session}[{i}]"
            text = field(turn, "text", str, at)
            if turn.get("blip_caption"):
                text += f" [shares a picture: {field(turn, 'blip_caption', str, at)}]"
            speaker = field(turn, "speaker", str, at)
            turns.append(Unit(text, key=field(turn, "dia_id", str, at), when=when, role=speaker))
    return turns


def _question(record: Any, where: str, chunks: list[Chunk]) -> Question | None:
    category = typed(record, dict, where).get("category")
    if category == ADVERSARIAL:
        return None
    if category not in CATEGORIES:
        raise UserError(f"{where}, field 'category' is {category!r}, expected a number from 1 to {ADVERSARIAL}")
    answer = record.get("answer")
    answer = str(answer) if type(answer) in (int, float) else field(record, "answer", str, where)
    # Some records join several turns in one string, "D8:6; D9:17".
    turns = set(re.findall(r"D\d+:\d+", " ".join(map(str, field(record, "evidence", list, where)))))
    evidence = tuple(t for t, chunk in enumerate(chunks) if turns & set(chunk.keys))
    return Question(field(record, "question", str, where), answer, CATEGORIES[category], evidence)


SOURCES = (
    Source(
        name="locomo",
        role=EVALUATION,
        competence="accurate retrieval",
        files={"conversations": ("locomo10.json", "locomo*.json")},
        where="github.com/snap-research/locomo, folder data",
        licence="CC BY-NC 4.0",
        load=lambda paths, options: iter(
            load_locomo(
                paths["conversations"],
                chunk_tokens=options.chunk_tokens or 2048,
                count_tokens=options.count_tokens,
            )
        ),
        published=Published(episodes=10, questions=154.0),
    ),
)
