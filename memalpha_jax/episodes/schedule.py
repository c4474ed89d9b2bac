"""Which episodes each step draws: sources by weight, short episodes first, every pass in another order."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import grain
import numpy as np

from memalpha_jax.episodes.episode import Episode
from memalpha_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Head:
    """What the schedule knows of an episode: its id, its data source, and its length in chunks."""

    instance_id: str
    source: str
    chunks: int


def heads_of(episodes: Iterable[Episode]) -> list[Head]:
    """One look at every episode, in order; they are not kept."""
    return [Head(episode.instance_id, episode.data_source, len(episode.chunks)) for episode in episodes]


def parse_weights(text: str) -> dict[str, Fraction]:
    """The weights of "squad=2,generated=0.5", by source, as exact numbers; none for an empty text.

    Raises:
      UserError: no NAME=NUMBER, a negative number, a name that comes twice, or nothing above 0.
    """
    weights: dict[str, Fraction] = {}
    for part in text.split(",") if text.strip() else []:
        name, _, number = (side.strip() for side in part.rpartition("="))
        try:
            weight = Fraction(number)
        except (ValueError, ZeroDivisionError):
            weight = Fraction(-1)
        if not name or weight < 0:
            raise UserError(f"weights has {part.strip()!r}; expected SOURCE=NUMBER,.. with numbers of at least 0")
        if name in weights:
            raise UserError(f"weights names {name!r} twice; give each source one weight")
        weights[name] = weight
    if weights and not any(weights.values()):
        raise UserError("weights are all 0; give at least one source more")
    return weights


class Schedule:
    """`schedule[step]`, for steps from 0 on, is the int64 array [B] of the distinct episodes that this step draws.

    It follows from the arguments alone, so any step can be asked for, by every process and thread. Without weights all
    episodes are one pool; with weights each source is one. A pool is gone through in passes, each in an order of its
    own under `seed`; what is left of a pass when it cannot fill its places in a batch is left out, so that no episode
    meets itself there (their random keys would be the same).

    Weights: of the first k draws, source s takes about k w_s / sum(w), and exactly so wherever the weights come out
    even: after sum(w) draws of whole numbers without a common divisor. (Smooth weighted round robin: a draw adds to
    every source its weight and takes from the chosen one, that with the most, the sum of all.)

    Curriculum: a pool's longest episode allowed grows evenly from its shortest, in step 0, to its longest, in step
    `curriculum_steps`; sooner where a batch would not be full. Lengths count chunks.
    """

    def __init__(
        self,
        heads: Sequence[Head],
        batch: int,
        seed: int,
        weights: Mapping[str, Fraction] | None = None,
        curriculum_steps: int = 0,
    ) -> None:
        """Raises UserError for too few episodes, sources without a weight, and weights without episodes."""
        if not 1 <= batch <= len(heads):
            raise UserError(f"a batch of {batch} episodes cannot be drawn from {len(heads)}; lower it or load more")
        weights = dict(weights or {})
        self._arguments = (heads, batch, seed, weights)
        self.batch, self.curriculum_steps = batch, curriculum_steps
        self.identity = {"num_episodes": len(heads), "batch": batch, "seed": seed, **_content(heads, weights)}
        self._pools, self._weights = _pools(heads, batch, seed, weights)
        self._credit = [0] * len(self._pools)
        self._drawn: list[np.ndarray] = []
        self._lock = threading.Lock()

    def with_curriculum(self, steps: int) -> Schedule:
        """The same with a curriculum of another length."""
        return Schedule(*self._arguments, curriculum_steps=steps)

    def __getitem__(self, step: int) -> np.ndarray:
        with self._lock:
            while len(self._drawn) <= step:
                self._drawn.append(self._draw(len(self._drawn)))
            return self._drawn[step]

    def _draw(self, step: int) -> np.ndarray:
        progress = min(Fraction(step, self.curriculum_steps), Fraction(1)) if self.curriculum_steps else Fraction(1)
        pool_B = np.array(self._deal())
        index_B = np.zeros(self.batch, np.int64)
        for p, pool in enumerate(self._pools):
            index_B[pool_B == p] = pool.take(int(np.sum(pool_B == p)), progress)
        index_B.flags.writeable = False  # it is handed out again
        return index_B

    def _deal(self) -> list[int]:
        """The pool of each place of the next batch."""
        total, dealt = sum(self._weights), []
        room = [len(pool) for pool in self._pools]
        for _ in range(self.batch):
            self._credit = [credit + weight for credit, weight in zip(self._credit, self._weights, strict=True)]
            chosen = max((p for p, left in enumerate(room) if left), key=self._credit.__getitem__)
            self._credit[chosen] -= total
            room[chosen] -= 1
            dealt.append(chosen)
        return dealt


class _Pool:
    """Episodes that are drawn from in passes."""

    def __init__(self, members: np.ndarray, chunks: np.ndarray, seed: int) -> None:
        """members: int64 indices of its episodes. chunks: their lengths."""
        self._members, self._chunks, self._sorted = members, chunks, np.sort(chunks)
        self._order = grain.MapDataset.range(len(members)).seed(seed).shuffle()
        self._passes = 0
        self._left = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._members)

    def take(self, count: int, progress: Fraction) -> np.ndarray:
        """The next `count` episodes, distinct, of those allowed at this progress of the curriculum, from 0 to 1."""
        if not count:
            return self._members[:0]
        shortest, longest = int(self._sorted[0]), int(self._sorted[-1])
        limit = max(shortest + math.floor(progress * (longest - shortest)), int(self._sorted[count - 1]))
        chosen = self._first(count, limit)
        if len(chosen) < count:
            start, n = self._passes * len(self), len(self)
            self._left = np.array([self._order[i] for i in range(start, start + n)])
            self._passes += 1
            chosen = self._first(count, limit)
        self._left = self._left[~np.isin(self._left, chosen)]
        return self._members[chosen]

    def _first(self, count: int, limit: int) -> np.ndarray:
        return self._left[self._chunks[self._left] <= limit][:count]


def _pools(
    heads: Sequence[Head], batch: int, seed: int, weights: Mapping[str, Fraction]
) -> tuple[list[_Pool], list[int]]:
    """The pools, and their weights as whole numbers without a common divisor."""
    chunks = np.array([head.chunks for head in heads])
    if not weights:
        return [_Pool(np.arange(len(heads)), chunks, seed)], [1]
    members: dict[str, list[int]] = {name: [] for name in sorted(weights)}
    for i, head in enumerate(heads):
        if head.source not in members:
            raise UserError(
                f"config.episodes.weights has no weight for source {head.source!r}; add {head.source}=NUMBER, or "
                f"{head.source}=0 to leave its episodes out"
            )
        members[head.source].append(i)
    total, pools, whole = sum(weights.values()), [], []
    for name, own in members.items():
        weight = weights[name]
        if weight and len(own) * total < batch * weight:
            raise UserError(
                f"a batch of {batch} takes {float(batch * weight / total):.3g} episodes of source {name!r} by "
                f"config.episodes.weights, and there are {len(own)}; lower its weight or config.grpo.episodes"
            )
        if weight:
            # From its name, so that the order of one source does not depend on what it is mixed with.
            own_seed = int(np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1)[0])
            pools.append(_Pool(np.array(own), chunks[own], own_seed))
            whole.append(weight)
    scale = Fraction(math.lcm(*(w.denominator for w in whole)), 1)
    numbers = [int(w * scale) for w in whole]
    return pools, [number // math.gcd(*numbers) for number in numbers]


def _content(heads: Sequence[Head], weights: Mapping[str, Fraction]) -> dict[str, Any]:
    rows = json.dumps([dataclasses.astuple(head) for head in heads]).encode()
    return {
        "weights": ",".join(f"{name}={weight}" for name, weight in sorted(weights.items())),
        "episodes": hashlib.sha256(rows).hexdigest(),
    }
