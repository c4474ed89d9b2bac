"""Which calls misplace a text: a correction beside what it corrects, any text over what it does not correct."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from memalpha_jax.episodes.episode import Episode
from memalpha_jax.episodes.generated import has_sentences, sentences
from memalpha_jax.memory.state import MemoryType
from memalpha_jax.tools.calls import SUCCESSES, CallKind

Revisions = Mapping[str, str | None]
"""Of every sentence of an episode: the one it makes stale, if any."""


def revisions(episode: Episode) -> Revisions:
    """What the episode's generator recorded; nothing is known about episodes from files."""
    if not has_sentences(episode):
        return {}
    lines = sentences(episode)
    return {
        line.text: None if line.corrects is None else lines[line.corrects[0]][line.corrects[1]].text
        for chunk in lines
        for line in chunk
    }


def misplaced(
    kind_NTK: np.ndarray,
    memory_type_NTK: np.ndarray,
    item_id_NTK: np.ndarray,
    status_NTK: np.ndarray,
    texts: Sequence[Sequence[Sequence[str]]],
    revisions_N: Sequence[Revisions],
) -> tuple[np.ndarray, np.ndarray]:
    """Two bool[N, T, K]: calls that stored a correction and left an item with the stale text in memory, and updates
    of an item whose text the new one does not correct.

    Only exact copies of sentences are recognised. `texts[n][t][k]` is the text of call k; ids count the successful
    inserts of a trajectory from 1.
    """
    success_NTK = np.isin(status_NTK, SUCCESSES) & (memory_type_NTK != MemoryType.CORE)
    beside_NTK, over_NTK = np.zeros(status_NTK.shape, bool), np.zeros(status_NTK.shape, bool)
    for n, revised in enumerate(revisions_N):
        stored, next_id = dict[int, str](), 1
        for t, k in np.argwhere(success_NTK[n]).tolist():
            kind, item_id, text = kind_NTK[n, t, k], int(item_id_NTK[n, t, k]), texts[n][t][k]
            if kind == CallKind.DELETE:
                stored.pop(item_id, None)
                continue
            if kind == CallKind.INSERT:
                item_id, next_id = next_id, next_id + 1
            else:
                over_NTK[n, t, k] = text in revised and stored[item_id] != revised[text]
            stored[item_id] = text
            beside_NTK[n, t, k] = revised.get(text) in stored.values()
    return beside_NTK, over_NTK
