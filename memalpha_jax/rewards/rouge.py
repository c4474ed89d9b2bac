"""ROUGE-L of summaries, beside the score of their source: what their own papers report."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from memalpha_jax.episodes.episode import Episode, Question
from memalpha_jax.rewards.metrics import find_source, strip_thinking

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer


def references(episode: Episode, question: Question) -> list[str]:
    """What people wrote for answers to a question of a summary source; none of other sources."""
    text = str(episode.metadata.get("long_answers", {}).get(question.question, ""))
    found = text.split("\n") if find_source(episode.data_source) == "squality" else [text]  # several people answered
    return [one for one in found if one.strip()]


def rouge_l(answer: str, reference_texts: Sequence[str]) -> float:
    """The longest common subsequence of stemmed words, as an F1 in [0, 1]; the best of the references.

    ROUGE-L of Lin, "ROUGE: A Package for Automatic Evaluation of Summaries" (2004), section 3.1, by the `rouge_score`
    library. Thinking is no part of an answer.
    """
    return float(_scorer().score_multi(list(reference_texts), strip_thinking(answer))["rougeL"].fmeasure)


@functools.cache
def _scorer() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer  # which takes most of a second, and few sources ask for it

    return RougeScorer(["rougeL"], use_stemmer=True)
