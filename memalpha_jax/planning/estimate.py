"""Bytes per device of the two phases of a step, from shapes: what is held throughout, and what a phase needs besides.

Held are sizes of arrays divided by the sharding rules. What a phase needs besides is the peak of live bytes of the
real step, traced with the sizes that one device has (`liveness.py`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from memalpha_jax.experiment import Config
from memalpha_jax.planning.abstract import Layout, abstract_arguments, layout
from memalpha_jax.planning.liveness import nbytes
from memalpha_jax.planning.steps import traced_rollout, traced_update
from memalpha_jax.planning.topologies import Topology
from memalpha_jax.policy.attention import fused
from memalpha_jax.policy.config import PolicyConfig
from memalpha_jax.policy.model import cache_bytes
from memalpha_jax.policy.sharding import tree_shardings

ROLLOUT, UPDATE = "rollout", "update"
MANY_ROWS = 64
"""So many that activations outweigh gradients."""


@dataclasses.dataclass(frozen=True)
class Phase:
    """Attributes:
    name: "rollout" or "update". parts: bytes per device by name, in the order of printing.
    rows: rows per device that they hold for. rows_key: where these rows are set.
    not_given: bytes held besides what the compiled step is given and makes: it is not given what it does not read.
    """

    name: str
    parts: dict[str, int]
    rows: int
    rows_key: str
    not_given: int

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclasses.dataclass(frozen=True)
class Estimator:
    """Estimates for one run on one machine; `policy` is that of the config with its vocabulary known."""

    config: Config
    policy: PolicyConfig
    topology: Topology

    @property
    def layout(self) -> Layout:
        return layout(self.config, self.topology.devices)

    def phase(self, name: str, rows: int = 0) -> Phase:
        """The bytes of a phase with so many rows per device; 0 takes those of the config."""
        return (self.rollout if name == ROLLOUT else self.update)(rows)

    @functools.cached_property
    def _floor(self) -> int:
        """Live bytes of an update of next to no tokens: gradients, and the copy that is computed with."""
        mini = self.config.grpo.minibatches
        local = dataclasses.replace(self._local(), attention="xla")
        return traced_update(_with_rows(_single_token(self.config), mini, 1), local, mini, self._widened)

    def rollout(self, rows: int = 0) -> Phase:
        """`rows` trajectories of one device are rolled out at a time; those of the whole step are kept."""
        own, c, local = self.layout, self.policy, self._local()
        rows = rows or own.rollout_rows
        a = abstract_arguments(self.config, c, own.rows)
        at_once = abstract_arguments(self.config, c, rows)
        slots = self.config.rollout.prompt_tokens + self.config.rollout.reply_tokens
        cache = cache_bytes(local, rows * slots, jnp.dtype(local.dtype).itemsize)
        peak = traced_rollout(_in_one_part(self.config), local, rows, self._widened)
        copied = {} if c.dtype == "float32" else {name: a.params[name] for name in a.state.params}
        # While several are rolled out in turn, a part is held besides what the parts become.
        whole = nbytes((a.trajectory, a.episodes)) if rows < own.rows else 0
        part = nbytes(at_once.episodes)
        parts = {
            **self._held(a),
            "compute copy": self._sharded(copied),
            "KV cache": cache,
            "trajectories": whole + part + nbytes(at_once.trajectory),
            "activations": max(peak - cache - nbytes(at_once.trajectory), 0),
            **self._gathered_for_replies(a),
        }
        masters = self._sharded(a.state.params) if copied else 0
        reference = 0 if a.base else self._sharded(a.reference or {})
        not_given = parts["optimizer"] + masters + reference + whole
        return Phase(ROLLOUT, parts, rows, "rollout.rows over mesh.data x mesh.fsdp", not_given)

    def update(self, rows: int = 0) -> Phase:
        """`rows` rows go through one forward and backward pass at a time."""
        own = self.layout
        rows = rows or own.block_rows
        a = abstract_arguments(self.config, self.policy, own.rows)
        activations = max(self._update_peak(rows) - self._floor, 0)
        if own.fsdp > 1:  # gradients are sliced and activations are not, so these alone may make the peak
            per_row = (self._update_peak(2 * MANY_ROWS) - self._update_peak(MANY_ROWS)) // MANY_ROWS
            activations = max(activations, rows * per_row)
        layer = self._layer(a) if own.fsdp > 1 else 0  # in use, and counted as gathered
        whole = nbytes(a.state.params)
        parts = {
            **self._held(a),
            "gradients": max(self._floor - layer, whole) * self._sharded(a.state.params) // whole * own.tensor,
            "trajectories": nbytes((a.trajectory, a.advantage_NT)),
            "activations": activations,
            **self._gathered(a),
        }
        if self.topology.platform == "cpu":
            parts |= self._replaced(a, parts)
        return Phase(UPDATE, parts, rows, "grpo.block_rows over mesh.data x mesh.fsdp", 0)

    def _replaced(self, a: Any, parts: dict[str, int]) -> dict[str, int]:
        """By what the step of the optimizer needs more than the blocks before it, where it does.

        It holds the sum of gradients, and, since the old ones are read until the end, new parameters and moments.
        """
        needed = self._sharded(a.state.params) * 2 + self._sharded(a.state.opt_state)
        more = needed - sum(parts.get(name, 0) for name in ("gradients", "activations", "gathered weights"))
        return {"new state": more} if more > 0 else {}

    def _update_peak(self, rows: int) -> int:
        """Live bytes of an update in blocks of so many rows, besides its arguments."""
        mini = self.config.grpo.minibatches
        blocks = -(-self.layout.rows // (mini * rows))
        config = _with_rows(self.config, mini * blocks * rows, rows)
        return traced_update(config, self._local(), mini * blocks * rows, self._widened)

    def largest_rows(self, name: str) -> int:
        """Most rows per device, of those that there are, with which a phase fits; 0 where not even one does."""
        own = self.layout
        most = own.rows if name == ROLLOUT else own.rows // self.config.grpo.minibatches
        return _largest(lambda rows: self.phase(name, rows).total, self.topology.usable_bytes, most)

    def _held(self, a: Any) -> dict[str, int]:
        frozen = a.base or a.reference or {}  # with adapters the reference is the base
        return {
            "weights": self._sharded(a.state.params),
            **({"frozen weights": self._sharded(frozen)} if frozen else {}),
            "optimizer": self._sharded(a.state.opt_state),
        }

    def _gathered(self, a: Any) -> dict[str, int]:
        """Slices of weights put together: a layer or the embedding, and, where copies run ahead, the next layer."""
        if self.layout.fsdp == 1:
            return {}
        layer, embed = self._layer(a), nbytes(_tables(a.params)) // self.layout.tensor
        return {"gathered weights": max(layer, embed) + self._ahead(a)}

    def _ahead(self, a: Any) -> int:
        return 0 if self.topology.platform == "cpu" else self._layer(a)

    def _gathered_for_replies(self, a: Any) -> dict[str, int]:
        """All weights, before a reply is begun, since the loop over its tokens does not change them.

        Prompts gather for themselves, a matrix at a time: without a backward pass none is needed again.
        """
        if self.layout.fsdp == 1:
            return {}
        tables = _tables(a.params)
        matrix = max(nbytes(x) for name, x in a.params.items() if name not in tables) // self.policy.layers
        for_prompts = max(matrix, nbytes(tables)) // self.layout.tensor + self._ahead(a)
        return {"gathered weights": nbytes(a.params) // self.layout.tensor + for_prompts}

    def _layer(self, a: Any) -> int:
        """One layer of weights, whole but for what tensor divides."""
        return (nbytes(a.params) - nbytes(_tables(a.params))) // self.policy.layers // self.layout.tensor

    def _sharded(self, tree: Any) -> int:
        """Bytes of one device's part of parameters or optimizer state."""
        own = self.layout
        mesh = AbstractMesh((own.data, own.fsdp, own.tensor), ("data", "fsdp", "tensor"))
        parts = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(sharding.shard_shape(leaf.shape), leaf.dtype),
            tree,
            tree_shardings(tree, mesh),
        )
        return nbytes(parts)

    def _local(self) -> PolicyConfig:
        """The network that one device computes: its part of the heads and hidden units, and the kernel that it has."""
        c, tensor = self.policy, self.layout.tensor
        part = lambda size: size // tensor if size % tensor == 0 else size
        local = dataclasses.replace(
            c,
            vocab_size=part(c.vocab_size),
            heads=part(c.heads),
            kv_heads=part(c.kv_heads),
            ff=part(c.ff),
            attention="splash" if self.has_fused_attention() else "xla",
        )
        # The compiler of a CPU merges what an unrolled loop computes twice.
        merged = self.topology.platform == "cpu" and not c.scan_layers
        return dataclasses.replace(local, remat="none") if merged else local

    @property
    def _widened(self) -> bool:
        """A CPU computes products of bfloat16 in float32."""
        return self.topology.platform == "cpu"

    def has_fused_attention(self) -> bool:
        """Whether both steps use a kernel that never holds all scores; UserError for one that cannot be."""
        c, top = self.policy, self.topology
        able = top.fused_attention or top.platform != "gpu"
        return able and fused(c.attention, c.head_dim, c.dtype, top.platform) != "xla"


