"""Optimizers of the policy: AdamW, or Muon on the weight matrices with AdamW on the rest.

Muon and its AdamW use Nesterov momentum, plain AdamW does not.
"""

from __future__ import annotations

import dataclasses

import jax
import optax
from optax import contrib

from memalpha_jax.errors import UserError
from memalpha_jax.policy.config import PROJECTIONS

MATRICES = (*PROJECTIONS, *(f"{name}_lora_{part}" for name in PROJECTIONS for part in "ab"))
"""What weight decay and Muon act on."""


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Attributes:
    name: "adamw" or "muon".
    lr: peak learning rate. Muon's matrices use it; its other parameters use `lr * adam_share`.
    warmup: share of the steps over which lr rises linearly. The first step is never at 0.
    decay: share of the steps, at the end, over which lr falls linearly to `final_lr_share * lr`.
    final_lr_share: see `decay`.
    b1, b2, weight_decay: of AdamW (and Muon's weight decay).
    adam_share: see `lr`.
    clip_norm: global norm the gradient is clipped to; 0 turns clipping off.
    moment_dtype: of the first moment, "float32" or "bfloat16". The second stays in float32: at b2 0.999 its changes
      are below what bfloat16 can tell apart.
    """

    name: str = "adamw"
    lr: float = 1e-6
    warmup: float = 0.05
    decay: float = 0.0
    final_lr_share: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    weight_decay: float = 0.01
    adam_share: float = 1.0
    clip_norm: float = 1.0
    moment_dtype: str = "float32"


def learning_rate(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """Linear rise from lr/(warm+1) at step 0, plateau, linear fall."""
    warm = round(config.warmup * total_steps)
    fall = round(config.decay * total_steps)
    return optax.join_schedules(
        [
            optax.linear_schedule(config.lr / (warm + 1), config.lr, max(warm, 1)),
            optax.constant_schedule(config.lr),
            optax.linear_schedule(config.lr, config.lr * config.final_lr_share, max(fall, 1)),
        ],
        [warm, max(warm, total_steps - fall)],
    )


def muon_axes(params: dict) -> dict:
    """Which axes of each parameter Muon orthogonalises; None leaves it to AdamW. Axis 0 stacks the layers."""
    return {name: contrib.MuonDimensionNumbers(1, 2) if name in MATRICES else None for name in params}


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """The optax chain; raises UserError for an unknown name."""
    schedule = learning_rate(config, total_steps)
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm > 0 else optax.identity()
    if config.name == "adamw":
        decayed = lambda params: {name: name in MATRICES for name in params}
        return optax.chain(
            clip,
            optax.adamw(
                schedule,
                config.b1,
                config.b2,
                weight_decay=config.weight_decay,
                mask=decayed,
                mu_dtype=config.moment_dtype,
            ),
        )
    if config.name == "muon":
        muon = contrib.muon(
            schedule,
            weight_decay=config.weight_decay,
            adam_b1=config.b1,
            adam_b2=config.b2,
            mu_dtype=config.moment_dtype,
            adam_learning_rate=lambda step: schedule(step) * config.adam_share,
            muon_weight_dimension_numbers=muon_axes,
            consistent_rms=0.2,
        )
        return optax.chain(clip, muon)
    raise UserError(f"optimizer.name is {config.name!r}; known: 'adamw', 'muon'")


def abstract(tree):
    """Shapes and dtypes of a pytree of arrays."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
