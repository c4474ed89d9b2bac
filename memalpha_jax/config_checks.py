"""What the values of a run's config must satisfy, told by key before anything is made of them.

Sections that check themselves (episodes, memory, rewards) are left out, and so is what only shows later.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from memalpha_jax.config import flatten, to_dict
from memalpha_jax.errors import UserError
from memalpha_jax.grpo.advantages import GROUPINGS, SCALES
from memalpha_jax.grpo.loss import AVERAGINGS
from memalpha_jax.policy.config import ATTENTIONS, DTYPES, PROJECTIONS, REMATS
from memalpha_jax.policy.model import INITS
from memalpha_jax.tools.wire import WIRES

if TYPE_CHECKING:
    from memalpha_jax.experiment import Config

SEEDS = 1 << 32
_LESSONS = ("copy_short", "copy_long", "revise_short", "revise_long", "correct", "demonstrate")
_OPTIMIZERS = ("grpo.optimizer", "warmstart.optimizer")

_AT_LEAST_1 = (
    *(f"policy.{name}" for name in ("width", "layers", "heads", "kv_heads", "head_dim", "ff")),
    *("policy.yarn.factor", "policy.yarn.original_positions"),
    *(f"rollout.{name}" for name in ("prompt_tokens", "reply_tokens", "max_calls", "prompt_buckets")),
    *(f"grpo.{name}" for name in ("episodes", "group", "steps", "minibatches", "buckets", "max_skipped")),
    *("mesh.fsdp", "mesh.tensor", "warmstart.tokenizer_pieces", "warmstart.batch", "warmstart.buckets"),
    *(f"warmstart.{lesson}.{name}" for lesson in _LESSONS for name in ("lines_min", "pieces_min", "chunks")),
    *("evaluation.batch", "evaluation.bootstrap"),
    *("run.save_every", "run.keep", "run.evaluate_episodes"),
)
_AT_LEAST_0 = (
    *("seed", "episodes.seed", "mesh.data", "run.trace_every", "run.evaluate_every", "run.cost_step"),
    "rollout.temperature",
    *("policy.vocab_size", "policy.max_positions", "policy.lora.rank", "policy.yarn.attention_factor"),
    *("rollout.rows", "grpo.block_rows", "grpo.logprob_slice", "warmstart.block_rows", "evaluation.first"),
    *(f"grpo.objective.{name}" for name in ("clip_low", "clip_high", "dual_clip", "kl_coef")),
    *(f"warmstart.{lesson}.{name}" for lesson in _LESSONS for name in ("steps", "stored")),
    *(f"{o}.{name}" for o in _OPTIMIZERS for name in ("lr", "weight_decay", "adam_share", "clip_norm")),
)
_SHARES = (
    *("rollout.top_p", "rollout.min_p"),
    *(f"{o}.{name}" for o in _OPTIMIZERS for name in ("warmup", "decay", "final_lr_share")),
    *(
        f"warmstart.{lesson}.{name}"
        for lesson in _LESSONS
        for name in ("skip", "rate", "update_rate", "right_list_rate")
    ),
)
_BELOW_1 = tuple(f"{o}.{name}" for o in _OPTIMIZERS for name in ("b1", "b2"))
_ABOVE_0 = (
    *("policy.rope_theta", "policy.norm_eps", "policy.qk_norm_init", "policy.lora.alpha"),
    *("policy.yarn.beta_fast", "policy.yarn.beta_slow"),
)
_ONE_OF = {
    "policy.init": INITS,
    "policy.dtype": DTYPES,
    "policy.attention": ATTENTIONS,
    "policy.remat": REMATS,
    "rollout.wire": WIRES,
    "grpo.grouping": GROUPINGS,
    "grpo.scale": SCALES,
    "grpo.objective.averaging": AVERAGINGS,
    **{f"{o}.name": ("adamw", "muon") for o in _OPTIMIZERS},
    **{f"{o}.moment_dtype": DTYPES for o in _OPTIMIZERS},
}


def check_config(config: Config) -> None:
    """Raises UserError that names the first key at fault and what it must be."""
    flat = flatten(to_dict(config))
    for fault in (*_range_faults(flat), *_relation_faults(config)):
        raise UserError(fault)


def _range_faults(flat: dict[str, Any]) -> Iterator[str]:
    for key, value in flat.items():
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{key} is {value}; it must be finite"
        rules = [
            (key in _AT_LEAST_1 and value < 1, "at least 1"),
            (key in _AT_LEAST_0 and value < 0, "at least 0"),
            (key in _SHARES and not 0 <= value <= 1, "between 0 and 1"),
            (key in _BELOW_1 and not 0 <= value < 1, "at least 0 and below 1"),
            (key in _ABOVE_0 and value <= 0, "above 0"),
            (key in ("seed", "episodes.seed") and value >= SEEDS, f"below {SEEDS}"),
        ]
        if key in _ONE_OF:
            rules.append((value not in _ONE_OF[key], f"one of {', '.join(_ONE_OF[key])}"))
        yield from (f"{key} is {value!r}; it must be {words}" for broken, words in rules if broken)


def _relation_faults(config: Config) -> Iterator[str]:
    policy, grpo, warm = config.policy, config.grpo, config.warmstart
    if policy.heads % policy.kv_heads:
        yield f"policy.heads is {policy.heads}; it must be a multiple of policy.kv_heads, {policy.kv_heads}"
    if policy.head_dim % 2:
        yield f"policy.head_dim is {policy.head_dim}; it must be even"
    unknown = [name for name in policy.lora.targets if name not in PROJECTIONS]
    if unknown:
        yield f"policy.lora.targets names {unknown[0]!r}; it may name {', '.join(PROJECTIONS)}"
    N = grpo.episodes * grpo.group
    if N % grpo.minibatches:
        yield f"grpo.minibatches is {grpo.minibatches}; it must divide grpo.episodes x grpo.group, {N}"
    if config.rollout.rows and (N % config.rollout.rows or config.rollout.rows % grpo.group):
        yield (
            f"rollout.rows is {config.rollout.rows}; it must divide grpo.episodes x grpo.group, {N}, into whole groups "
            f"of {grpo.group}"
        )
    rows = N // grpo.minibatches
    if grpo.block_rows and rows % min(grpo.block_rows, rows):
        yield f"grpo.block_rows is {grpo.block_rows}; it must divide the {rows} trajectories of a minibatch"
    R, part = config.rollout.reply_tokens, grpo.logprob_slice
    if part and R % min(part, R):
        yield f"grpo.logprob_slice is {part}; it must divide rollout.reply_tokens, {R}"
    if warm.block_rows and warm.batch % min(warm.block_rows, warm.batch):
        yield f"warmstart.block_rows is {warm.block_rows}; it must divide warmstart.batch, {warm.batch}"
    for name in _LESSONS:
        lesson = getattr(warm, name)
        if lesson.lines_min > lesson.lines_max:
            yield f"warmstart.{name}.lines_min is {lesson.lines_min}, above lines_max, {lesson.lines_max}"
        if lesson.pieces_min > lesson.pieces_max:
            yield f"warmstart.{name}.pieces_min is {lesson.pieces_min}, above pieces_max, {lesson.pieces_max}"
        if lesson.stored > config.memory.items:
            yield f"warmstart.{name}.stored is {lesson.stored}; config.memory.items has room for {config.memory.items}"
    lengths, counts = config.evaluation.lengths, config.evaluation.episodes
    if not lengths or min(lengths) < 1:
        yield f"evaluation.lengths is {lengths}; it must hold numbers of at least 1"
    if len(counts) != len(lengths) or min(counts) < 1:
        yield f"evaluation.episodes is {counts}; it must hold a number of at least 1 for each of evaluation.lengths"
