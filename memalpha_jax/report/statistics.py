"""Bootstrap intervals, over episodes or, for few long episodes, over the questions within each.

Questions of one episode share a memory, so an interval over episodes says how other episodes would have gone, and one
over questions how other questions about the same ones would have.

Axes: E episodes, S resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean with the ends of its 95 % percentile bootstrap interval."""

    mean: float
    low: float
    high: float


def bootstrap_ratio(total_E: ArrayLike, count_E: ArrayLike, resamples: int = 2000, seed: int = 0) -> Estimate:
    """sum(total) / sum(count) with its interval over episodes.

    With counts of 1 it is a plain mean over episodes; with sums and numbers of questions it is the mean over
    questions, resampled by episode. Resamples in which nothing is counted are left out.

    Args:
      total_E, count_E: finite numbers, the counts not all zero.

    Raises:
      ValueError: nothing is counted.
    """
    total, count = np.asarray(total_E, np.float64), np.asarray(count_E, np.float64)
    if total.shape != count.shape or count.sum() <= 0:
        raise ValueError("a mean needs one total per count, and something counted")
    rng = np.random.default_rng(seed)
    drawn_SE = rng.integers(len(total), size=(resamples, len(total)))
    sums_S, counts_S = total[drawn_SE].sum(1), count[drawn_SE].sum(1)
    means_S = sums_S[counts_S > 0] / counts_S[counts_S > 0]
    low, high = np.quantile(means_S, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(total.sum() / count.sum()), float(low), float(high))


def bootstrap_mean(value_E: ArrayLike, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Mean over episodes with its interval."""
    return bootstrap_ratio(value_E, np.ones(np.shape(value_E)), resamples, seed)


def paired_difference(one_E: ArrayLike, other_E: ArrayLike, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Mean of one - other over the same episodes, in the same order, with its interval."""
    return bootstrap_mean(np.asarray(one_E, np.float64) - np.asarray(other_E, np.float64), resamples, seed)


def independent_difference(one_E: ArrayLike, other_F: ArrayLike, resamples: int = 2000, seed: int = 0) -> Estimate:
    """mean(one) - mean(other) for two different sets of episodes, with its interval."""
    rng = np.random.default_rng(seed)
    means = []
    for values in (np.asarray(one_E, np.float64), np.asarray(other_F, np.float64)):
        means.append(values[rng.integers(len(values), size=(resamples, len(values)))].mean(1))
    low, high = np.quantile(means[0] - means[1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    mean = np.asarray(one_E, np.float64).mean() - np.asarray(other_F, np.float64).mean()
    return Estimate(float(mean), float(low), float(high))


def question_interval(
    values_EQ: Sequence[Sequence[float | None]], resamples: int = 2000, seed: int = 0
) -> Estimate | None:
    """Mean over episodes of the mean over questions, with its interval over the questions of each episode.

    None stands for a question without a result and is left out; so is an episode without any. None is returned where
    nothing is left.
    """
    rng = np.random.default_rng(seed)
    kept = [[value for value in own if value is not None] for own in values_EQ]
    arrays = [np.asarray(own, np.float64) for own in kept if own]
    if not arrays:
        return None
    drawn_S = np.zeros(resamples)
    for own in arrays:
        drawn_S += own[rng.integers(len(own), size=(resamples, len(own)))].mean(1) / len(arrays)
    low, high = np.quantile(drawn_S, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(np.mean([own.mean() for own in arrays])), float(low), float(high))
