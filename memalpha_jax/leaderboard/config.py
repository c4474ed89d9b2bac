"""The configuration of a comparison of methods on sources: `experiments/eval.py`."""

from __future__ import annotations

import dataclasses
from typing import Literal

from ml_collections import config_dict

from memalpha_jax.chat.config import ChatConfig
from memalpha_jax.config import to_dict, with_tuples
from memalpha_jax.errors import UserError
from memalpha_jax.methods.config import MethodConfig
from memalpha_jax.methods.registry import METHODS, check_known
from memalpha_jax.methods.retrieval import RetrievalConfig
from memalpha_jax.rewards.config import GraderConfig, ReaderConfig


@dataclasses.dataclass(frozen=True)
class PolicyChoice:
    """The policy that writes for `memalpha` and is the model "local".

    Attributes:
      path: a workdir, a checkpoint or a Hugging Face model.
      prompt_tokens, reply_tokens: budgets in place of those it was trained with, where chunks are longer than in its
        training; 0 keeps them.
    """

    path: str = ""
    prompt_tokens: int = 0
    reply_tokens: int = 0

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "reply_tokens"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must be 0 or more")


@dataclasses.dataclass(frozen=True)
class EpisodeChoice:
    """Which episodes of each source are used.

    Attributes:
      data: folder with the official files, a folder per source, as `memalpha_jax.prepare --raw` takes it.
      episodes: per source, at most. first: number of the first one.
      chunk_tokens: longest chunk; chunks: of an episode, at most: a longer one is cut there, and its questions about
        what was cut off are left out; 0 cuts nothing.
      questions: of an episode, at most, chosen by `seed`.
    """

    data: str = ""
    episodes: int = 4
    first: int = 0
    chunk_tokens: int = 2048
    chunks: int = 0
    questions: int = 100
    seed: int = 42


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """What `report.html` shows besides the results.

    Attributes:
      traces: episodes of each source that it lets one step through; the page grows with them.
      length_study: workdir of a length study (`experiments/eval_length.py`); "" for none.
    """

    traces: int = 2
    length_study: str = ""

    def __post_init__(self) -> None:
        if self.traces < 0:
            raise UserError(f"traces is {self.traces}; it must be 0 or more")


@dataclasses.dataclass(frozen=True)
class LeaderboardConfig:
    """A comparison.

    Attributes:
      methods: by name, see `memalpha_jax.methods.registry`. sources: "generated", the world of the policy, or as
        `memalpha_jax.prepare --list` has them; of a name that is also a training source the evaluation is meant.
      chat: the language model of the methods that need one. reader, grader: who answers, and who grades the answers
        that no rule scores; the same for every method.
      budgets: "shared" shows the reader at most `reader.budget` tokens of any method; "published" does as the paper's
        comparison did, 30,000 for memalpha and whatever the others hand over.
      batch: episodes that a method writes side by side.
      bootstrap: resamples of the intervals.
      published: score by the published rules, quirks included.
    """

    methods: tuple[str, ...] = tuple(METHODS)
    sources: tuple[str, ...] = ("generated",)
    policy: PolicyChoice = PolicyChoice()
    episodes: EpisodeChoice = EpisodeChoice()
    method: MethodConfig = MethodConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    chat: ChatConfig = ChatConfig()
    reader: ReaderConfig = ReaderConfig()
    grader: GraderConfig = GraderConfig(kind="rules")
    report: ReportConfig = ReportConfig()
    budgets: Literal["shared", "published"] = "shared"
    batch: int = 16
    bootstrap: int = 2000
    published: bool = False

    def __post_init__(self) -> None:
        if not self.methods or not self.sources:
            raise UserError("name at least one method and one source: config.methods, config.sources")
        check_known(self.methods)


def default_config() -> config_dict.ConfigDict:
    """Every key with its default, for an experiment file to change."""
    return config_dict.ConfigDict(with_tuples(to_dict(LeaderboardConfig())))
