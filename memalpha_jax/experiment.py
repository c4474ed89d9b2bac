"""The configuration of a run: a frozen dataclass per component, and the ConfigDict that experiment files fill in."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path

from absl import flags, logging
from ml_collections import config_dict

from memalpha_jax.chat.config import HOW_ASKED
from memalpha_jax.config import to_dict, with_tuples
from memalpha_jax.config_checks import check_config
from memalpha_jax.distributed import is_first
from memalpha_jax.episodes.sources import EpisodesConfig
from memalpha_jax.grpo.learner import GRPOConfig
from memalpha_jax.memory.state import MemoryConfig
from memalpha_jax.policy.config import PolicyConfig
from memalpha_jax.policy.optimizer import OptimizerConfig
from memalpha_jax.policy.sharding import MeshConfig
from memalpha_jax.rewards.reward import RewardConfig
from memalpha_jax.rollout.rollout import RolloutConfig
from memalpha_jax.warmstart_data import SHORT_CHUNKS, LessonConfig
from memalpha_jax.workdir import Workdir, open_workdir


@dataclasses.dataclass(frozen=True)
class WarmStartConfig:
    """Supervised lessons before reinforcement learning, on generated episodes, from random weights.

    Attributes:
      tokenizer_pieces: pieces of the SentencePiece model that is trained first.
      batch: rows per step. round_rows: how many rows are made at a time, about.
      block_rows, buckets: as in `GRPOConfig`.
      optimizer: one schedule over all lessons.
      copy_short, copy_long, revise_short, revise_long, correct, demonstrate: the lessons, in this order.
    """

    tokenizer_pieces: int = 1000
    batch: int = 32
    round_rows: int = 2048
    block_rows: int = 8
    buckets: int = 6
    optimizer: OptimizerConfig = OptimizerConfig(
        name="muon", lr=1e-2, warmup=0.02, decay=0.3, b2=0.98, weight_decay=0.0
    )
    copy_short: LessonConfig = LessonConfig(150, demonstrate=False)
    copy_long: LessonConfig = LessonConfig(100, demonstrate=False, lines_min=2, lines_max=5, skip=0.4)
    revise_short: LessonConfig = LessonConfig(
        200, demonstrate=False, lines_min=2, lines_max=3, pieces_min=3, pieces_max=5, skip=0.2, stored=3
    )
    revise_long: LessonConfig = LessonConfig(50, demonstrate=False, lines_min=2, lines_max=4, skip=0.4, stored=5)
    correct: LessonConfig = LessonConfig(250, demonstrate=True, world=SHORT_CHUNKS, rate=0.6, update_rate=1.0)
    demonstrate: LessonConfig = LessonConfig(850, demonstrate=True, rate=0.4)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Attributes:
    lengths: multiples of `episodes.chunks`. episodes: held-out episodes of each of these lengths; a source that is not
    generated has one length and takes the first number. first: number of the first one, where they are generated, so
    that the table can be made of other episodes than those the curve of training shows.
    batch: trajectories decoded at once. bootstrap: resamples of the intervals.
    """

    lengths: tuple[int, ...] = (1, 3, 13)
    episodes: tuple[int, ...] = (64, 64, 64)
    first: int = 0
    batch: int = 64
    bootstrap: int = 2000


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Attributes:
    save_every: steps between checkpoints. keep: checkpoints kept.
    trace_every: steps between traces written for reading. evaluate_every: steps between quick evaluations
    on `evaluate_episodes` held-out episodes for the curve; 0 turns either off.
    cost_step: the step after which the log says what a step costs by part. The parts of a rollout are compiled and
    timed alone for it, which with a large policy takes a while; 0 turns it off. The first step includes compilation.
    """

    save_every: int = 20
    keep: int = 3
    trace_every: int = 20
    evaluate_every: int = 20
    evaluate_episodes: int = 32
    cost_step: int = 2


@dataclasses.dataclass(frozen=True)
class Config:
    """A run, from one seed. See the dataclass of each section.

    Raises:
      UserError: a value that cannot be, by its key.
    """

    seed: int = 0
    episodes: EpisodesConfig = EpisodesConfig()
    memory: MemoryConfig = MemoryConfig()
    policy: PolicyConfig = PolicyConfig()
    rollout: RolloutConfig = RolloutConfig()
    rewards: RewardConfig = RewardConfig()
    grpo: GRPOConfig = GRPOConfig()
    mesh: MeshConfig = MeshConfig()
    warmstart: WarmStartConfig = WarmStartConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    run: RunConfig = RunConfig()

    def __post_init__(self) -> None:
        check_config(self)


MAY_CHANGE = (
    *("run", "evaluation", "grpo.steps"),
    *(f"rewards.{who}.chat.{name}" for who in ("reader", "judge", "grader") for name in (*HOW_ASKED, "base_url")),
)
"""What a workdir may be continued with besides the config that made it; a server may have moved."""


def open_run(config: Config) -> Workdir:
    """The workdir of the `--workdir` flag, made for or matching `config`; the first process logs its progress."""
    logging.set_verbosity(logging.INFO if is_first() else logging.WARNING)
    return open_workdir(flags.FLAGS.workdir, to_dict(config), may_change=MAY_CHANGE)


def default_config() -> config_dict.ConfigDict:
    """Every key with its default, for an experiment file to change."""
    return config_dict.ConfigDict(with_tuples(to_dict(Config())))


def sibling_config(experiment_file: str, name: str) -> config_dict.ConfigDict:
    """The config of the experiment file `name` that lies beside `experiment_file` (its `__file__`), to build on."""
    return config_dict.ConfigDict(runpy.run_path(str(Path(experiment_file).with_name(name)))["get_config"]())
