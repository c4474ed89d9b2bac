"""Group-relative advantages: A = (R - mean) / (std + 1e-6) over a choice of groups (DeepSeekMath, eq. 3)."""

from __future__ import annotations

import numpy as np

from memalpha_jax.errors import UserError

GROUPINGS = ("episode", "chunk", "source")
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


def group_advantages(reward_NT: np.ndarray, active_NT: np.ndarray, group_NT: np.ndarray) -> np.ndarray:
    """Advantages [N, T] float32, 0 where inactive. std is unbiased; a group of one row has advantage 0."""
    _, group = np.unique(group_NT, return_inverse=True)
    group, weight = group.reshape(-1), active_NT.reshape(-1).astype(np.float64)
    reward = np.where(active_NT, reward_NT, 0.0).reshape(-1).astype(np.float64)
    count = np.bincount(group, weight)
    mean = np.bincount(group, weight * reward) / np.maximum(count, 1)
    squares = np.bincount(group, weight * (reward - mean[group]) ** 2)
    std = np.sqrt(squares / np.maximum(count - 1, 1))
    advantage = weight * (reward - mean[group]) / (std[group] + EPSILON)
    return advantage.reshape(reward_NT.shape).astype(np.float32)
