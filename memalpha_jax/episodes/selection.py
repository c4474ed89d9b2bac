"""Which episodes are learned from and which are kept back."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np


def _rng(seed: int, what: str, name: str) -> np.random.Generator:
    """One stream for each purpose and source, so that a source's episodes do not depend on the other sources."""
    return np.random.default_rng([seed, zlib.crc32(f"{what} {name}".encode("utf-8", "replace"))])


def hold_out(group_of: Sequence[int] | np.ndarray, share: float, seed: int, name: str) -> np.ndarray:
    """bool [episodes]: those kept back, whole groups, drawn at random, about `share` of all and of two at least one.

    Groups are taken in random order wherever that brings the number nearer to what is wanted, so it may be missed where
    groups are large: nothing is kept back if all episodes are one group.
    """
    group_of = np.asarray(group_of)
    held = np.zeros(len(group_of), bool)
    missing = max(1, round(share * len(group_of))) if share and len(group_of) > 1 else 0
    numbers, sizes = np.unique(group_of, return_counts=True)
    for i in _rng(seed, "held out", name).permutation(len(numbers)):
        if abs(missing - int(sizes[i])) < missing and held.sum() + sizes[i] < len(group_of):
            held |= group_of == numbers[i]
            missing -= int(sizes[i])
    return held


def sample_strata(stratum_of: Sequence[str], limit: int, seed: int) -> np.ndarray:
    """int64 [chosen]: at most `limit` indices of each stratum, drawn at random, in ascending order; 0 takes all."""
    strata = np.asarray(stratum_of, dtype=object)
    chosen = []
    for name in sorted(set(stratum_of)):
        places = np.flatnonzero(strata == name)
        if limit and len(places) > limit:
            places = _rng(seed, "sample", name).choice(places, limit, replace=False)
        chosen.append(places)
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)
