"""From trajectories to rewards: the host's half of a training step."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from memalpha_jax.episodes.episode import Episode, Question
from memalpha_jax.errors import UserError
from memalpha_jax.memory.state import MemoryState, MemoryType, empty_memory, memory_core, memory_items, unstack
from memalpha_jax.policy.sharding import own_part, place_rows, whole
from memalpha_jax.policy.tokenizer import Tokenizer
from memalpha_jax.rewards.credit import gains, steps_asked
from memalpha_jax.rewards.judge import Grader, Judge
from memalpha_jax.rewards.reader import Reader, ReaderQuery
from memalpha_jax.rewards.reward import (
    AppliedCalls,
    RewardConfig,
    Rewards,
    applied_calls,
    compute_rewards,
    score_answers,
)
from memalpha_jax.rewards.stale import revisions
from memalpha_jax.rollout.rollout import Engine, apply_batch, room_for
from memalpha_jax.rollout.trajectory import Trajectory

_SCORED = ("calls", "statuses_NTK", "active_NT", "memory_tokens_NT", "memory")
"""The fields of a Trajectory that scoring looks at; the others need not leave the device."""


def reader_queries(
    questions: Sequence[Question], data_source: str, memory: MemoryState, tokenizer: Tokenizer
) -> list[ReaderQuery]:
    """One query per question, over one trajectory's memory (numpy, from `unstack`)."""
    if not questions:
        return []
    items = [(item.type, tokenizer.decode(item.tokens)) for item in memory_items(memory)]
    episodic, semantic = (
        tuple(text for kind, text in items if kind == wanted) for wanted in (MemoryType.EPISODIC, MemoryType.SEMANTIC)
    )
    core = tokenizer.decode(memory_core(memory))
    return [ReaderQuery(q.question, core, episodic, semantic, data_source) for q in questions]


@dataclass(frozen=True)
class _Asked:
    """One reader query: question q of trajectory n, put to its memory after chunk step t."""

    n: int
    q: int
    t: int
    query: ReaderQuery


