"""The one table of sharding rules, and the mesh it refers to.

Mesh axes: `data` (trajectories), `fsdp` (trajectories, with parameters sliced over it), `tensor` (heads, hidden units).
"""

from __future__ import annotations

import dataclasses

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
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


def row_shards(mesh: Mesh) -> int:
    """Over how many devices the trajectories of a batch are split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def rows(mesh: Mesh) -> NamedSharding:
    """Leading axis over data and fsdp, the rest whole."""
    return NamedSharding(mesh, ROWS)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, Spec())


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
