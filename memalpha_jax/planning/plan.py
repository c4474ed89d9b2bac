"""The plan of a run: both phases against what a device has, what would make them fit, and what was assumed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from memalpha_jax.checkpoints import holds_checkpoint
from memalpha_jax.errors import UserError
from memalpha_jax.experiment import Config
from memalpha_jax.planning.estimate import ROLLOUT, UPDATE, Estimator, Phase
from memalpha_jax.planning.steps import Compiled
from memalpha_jax.planning.topologies import GIB, Topology
from memalpha_jax.policy.config import ARCHITECTURE, PolicyConfig
from memalpha_jax.policy.hugging_face_config import read_config


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Attributes:
    phase: its bytes from shapes. compiled: the analysis of the compiled step, None where it was not compiled.
    total: bytes per device that the verdict goes by. fits: whether they fit.
    largest_rows: most rows per device that fit, from shapes. advice: one sentence, "" where it fits.
    """

    phase: Phase
    compiled: Compiled | None
    total: int
    fits: bool
    largest_rows: int
    advice: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """Attributes: topology and layout sizes; a verdict for each phase; notes: what was assumed, a sentence each."""

    topology: Topology
    mesh: dict[str, int]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return all(verdict.fits for verdict in self.verdicts)


def resolved_policy(config: Config) -> tuple[PolicyConfig, str]:
    """The policy with the sizes that a run would find, and a sentence on where they come from.

    They are those of the Hugging Face folder `policy.path`, as in training; else those of the config, with
    `policy.vocab_size`, or, where the policy starts from random weights, the pieces of the tokenizer that is to be
    trained. Nothing is downloaded.

    Raises:
      UserError: the policy is to be read from somewhere else, and the config does not say how large its vocabulary is;
        or its folder holds neither a model nor a checkpoint.
    """
    policy = config.policy
    folder = Path(policy.path)
    if policy.path and (folder / "config.json").is_file():
        there = read_config(folder)
        sizes = {name: getattr(there, name) for name in (*ARCHITECTURE, "vocab_size")}
        return dataclasses.replace(policy, **sizes), f"the policy's sizes are those of {folder / 'config.json'}"
    if policy.path and folder.exists() and not holds_checkpoint(folder):
        raise UserError(
            f"policy.path is {policy.path}, which holds neither a Hugging Face model (it has no config.json) nor a "
            "checkpoint; give the folder of a model, or a path that is not here to plan by the sizes of the config"
        )
    if policy.vocab_size:
        here = f", since there is no {policy.path} here" if policy.path and not folder.exists() else ""
        return policy, f"the policy's sizes are those of the config{here}, and its vocabulary is {policy.vocab_size}"
    if policy.path:
        raise UserError(
            f"policy.path is {policy.path!r}, where there is no config.json to take the vocabulary from; set "
            "--config.policy.vocab_size, or point policy.path to a folder of weights"
        )
    pieces = config.warmstart.tokenizer_pieces
    why = f"the vocabulary is warmstart.tokenizer_pieces, {pieces}; the few frame tokens of the wire come on top"
    return dataclasses.replace(policy, vocab_size=pieces), why


def make_plan(
    config: Config,
    policy: PolicyConfig,
    topology: Topology,
    compiled: dict[str, Compiled] | None = None,
    notes: tuple[str, ...] = (),
) -> Plan:
    """The plan of one run; `policy` has its vocabulary; `compiled`: the analyses at hand, by phase.

    Raises:
      UserError: mesh, batch and blocks do not divide, or the policy asks for a kernel that cannot be.
    """
    estimator = Estimator(config, policy, topology)
    own = estimator.layout
    verdicts = tuple(_verdict(estimator, name, (compiled or {}).get(name)) for name in (ROLLOUT, UPDATE))
    mesh = {"data": own.data, "fsdp": own.fsdp, "tensor": own.tensor}
    return Plan(topology, mesh, verdicts, (*notes, *_assumed(estimator)))