def _tables(params: dict[str, Any]) -> dict[str, Any]:
    """The embedding and the output matrix."""
    return {name: value for name, value in params.items() if name in ("embed", "head")}


def _with_rows(config: Config, trajectories: int, block_rows: int) -> Config:
    # The widest bucket takes most, and each is traced.
    grpo = dataclasses.replace(config.grpo, episodes=trajectories, group=1, block_rows=block_rows, buckets=1)
    return dataclasses.replace(_in_one_part(config), grpo=grpo)


def _in_one_part(config: Config) -> Config:
    """The same for all divisions into rows, on which a part that is rolled out alone does not depend."""
    rollout, grpo = dataclasses.replace(config.rollout, rows=0), dataclasses.replace(config.grpo, block_rows=0)
    return dataclasses.replace(config, rollout=rollout, grpo=grpo)


def _single_token(config: Config) -> Config:
    """A batch of next to nothing, which leaves what belongs to the parameters."""
    rollout = dataclasses.replace(config.rollout, prompt_tokens=1, reply_tokens=1, max_calls=1)
    grpo = dataclasses.replace(config.grpo, logprob_slice=0, buckets=1)
    episodes = dataclasses.replace(config.episodes, chunks=1)
    return dataclasses.replace(config, rollout=rollout, grpo=grpo, episodes=episodes)


def _largest(total: Callable[[int], int], limit: int, most: int) -> int:
    """Most rows, up to `most`, whose total is within the limit; totals grow with rows, and are not cheap."""
    total = functools.lru_cache(None)(total)
    if total(most) <= limit:
        return most
    if total(1) > limit:
        return 0
    low, high = 1, most
    while high - low > 1:
        share = (limit - total(low)) / (total(high) - total(low))
        middle = min(max(low + int(share * (high - low)), low + 1), high - 1)
        low, high = (middle, high) if total(middle) <= limit else (low, middle)
    return low
