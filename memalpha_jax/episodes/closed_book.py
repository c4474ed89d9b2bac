"""The closed-book filter: a question that a reader answers without the text tells nothing about a memory."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

from memalpha_jax.episodes.episode import Episode
from memalpha_jax.errors import UserError
from memalpha_jax.rewards import metrics
from memalpha_jax.rewards.reader import Reader, ReaderQuery, every_answer

WORLD_KNOWLEDGE = ("squad", "hotpotqa")
"""The sources whose questions are about the world, so that a language model may know the answer."""


def load_function(name: str, what: str) -> Callable[..., Any]:
    """The function MODULE:FUNCTION; UserError, which opens with `what`, where there is none."""
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # whatever the module does wrong is its own fault
        raise UserError(
            f"{what} {name!r} cannot be found, it must be written MODULE:FUNCTION ({type(error).__name__}: {error})"
        ) from error
    if not callable(found):
        raise UserError(f"{what} {name!r} is no function but {type(found).__name__}")
    return found


def load_reader(name: str) -> Reader:
    """The reader that the function FUNCTION of a module returns, by its name MODULE:FUNCTION.

    UserError where there is no such module or function, or what it returns cannot answer.
    """
    make = load_function(name, "the reader")
    try:
        reader = make()
    except Exception as error:  # whatever that function does wrong is its own fault
        raise UserError(f"the reader {name!r} cannot be made: {type(error).__name__}: {error}") from error
    if not hasattr(reader, "answer"):
        raise UserError(f"the reader {name!r} is {type(reader).__name__}, which has no method 'answer'")
    return reader


def without_known(episode: Episode, reader: Reader) -> Episode:
    """The episode without the questions that `reader` answers from an empty memory; it may have none left."""
    queries = [ReaderQuery(question.question, data_source=episode.data_source) for question in episode.questions]
    answers = every_answer(reader, queries)
    kept = tuple(
        question
        for question, answer in zip(episode.questions, answers, strict=True)
        if not metrics.score(episode.data_source, answer, question.answer)
    )
    return dataclasses.replace(episode, questions=kept)