class Scorer:
    """Reads, scores and judges the trajectories of a step."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        config: RewardConfig,
        reader: Reader,
        judge: Judge | None,
        grader: Grader | None = None,
    ):
        self.engine, self.tokenizer, self.config = engine, tokenizer, config
        self.reader, self.judge, self.grader = reader, judge, grader
        self._apply = jax.jit(functools.partial(apply_batch, engine))

    def score(
        self, trajectory: Trajectory, episodes_N: Sequence[Episode], chunk_tokens_N: np.ndarray, group_N: np.ndarray
    ) -> tuple[Rewards, AppliedCalls, list[list[str | None]]]:
        """Rewards of N trajectories, their calls, and the reader's answers from the final memories.

        Where the trajectories lie on several processes, these are those of this process, and N counts them only.

        A question without an answer, or without a grade, for good is left out of r1; its final answer is None.

        Args:
          episodes_N: the episode of each trajectory. chunk_tokens_N: tokens of its chunks.
          group_N: the group of each trajectory, within which a failed judge masks r4 together.

        Raises:
          UserError: no question of a trajectory has an answer.
          JudgeError: see `compute_rewards`.
        """
        trajectory = replace(trajectory, **own_part({name: getattr(trajectory, name) for name in _SCORED}))
        active_NT = trajectory.active_NT
        scores, answers = self._answered(trajectory, episodes_N)
        questions_N, scores = _without_failed(episodes_N, scores)
        gains_NT = None
        if self.config.credit == "gain":
            gains_NT = np.zeros(active_NT.shape)
            for n, (questions, scores_QT) in enumerate(zip(questions_N, scores, strict=True)):
                gains_NT[n, : scores_QT.shape[1]] = gains(questions, scores_QT)
        revisions_N = None
        if not self.config.pay_stale:
            revisions_of = {key: revisions(episode) for key, episode in {id(e): e for e in episodes_N}.items()}
            revisions_N = [revisions_of[id(episode)] for episode in episodes_N]
        applied = applied_calls(trajectory.calls, trajectory.statuses_NTK, self.tokenizer.decode)
        rewards = compute_rewards(
            [scores_QT[:, -1].tolist() for scores_QT in scores],
            applied,
            chunk_mask_NT=active_NT,
            memory_tokens_N=trajectory.memory_tokens_NT[:, -1],
            chunk_tokens_N=chunk_tokens_N,
            config=self.config,
            judge=self.judge,
            group_N=group_N,
            gains_NT=gains_NT,
            revisions_N=revisions_N,
        )
        return rewards, applied, answers

    def _answered(
        self, trajectory: Trajectory, episodes_N: Sequence[Episode]
    ) -> tuple[list[np.ndarray], list[list[str | None]]]:
        """Per trajectory the scores [Q, T] (0 where nothing was asked, nan where it failed) and the final answers."""
        asked = list(self._asked(trajectory, episodes_N))
        queries = [one.query for one in asked]
        golds = [episodes_N[one.n].questions[one.q].answer for one in asked]
        answers = self.reader.answer(queries)
        scores = [np.zeros((len(episode.questions), len(episode.chunks))) for episode in episodes_N]
        final: list[list[str | None]] = [[None] * len(episode.questions) for episode in episodes_N]
        given = score_answers(queries, answers, golds, published=self.config.published_scores, grader=self.grader)
        for one, answer, score in zip(asked, answers, given, strict=True):
            scores[one.n][one.q, one.t] = np.nan if score is None else score
            final[one.n][one.q] = answer  # the queries come in order of steps
        return scores, final

    def _asked(self, trajectory: Trajectory, episodes_N: Sequence[Episode]) -> Iterator[_Asked]:
        T = trajectory.active_NT.shape[1]
        for t, memory in self._memories(trajectory):
            for n, (episode, state) in enumerate(zip(episodes_N, unstack(memory), strict=True)):
                last = len(episode.chunks) - 1
                if last <= t < T - 1:  # nothing changes any more: it is asked from the final memory
                    continue
                step = min(t, last)
                due = [q for q, question in enumerate(episode.questions) if step in steps_asked(question, last + 1)]
                questions = [episode.questions[q] for q in due]
                queries = reader_queries(questions, episode.data_source, state, self.tokenizer)
                yield from (_Asked(n, q, step, query) for q, query in zip(due, queries, strict=True))

    def _memories(self, trajectory: Trajectory) -> Iterator[tuple[int, MemoryState]]:
        """The memories [N] after each chunk step that an answer is wanted from, the final ones last.

        Those in between are not kept by the rollout: they are made again from the recorded calls.
        """
        N, T = trajectory.active_NT.shape
        if self.config.credit == "gain":
            memory = empty_memory(room_for(self.engine.memory, self.engine.rollout, T), (N,))
            for t in range(T - 1):
                calls = jax.tree.map(lambda x, t=t: x[:, t], trajectory.calls)
                memory, _ = self._apply(memory, calls, np.int32(t))
                yield t, memory
        yield T - 1, trajectory.memory


def _without_failed(
    episodes_N: Sequence[Episode], scores: Sequence[np.ndarray]
) -> tuple[list[list[Question]], list[np.ndarray]]:
    """The questions, and their scores [Q, T], that were answered wherever they were asked."""
    questions_N, kept_N, failed = [], [], 0
    for n, (episode, scores_QT) in enumerate(zip(episodes_N, scores, strict=True)):
        good_Q = np.isfinite(scores_QT).all(axis=1)
        if not good_Q.any():
            raise UserError(
                f"none of the {len(good_Q)} questions of episode {episode.instance_id!r} (trajectory {n}) has an "
                "answer and a grade; see the warnings above for the reason, then run the same command again"
            )
        failed += int((~good_Q).sum())
        questions_N.append([question for question, good in zip(episode.questions, good_Q, strict=True) if good])
        kept_N.append(scores_QT[good_Q])
    if failed:
        asked = sum(map(len, scores))
        logging.warning("%d OF %d QUESTIONS HAVE NO ANSWER and are left out of the rewards of this step", failed, asked)
    return questions_N, kept_N


def of_all_rows(rewards: Rewards, applied: AppliedCalls, mesh: Mesh, N: int) -> tuple[Rewards, AppliedCalls]:
    """The rewards and calls of all N trajectories, on every process, from those of each; the calls without texts.

    Advantages need them: the mean and the deviation may be those of the whole batch.
    """
    mine = (vars(rewards), {name: value for name, value in vars(applied).items() if name != "texts"})
    all_rewards, all_calls = whole(place_rows(mine, mesh, N))
    return replace(rewards, **all_rewards), replace(applied, texts=(), **all_calls)
