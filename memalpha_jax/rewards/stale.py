"""Which calls store a correction and leave what it corrects in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from memalpha_jax.episodes.episode import Episode
from memalpha_jax.episodes.generated import has_sentences, sentences
from memalpha_jax.memory.state import MemoryType
from memalpha_jax.tools.calls import SUCCESSES, CallKind

Revisions = Mapping[str, str]
"""Of every text that corrects another: the one it makes stale."""


def revisions(episode: Episode) -> Revisions:
    """What the episode's generator recorded; nothing is known about episodes from files."""
    if not has_sentences(episode):
        return {}
    lines = sentences(episode)
    return {
        line.text: lines[line.corrects[0]][line.corrects[1]].text
        for chunk in lines
        for line in chunk
        if line.corrects is not None
    }


def beside_stale(
    kind_NTK: np.ndarray,
    memory_type_NTK: np.ndarray,
    item_id_NTK: np.ndarray,
    status_NTK: np.ndarray,
    texts: Sequence[Sequence[Sequence[str]]],
    revisions_N: Sequence[Revisions],
) -> np.ndarray:
    """bool[N, T, K]: calls that wrote a correction into a list and left an item with a stale text in memory.

    Only exact copies of the corrected and the correcting sentence are recognised. `texts[n][t][k]` is the text of
    call k; ids count the successful inserts of a trajectory from 1.
    """
    success_NTK = np.isin(status_NTK, SUCCESSES) & (memory_type_NTK != MemoryType.CORE)
    beside_NTK = np.zeros(status_NTK.shape, bool)
    kind_ntk, item_id_ntk = kind_NTK.tolist(), item_id_NTK.tolist()  # lists are faster to look at one by one
    for n, revised in enumerate(revisions_N):
        stored, next_id = dict[int, str](), 1
        for t, k in np.argwhere(success_NTK[n]).tolist():
            kind, item_id, text = kind_ntk[n][t][k], item_id_ntk[n][t][k], texts[n][t][k]
            if kind == CallKind.DELETE:
                stored.pop(item_id, None)
                continue
            if kind == CallKind.INSERT:
                item_id, next_id = next_id, next_id + 1
            stored[item_id] = text
            beside_NTK[n, t, k] = revised.get(text) in stored.values()
    return beside_NTK
