"""SQuAD episodes as they are trained on: wrapped chunks within the limit, whole paragraphs, golds in their evidence."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from memalpha_jax.episodes import squad
from memalpha_jax.episodes.source import BuildOptions
from memalpha_jax.errors import UserError

DATA = Path(__file__).parents[2] / "shared" / "data" / "squad" / "dev-v1.1.rebuilt.json"


def words(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


def paragraph(number: int, length: int, questions: int) -> dict:
    """Sentences that each name the paragraph, and questions about a word of its middle."""
    body = " ".join(f"Fact {number} number {i} is code{number}x{i}." for i in range(length))
    gold = f"code{number}x{length // 2}"
    asked = [
        {"question": f"what is {number}, {q}?", "answers": [{"text": gold}, {"text": "other"}]}
        for q in range(questions)
    ]
    return {"context": body, "qas": asked}


def write(path: Path, paragraphs: list[dict]) -> Path:
    path.write_text(json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]}))
    return path


def load(path: Path, **options):
    (source,) = squad.SOURCES
    return list(source.load({"questions": path}, BuildOptions(words, **options)))


def test_episodes_are_whole_paragraphs_in_wrapped_chunks(tmp_path):
    paragraphs = [paragraph(i, 10 + i % 30, 4) for i in range(200)]
    path = write(tmp_path / "train.json", paragraphs + paragraphs[:50])  # contexts that occur twice are read once
    episodes = load(path, chunk_tokens=500)
    assert episodes == load(path, chunk_tokens=500)
    assert episodes != load(path, chunk_tokens=500, seed=1)
    shown = "\n".join(chunk for episode in episodes for chunk in episode.chunks)
    assert all(shown.count(p["context"]) <= 1 for p in paragraphs)
    assert sum(p["context"] in shown for p in paragraphs) > 190  # a short last episode may be left out
    for episode in episodes:
        assert len(episode.chunks) <= 10
        assert all(words(chunk) <= 500 for chunk in episode.chunks)
        days = [re.match(r"\[Dialogue at timestamp 2024-01-(\d\d)\]\n<User>", chunk)[1] for chunk in episode.chunks]
        assert days == [f"{day + 1:02}" for day in range(len(days))]
        assert len(episode.questions) >= 30
        for question in episode.questions:
            assert question.answer.startswith("code")  # the first gold
            assert all(question.answer + "." in episode.chunks[t] for t in question.evidence)
            assert question.evidence


def test_a_paragraph_that_an_episode_would_cut_moves_on_whole(tmp_path):
    paragraphs = [paragraph(i, 40, 9) for i in range(60)]  # about 280 words, two or three chunks each
    options = {"chunk_tokens": 130, "count_tokens": words, "seed": 0}
    path = write(tmp_path / "long.json", paragraphs)
    episodes = squad.load_squad(path, chunks_per_episode=7, **options)
    for episode in episodes:
        text = " ".join(" ".join(episode.chunks).split())
        assert len(episode.chunks) <= 7
        for p in paragraphs:
            assert p["context"] in text or f"{p['context'][:8]}n" not in text
    assert sum(len(e.questions) for e in episodes) == 60 * 9
    # A paragraph longer than an episode cannot be asked about.
    one = write(tmp_path / "one.json", [paragraph(1, 200, 40), paragraph(2, 3, 1)])
    (episode,) = squad.load_squad(one, chunks_per_episode=3, **options)
    assert {q.question for q in episode.questions} == {"what is 2, 0?"}


def test_few_questions_make_no_episode(tmp_path):
    with pytest.raises(UserError, match="no episode with at least 30 questions"):
        load(write(tmp_path / "few.json", [paragraph(i, 10, 1) for i in range(29)]))


@pytest.mark.skipif(not DATA.exists(), reason=f"there is no {DATA}")
def test_real_files_come_close_to_the_published_shape():
    episodes = load(DATA)
    chunks = [words(chunk) for episode in episodes for chunk in episode.chunks]
    assert max(chunks) <= squad.CHUNK_TOKENS
    assert abs(sum(chunks) / len(chunks) - 1024) < 100
    assert sum(len(e.chunks) == 10 for e in episodes) >= len(episodes) - 1
    hold = [any(q.answer in e.chunks[t] for t in q.evidence) for e in episodes for q in e.questions]
    assert sum(hold) / len(hold) > 0.99
