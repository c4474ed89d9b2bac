"""The one table of sharding rules, and the mesh it refers to.

Mesh axes: `data` (trajectories), `fsdp` (trajectories, with parameters sliced over it), `tensor` (heads, hidden units).
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from memalpha_jax.errors import UserError
from memalpha_jax.policy.config import PROJECTIONS

ROWS = Spec(("data", "fsdp"))
RULES: dict[str, Spec] = {
    "embed": Spec("tensor", "fsdp"),
    "head": Spec("tensor", "fsdp"),
    "q": Spec(None, "fsdp", "tensor"),
    "k": Spec(None, "fsdp", "tensor"),
    "v": Spec(None, "fsdp", "tensor"),
    "o": Spec(None, "tensor", "fsdp"),
    "gate": Spec(None, "fsdp", "tensor"),
    "up": Spec(None, "fsdp", "tensor"),
    "down": Spec(None, "tensor", "fsdp"),
    "q_bias": Spec(None, "tensor"),
    "k_bias": Spec(None, "tensor"),
    "v_bias": Spec(None, "tensor"),
}
# An adapter's inner axis is too small to slice: the outer ones are sliced like those of its projection.
RULES |= {f"{name}_lora_a": Spec(None, RULES[name][1]) for name in PROJECTIONS}
RULES |= {f"{name}_lora_b": Spec(None, None, RULES[name][2]) for name in PROJECTIONS}


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; data = 0 takes all devices that fsdp and tensor leave."""

    data: int = 0
    fsdp: int = 1
    tensor: int = 1


def make_mesh(config: MeshConfig) -> Mesh:
    """A (data, fsdp, tensor) mesh over all devices; UserError when the sizes do not multiply to their number."""
    devices = jax.device_count()
    data = config.data or devices // max(config.fsdp * config.tensor, 1)
    if min(data, config.fsdp, config.tensor) < 1 or data * config.fsdp * config.tensor != devices:
        raise UserError(
            f"mesh.data={config.data}, mesh.fsdp={config.fsdp}, mesh.tensor={config.tensor} do not fit "
            f"{devices} device(s): their product must be the number of devices (data=0 takes what is left)"
        )
    return jax.make_mesh(
        (data, config.fsdp, config.tensor), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3
    )


def row_shards(mesh: Mesh | AbstractMesh) -> int:
    """Over how many devices the trajectories of a batch are split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def in_force(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """While tracing: the mesh that `split_rows` and the fused kernels split their work over."""
    return contextlib.nullcontext() if mesh is None else jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def split_rows(x_N: jax.Array) -> jax.Array:
    """[N, ...] with rows kept over data and fsdp, where a mesh is in force and divides them; else as it is.

    Parameters are sliced over fsdp as well, and XLA, left to itself, moves the activations instead of the parameters.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or x_N.shape[0] % row_shards(mesh):
        return x_N
    return jax.lax.with_sharding_constraint(x_N, ROWS)


def rows(mesh: Mesh) -> NamedSharding:
    """Leading axis over data and fsdp, the rest whole."""
    return NamedSharding(mesh, ROWS)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, Spec())


def check_rows(mesh: Mesh, episodes: int, group: int) -> None:
    """UserError unless the devices share `episodes` x `group` trajectories evenly, and no two processes a group."""
    N, shards = episodes * group, row_shards(mesh)
    if N % shards:
        raise UserError(
            f"grpo.episodes x grpo.group is {N}, which {shards} shards do not divide (mesh.data x mesh.fsdp); "
            "change either"
        )
    held = {tuple(_rows_of(mesh, N, process)) for process in {d.process_index for d in mesh.devices.flat}}
    if any(np.any(np.bincount(np.array(own) // group) % group) for own in held):
        multiple = len(held) if episodes % len(held) else shards
        raise UserError(
            f"grpo.episodes is {episodes}, so that the {group} trajectories of an episode would be split over "
            f"{len(held)} processes, which score them apart; make it a multiple of {multiple}"
        )


def own_rows(mesh: Mesh | None, N: int) -> np.ndarray:
    """Which of N rows, placed as `rows(mesh)`, this process holds, in ascending order; without a mesh all."""
    return np.arange(N) if mesh is None else _rows_of(mesh, N, jax.process_index())


def _rows_of(mesh: Mesh, N: int, process: int) -> np.ndarray:
    parts = rows(mesh).devices_indices_map((N,)).items()
    return np.unique(np.concatenate([np.arange(N)[part] for device, part in parts if device.process_index == process]))


def place(tree: Any, mesh: Mesh) -> Any:
    """Parameters or optimizer state sliced as `tree_shardings` says, from arrays that every process holds in full."""

    def placed(x: Any, sharding: NamedSharding) -> jax.Array:
        # With several processes `device_put` would send what each of them has anyway, where it can at all.
        if sharding.is_fully_addressable or (isinstance(x, jax.Array) and not x.is_fully_addressable):
            return jax.device_put(x, sharding)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: np.asarray(x[index]))

    return jax.tree.map(placed, tree, tree_shardings(tree, mesh))


def place_rows(tree: Any, mesh: Mesh | None, N: int) -> Any:
    """Arrays of N rows over the mesh, from numpy arrays of those that this process holds (see `own_rows`)."""
    if mesh is None:
        return tree
    place = jax.make_array_from_process_local_data
    return jax.tree.map(lambda x: place(rows(mesh), np.asarray(x), (N, *np.shape(x)[1:])), tree)


def own_part(tree: Any) -> Any:
    """The rows that this process holds of arrays placed as `rows(mesh)`, as numpy arrays."""

    def part(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            return jax.device_get(x)
        shards = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
        return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])

    return jax.tree.map(part, tree)


def whole(tree: Any) -> Any:
    """The arrays in full, as numpy arrays, on every process; every process must call it."""

    def gathered(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            return jax.device_get(x)
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(gathered, tree)


def tree_shardings(tree, mesh: Mesh):
    """Shardings of params or optimizer state: a leaf is matched by the last dictionary key of its path.

    A dimension that its mesh axis does not divide stays whole.
    """

    def of_leaf(path, leaf) -> NamedSharding:
        names = [p.key for p in path if isinstance(p, jax.tree_util.DictKey)]
        spec = RULES.get(names[-1], Spec()) if names else Spec()
        if len(spec) > len(leaf.shape):
            spec = Spec()
        axes = [a if a is None or leaf.shape[i] % mesh.shape[a] == 0 else None for i, a in enumerate(spec)]
        return NamedSharding(mesh, Spec(*axes))

    return jax.tree_util.tree_map_with_path(of_leaf, tree)
