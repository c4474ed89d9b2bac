"""The machines a run can be planned for: how many devices, and how much memory each has."""

from __future__ import annotations

import dataclasses
import os
import re

from memalpha_jax.errors import UserError

GIB = 2**30
GPU_SHARE = 0.95
"""Of a GPU's memory. JAX itself takes 0.75 unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise."""

GPUS = {"h100": 79.6, "h200": 140.4, "a100": 79.2, "l4": 22.5, "t4": 15.0}
"""GiB that the driver reports for one card (the 80 GB forms of h100 and a100)."""
OLD_GPUS = ("t4",)
"""Compute capability below 8: no bfloat16, no fused attention."""
V5P_GIB, V6E_GIB = 95.7, 31.2
"""GiB that XLA has on one chip."""
V5P = {8: "2x2x1", 16: "2x2x2", 32: "2x2x4", 64: "2x4x4", 128: "4x4x4"}
"""Chips of a slice by the number in its name, which counts TensorCores, two to a chip."""
V6E = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8"}
"""Chips of a slice by the number in its name, which counts chips."""
KNOWN = (
    "NxGPU, where N is 1 to 64 and GPU one of " + ", ".join(GPUS),
    ", ".join(f"v5p-{n}" for n in V5P),
    ", ".join(f"v6e-{n}" for n in V6E),
    "cpu",
)


@dataclasses.dataclass(frozen=True)
class Topology:
    """Attributes:
    name: as on the command line.
    platform: "gpu", "tpu" or "cpu".
    devices: JAX devices. device_bytes: what one of them has. usable_bytes: what a program gets of it.
    slice: the name that libtpu has for a TPU slice, such as "v5p:2x2x1"; else "".
    fused_attention: whether a GPU is new enough (compute capability 8) for the fused kernel.
    assumed: one sentence on where the bytes come from.
    """

    name: str
    platform: str
    devices: int
    device_bytes: int
    usable_bytes: int
    slice: str
    fused_attention: bool
    assumed: str


def topology(name: str) -> Topology:
    """The machine of that name; UserError lists the known ones."""
    lower = name.lower()
    if lower == "cpu":
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Topology("cpu", "cpu", 1, total, total, "", False, "cpu: all of this machine's memory, as one device")
    if match := re.fullmatch(r"(?:(\d+)x)?(\w+)", lower):
        count, gpu = int(match[1] or 1), match[2]
        if gpu in GPUS and 1 <= count <= 64:
            return _gpus(lower, count, gpu)
    if (match := re.fullmatch(r"v5p-(\d+)", lower)) and int(match[1]) in V5P:
        return _slice(lower, "v5p", V5P[int(match[1])], V5P_GIB, "the number counts TensorCores, two to a chip")
    if (match := re.fullmatch(r"v6e-(\d+)", lower)) and int(match[1]) in V6E:
        return _slice(lower, "v6e", V6E[int(match[1])], V6E_GIB, "the number counts chips")
    raise UserError(f"--topology={name}: no such machine is known; known are {'; '.join(KNOWN)}")


def _gpus(name: str, count: int, gpu: str) -> Topology:
    total = int(GPUS[gpu] * GIB)
    assumed = (
        f"{gpu}: the driver reports {GPUS[gpu]} GiB; {GPU_SHARE:.0%} of it is usable, with "
        f"XLA_PYTHON_CLIENT_MEM_FRACTION={GPU_SHARE} (JAX takes 0.75 if that is not set)"
    )
    return Topology(name, "gpu", count, total, int(GPU_SHARE * total), "", gpu not in OLD_GPUS, assumed)


def _slice(name: str, kind: str, shape: str, gib: float, counted: str) -> Topology:
    chips = 1
    for side in shape.split("x"):
        chips *= int(side)
    total = int(gib * GIB)
    assumed = f"{kind}: one JAX device per chip, XLA has {gib} GiB of each; {counted}"
    return Topology(name, "tpu", chips, total, total, f"{kind}:{shape}", False, assumed)
