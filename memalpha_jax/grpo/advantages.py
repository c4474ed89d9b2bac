"""Group-relative advantages: A = (R - mean of the group) / (std + 1e-6), over a choice of groups.

With the group's own std (DeepSeekMath, eq. 3) a group whose members differ by next to nothing weighs as much as one
that holds the difference between right and wrong. With the std of the whole batch it does not (arXiv 2508.08221).
"""

from __future__ import annotations

import numpy as np

from memalpha_jax.errors import UserError

GROUPINGS = ("episode", "chunk", "source")
SCALES = ("group", "batch")
EPSILON = 1e-6


def group_ids(grouping: str, episode_N: np.ndarray, source_N: np.ndarray, steps: int) -> np.ndarray:
    """Integer group [N, T] of every chunk step.

    `episode`: all trajectories and chunks of one episode together (the released code of the method).
    `chunk`: the trajectories of one episode at one chunk position. `source`: everything from one data source.
    """
    N, T = len(episode_N), steps
    if grouping == "episode":
        return np.broadcast_to(episode_N[:, None], (N, T))
    if grouping == "chunk":
        return episode_N[:, None] * T + np.arange(T)
    if grouping == "source":
        return np.broadcast_to(source_N[:, None], (N, T))
    raise UserError(f"grpo.grouping is {grouping!r}; known: {', '.join(GROUPINGS)}")


def group_advantages(
    reward_NT: np.ndarray, active_NT: np.ndarray, group_NT: np.ndarray, scale: str = "group"
) -> np.ndarray:
    """Advantages [N, T] float32, 0 where inactive.

    scale: which std divides the differences from the group's mean: the unbiased one of each group (a group of one
    row has advantage 0), or "batch", the root mean square of all those differences.
    """
    _, group = np.unique(group_NT, return_inverse=True)
    group, weight = group.reshape(-1), active_NT.reshape(-1).astype(np.float64)
    reward = np.where(active_NT, reward_NT, 0.0).reshape(-1).astype(np.float64)
    count = np.bincount(group, weight)
    mean = np.bincount(group, weight * reward) / np.maximum(count, 1)
    centred = weight * (reward - mean[group])
    if scale == "group":
        squares = np.bincount(group, centred**2)
        std = np.sqrt(squares / np.maximum(count - 1, 1))[group]
    elif scale == "batch":
        std = np.sqrt(np.sum(centred**2) / np.maximum(weight.sum(), 1))
    else:
        raise UserError(f"grpo.scale is {scale!r}; known: {', '.join(SCALES)}")
    return (centred / (std + EPSILON)).reshape(reward_NT.shape).astype(np.float32)
