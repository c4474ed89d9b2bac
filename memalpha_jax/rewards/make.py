"""The reader, the judge and the grader that a config names, each with what tells its results from another's."""

from __future__ import annotations

from typing import NamedTuple

from memalpha_jax.chat.config import chat_config
from memalpha_jax.chat.make import ChatModels
from memalpha_jax.rewards.chat_judge import ChatGrader, ChatJudge, load_grader_prompt, load_judge_prompt
from memalpha_jax.rewards.chat_reader import ChatReader, load_reader_prompt
from memalpha_jax.rewards.config import GraderConfig, JudgeConfig, ReaderConfig
from memalpha_jax.rewards.judge import Grader, Judge, RulesGrader, RulesJudge
from memalpha_jax.rewards.reader import ExtractiveReader, Reader


class Named(NamedTuple):
    """identity: everything its answers depend on. about: the same for people, in a few words."""

    identity: str
    about: str


NO_GRADER = Named("none", "none")


def make_reader(config: ReaderConfig, models: ChatModels, one_value: bool) -> tuple[Reader, Named]:
    """`one_value`: of the extractive reader."""
    if config.kind == "extractive":
        return ExtractiveReader(one_value=one_value), Named("extractive", "extractive reader")
    prompt, chat = load_reader_prompt(config.prompt), models.get(chat_config(config.kind, config.chat))
    reader = ChatReader(chat, prompt, config.budget, config.reply_tokens, config.temperature)
    return reader, Named(reader.identity, _about(config))


def make_judge(config: JudgeConfig, models: ChatModels) -> Judge:
    """A judge of stored texts."""
    if config.kind == "rules":
        return RulesJudge()
    prompt, chat = load_judge_prompt(config.prompt), models.get(chat_config(config.kind, config.chat))
    return ChatJudge(chat, prompt, config.reply_tokens, config.temperature)


def make_grader(config: GraderConfig, models: ChatModels) -> tuple[Grader | None, Named]:
    """A grader of answers; None where the config wants none."""
    if config.kind == "none":
        return None, NO_GRADER
    if config.kind == "rules":
        return RulesGrader(), Named("rules", "a rule, the normalised gold inside the normalised answer")
    prompt, chat = load_grader_prompt(config.prompt), models.get(chat_config(config.kind, config.chat))
    grader = ChatGrader(chat, prompt, config.reply_tokens, config.temperature)
    return grader, Named(grader.identity, _about(config))


def _about(config: ReaderConfig | GraderConfig) -> str:
    if config.kind == "openai":
        return f"{config.chat.model} at {config.chat.base_url}"
    return f"the local model {config.chat.path or 'of this run'}"