def _verdict(estimator: Estimator, name: str, compiled: Compiled | None) -> Verdict:
    phase = estimator.phase(name)
    total = phase.total
    if compiled is not None:
        total = compiled.total + phase.not_given
    fits = total <= estimator.topology.usable_bytes
    largest = estimator.largest_rows(name)
    return Verdict(phase, compiled, total, fits, largest, "" if fits else _advice(estimator, name, largest))


def _advice(estimator: Estimator, name: str, largest: int) -> str:
    """The first change of one key that makes the phase fit."""
    for change, config, policy in _changes(estimator, name, largest):
        other = Estimator(config, policy, estimator.topology)
        try:
            total = other.phase(name).total
        except UserError:
            continue  # a mesh that the change does not go with
        if total <= estimator.topology.usable_bytes:
            return f"{change} makes it fit, with {_amount(total)}"
    return "no change of one key makes it fit; take more devices, or a smaller policy with adapters"


def _changes(estimator: Estimator, name: str, largest: int) -> Iterator[tuple[str, Config, PolicyConfig]]:
    config, policy, own = estimator.config, estimator.policy, estimator.layout
    grpo, devices = config.grpo, estimator.topology.devices
    minibatch = grpo.episodes * grpo.group // grpo.minibatches
    if name == ROLLOUT:
        N, unit = grpo.episodes * grpo.group, math.lcm(own.shards, grpo.group)
        fitting = [rows for rows in range(unit, largest * own.shards + 1, unit) if N % rows == 0]
        if fitting:
            yield _set(config, policy, "rollout", "rows", fitting[-1])
    if name == UPDATE:
        fitting = [r * own.shards for r in range(1, largest + 1) if minibatch % (r * own.shards) == 0]
        if fitting:
            yield _set(config, policy, "grpo", "block_rows", fitting[-1])
        if policy.remat != "layer":
            better = dataclasses.replace(policy, remat="layer")
            yield "--config.policy.remat=layer", dataclasses.replace(config, policy=better), better
        R = config.rollout.reply_tokens
        part = next((p for p in (512, 256, 128) if R % p == 0 and p < (grpo.logprob_slice or R)), 0)
        if part:
            yield _set(config, policy, "grpo", "logprob_slice", part)
    if own.fsdp < devices:
        mesh = dataclasses.replace(config.mesh, data=0, fsdp=devices // own.tensor)
        yield f"--config.mesh.fsdp={mesh.fsdp}", dataclasses.replace(config, mesh=mesh), policy
    if policy.lora.rank == 0:
        lora = dataclasses.replace(policy, lora=dataclasses.replace(policy.lora, rank=16))
        yield "--config.policy.lora.rank=16", dataclasses.replace(config, policy=lora), lora


def _set(config: Config, policy: PolicyConfig, section: str, key: str, value: Any) -> tuple[str, Config, PolicyConfig]:
    changed = dataclasses.replace(getattr(config, section), **{key: value})
    return f"--config.{section}.{key}={value}", dataclasses.replace(config, **{section: changed}), policy


def _assumed(estimator: Estimator) -> Iterator[str]:
    config, policy, top = estimator.config, estimator.policy, estimator.topology
    yield top.assumed
    yield f"an episode has {config.episodes.chunks} chunks (episodes.chunks)"
    yield "every prompt and reply is as long as it may be, and four characters of the prompt's fixed text are a token"
    if estimator.has_fused_attention():
        yield "attention is a fused kernel, which holds no scores"
    else:
        yield "attention is plain XLA, a block of queries after the other; a compiler may hold the scores of several"
    if top.platform != "cpu":
        yield "the optimizer replaces parameters and moments in place"
    if estimator.layout.fsdp > 1:
        yield "a layer of weights or the embedding is gathered at a time, and gradients are reduced to slices"
        if top.platform != "cpu":
            yield "while a layer is computed, the next one is gathered already"
        yield "all weights are gathered before replies are written, token by token"
        yield "rows stay split over the devices in every layer; XLA may choose otherwise, which compiling shows"
    if top.platform == "cpu":
        yield "XLA on a CPU works breadth first, for which it takes up to a quarter more than the sums from shapes say"
    if top.platform == "cpu" and policy.remat != "none" and not policy.scan_layers:
        yield "XLA on a CPU undoes policy.remat unless policy.scan_layers is set"
    if top.platform == "gpu" and not top.fused_attention and policy.dtype == "bfloat16":
        yield f"{top.name} has neither bfloat16 nor fused attention: set policy.attention=xla, and expect emulation"


def as_dict(plan: Plan) -> dict[str, Any]:
    """The plan as JSON-able values, bytes as whole numbers."""
    return {
        "topology": dataclasses.asdict(plan.topology),
        "mesh": plan.mesh,
        "fits": plan.fits,
        "phases": [
            {
                "name": v.phase.name,
                "rows_per_device": v.phase.rows,
                "from_shapes": {**v.phase.parts, "total": v.phase.total},
                "compiled": None if v.compiled is None else dataclasses.asdict(v.compiled),
                "total": v.total,
                "fits": v.fits,
                "largest_rows_per_device": v.largest_rows,
                "advice": v.advice,
            }
            for v in plan.verdicts
        ],
        "notes": list(plan.notes),
    }


def table(plan: Plan) -> str:
    """The plan for reading: an aligned table per device, a verdict for each phase, and what was assumed."""
    phases = [v.phase for v in plan.verdicts]
    names = list(dict.fromkeys(name for phase in phases for name in phase.parts))
    unit, size = ("GiB", GIB) if max(v.total for v in plan.verdicts) >= GIB else ("MiB", GIB >> 10)
    cell = lambda value: "-" if value is None else f"{value / size:.2f}"
    lines = [[f"{unit} per device", *(phase.name for phase in phases), "counted"]]
    lines += [[name, *(cell(phase.parts.get(name)) for phase in phases), _source(name)] for name in names]
    lines.append(["sum", *(cell(phase.total) for phase in phases), "from shapes"])
    if any(v.compiled for v in plan.verdicts):
        totals = [cell(v.total if v.compiled else None) for v in plan.verdicts]
        lines.append(["sum, compiled", *totals, "XLA's analysis of the compiled step"])
    usable = plan.topology.usable_bytes
    lines.append(["a device has", *(cell(usable) for _ in phases), f"of {cell(plan.topology.device_bytes)}"])
    lines.append(["rows per device", *(str(phase.rows) for phase in phases), "from the config"])
    lines.append(["most that fit", *(str(v.largest_rows) for v in plan.verdicts), "from shapes"])
    mesh = " x ".join(f"{axis}={size}" for axis, size in plan.mesh.items())
    head = f"{plan.topology.name}: {plan.topology.devices} device(s), mesh {mesh}"
    said = [_sentence(v, usable) for v in plan.verdicts]
    return "\n".join([head, "", *_aligned(lines), "", *said, "", "Assumed:", *(f"- {note}" for note in plan.notes)])


def _amount(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / (GIB >> 10):.1f} MiB"


def _source(name: str) -> str:
    return "live bytes of the traced step" if name in ("activations", "gradients") else "from shapes"


def _aligned(lines: list[list[str]]) -> list[str]:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    shown = []
    for line in lines:
        middle = [text.rjust(width) for text, width in zip(line[1:-1], widths[1:-1], strict=True)]
        shown.append("  ".join([line[0].ljust(widths[0]), *middle, line[-1]]).rstrip())
    return shown


def _sentence(v: Verdict, usable: int) -> str:
    """The verdict in words."""
    by = "compiled" if v.compiled else "from shapes"
    need = f"it needs {_amount(v.total)} of {_amount(usable)} ({by})"
    if v.fits:
        return f"The {v.phase.name} fits: {need}."
    largest = max(v.phase.parts.items(), key=lambda part: part[1])
    why = f"the most by {largest[0]}, {_amount(largest[1])} at {v.phase.rows} rows ({v.phase.rows_key})"
    return f"The {v.phase.name} does not fit: {need}, {why}; {v.advice}."
