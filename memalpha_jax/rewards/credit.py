"""To which chunks of an episode the score of an answer is paid.

`episode`, the published way: every chunk of a trajectory is paid the mean score of all answers, so that a chunk is
also paid for what its neighbours did, which is noise in its advantage. `gain`: a chunk is paid for the answers that
became right with it, less those that became wrong (a difference reward: the scores from the memory after the chunk
less those from the memory before). Its mean over the chunks of an episode is the published r1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memalpha_jax.episodes.episode import Question

CREDITS = ("episode", "gain")


def has_one_source(question: Question) -> bool:
    """Whether one chunk is known to hold the whole answer; only then can a gain be told from a coincidence."""
    return len(question.evidence) == 1


def steps_asked(question: Question, chunks: int) -> range:
    """The steps after which `gain` needs the answer: from its evidence on, and always after the last one."""
    return range(question.evidence[0] if has_one_source(question) else chunks - 1, chunks)


def gains(questions: Sequence[Question], scores_QT: np.ndarray) -> np.ndarray:
    """float64[T]: what each of T chunks is paid for the answers of one trajectory.

    Args:
      scores_QT: the score of each question from the memory after each chunk, 0 before its evidence has come.

    A question without one source pays its final score to every chunk alike, as `episode` does.
    """
    Q, T = scores_QT.shape
    one_Q = np.array([has_one_source(question) for question in questions])
    gain_QT = np.diff(scores_QT, axis=1, prepend=0.0)
    return np.where(one_Q[:, None], T * gain_QT, scores_QT[:, -1:]).sum(axis=0) / Q
