"""The comparison behind the results table: policies, scripted writers and retrieval on the same episodes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from memalpha_jax.call_statistics import call_statistics, sentences_per_chunk, stored_shares
from memalpha_jax.config import to_dict
from memalpha_jax.episodes.episode import Episode
from memalpha_jax.episodes.generated import has_sentences
from memalpha_jax.episodes.sources import EpisodesConfig, load_episodes
from memalpha_jax.evaluation import (
    PolicyWriter,
    WrittenMemory,
    answer_from_chunks,
    answer_from_memories,
    stream_tokens,
)
from memalpha_jax.experiment import Config, EvaluationConfig
from memalpha_jax.policy.policy import Policy
from memalpha_jax.report.statistics import (
    bootstrap_ratio,
    independent_difference,
    paired_difference,
)
from memalpha_jax.report.tables import ALL, Row
from memalpha_jax.rewards.reader import ExtractiveReader, Reader
from memalpha_jax.rollout.engine import make_engine
from memalpha_jax.rollout.rollout import Engine
from memalpha_jax.rollout.scripted import RandomChooser, oracle

SCRIPT_ROOM = 4
"""How many times the policy's reply budget a scripted writer has."""

Scores = list[list[float]]
"""Score of every question, per episode."""

SECTIONS = ("rows", "calls", "choices", "differences", "length_losses")

ABOUT = {
    "n": "episodes where kind is `all` (accuracy: mean over episodes of their means), else questions",
    "intervals": "95 % percentile bootstrap over episodes",
    "reader": "extractive, one value per answer: a stale or second value beside the right one is wrong",
    "random_chooser": "copies perfectly into the right list and updates what is corrected, but chooses "
    "blindly, as many sentences per chunk as `trained` makes calls",
    "oracle": "stores exactly the sentences that are asked about",
    "bm25_rag": "no memory: answers from the 2 raw chunks BM25 ranks first; memory tokens: the whole stream",
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one policy did on one set of episodes; `memories` is None for plain retrieval."""

    scores: Scores
    memories: list[WrittenMemory] | None
    memory_tokens: float

    def means(self) -> list[float]:
        """Mean score of each episode."""
        return [float(np.mean(own)) for own in self.scores]


def greedy_engine(policy: Policy) -> Engine:
    """The rollout of a policy that always takes the most likely token."""
    return make_engine(policy.config, policy.memory, policy.rollout, policy.tokenizer, temperature=0.0)


def with_long_replies(policy: Policy) -> Policy:
    """Room in a reply for every sentence of a chunk, so that a script stores what it has chosen."""
    tokens, calls = policy.rollout.reply_tokens, policy.rollout.max_calls
    longer = dataclasses.replace(policy.rollout, reply_tokens=SCRIPT_ROOM * tokens, max_calls=SCRIPT_ROOM * calls)
    return dataclasses.replace(policy, rollout=longer)


class Writers:
    """Policies ready to write, one set of compiled functions for all policies of the same make."""

    def __init__(self, policies: Mapping[str, Policy], batch: int, seed: int):
        self.policies = dict(policies)
        self._made: dict[tuple, PolicyWriter] = {}
        self._batch, self._seed = batch, seed

    def of(self, policy: Policy) -> PolicyWriter:
        """The writer for policies of this architecture, these budgets and this tokenizer."""
        files = getattr(policy.tokenizer, "files", None)
        config = dataclasses.replace(policy.config, path="")  # where training began makes no other function
        make = (config, policy.memory, policy.rollout, str(files() if files else id(policy.tokenizer)))
        if make not in self._made:
            self._made[make] = PolicyWriter(greedy_engine(policy), policy.tokenizer, self._batch, self._seed)
        return self._made[make]


def compare(policies: Mapping[str, Policy], config: Config) -> dict[str, Any]:
    """Evaluates `policies` on held-out episodes; `trained`, if there, sets the random chooser's rate.

    Returns:
      The JSON-able content of `results.json`: `rows` (`report.tables.Row`), `calls` (`CallStatistics` per
      policy, source and length), `choices` (share of the sentences of each kind that was stored), `differences`
      (paired), `length_losses`, `about`.
    """
    writers = Writers(policies, config.evaluation.batch, config.seed)
    results: dict[str, Any] = {**{section: [] for section in SECTIONS}, "about": ABOUT}
    first: dict[str, dict[str, Outcome]] = {}
    for length, count in _lengths(config).items():
        episodes = held_out_episodes(config, length, count, next(iter(policies.values())))
        for source in dict.fromkeys(episode.data_source for episode in episodes):
            own = [episode for episode in episodes if episode.data_source == source]
            outcomes = evaluate_all(writers, own, config, f"{source} {length}x")
            place = {"source": source, "length": f"{length}x"}
            for name, outcome in outcomes.items():
                results["rows"] += [to_dict(row) for row in rows_of(name, outcome, own, place, config.evaluation)]
                if outcome.memories is not None:
                    statistics = call_statistics(own, outcome.memories, config.rewards.near_duplicate)
                    results["calls"].append({"policy": name, **place, **to_dict(statistics)})
                    results["choices"] += choices_of(name, outcome.memories, own, place)
            results["differences"] += differences(outcomes, place, config.evaluation)
            results["length_losses"] += length_losses(
                first.setdefault(source, outcomes), outcomes, place, config.evaluation
            )
    return results


def _lengths(config: Config) -> dict[int, int]:
    """How many episodes there are of each length; only generated ones can be made longer."""
    evaluation = config.evaluation
    if config.episodes.source != "generated":
        return {1: evaluation.episodes[0]}
    return dict(zip(evaluation.lengths, evaluation.episodes, strict=True))


def held_out_episodes(config: Config, length: int, count: int, policy: Policy) -> list[Episode]:
    """`count` episodes `length` times as long as in training, none of which training has seen."""
    episodes: EpisodesConfig = dataclasses.replace(
        config.episodes, chunks=config.episodes.chunks * length, num_eval=count
    )
    count_tokens = lambda text: len(policy.tokenizer.encode(text))
    first = config.evaluation.first if config.episodes.source == "generated" else 0
    return list(load_episodes(episodes, "eval", count_tokens, first))


def evaluate_all(writers: Writers, episodes: Sequence[Episode], config: Config, where: str) -> dict[str, Outcome]:
    """Every policy, and the scripted writers where the episodes have sentence records."""
    reader, outcomes = ExtractiveReader(one_value=True), {}
    for name, policy in writers.policies.items():
        start = time.monotonic()
        memories = writers.of(policy).write(policy.params, episodes)
        outcomes[name] = outcome_of(episodes, memories, reader)
        accuracy = 100 * np.mean(outcomes[name].means())
        logging.info("%s: %s %.1f %% (%.0f s)", where, name, accuracy, time.monotonic() - start)
    base_name = "trained" if "trained" in writers.policies else next(iter(writers.policies))
    base = writers.policies[base_name]
    if all(has_sentences(episode) for episode in episodes):
        calls = call_statistics(episodes, outcomes[base_name].memories or []).calls_per_chunk
        chooser = RandomChooser(min(1.0, calls / sentences_per_chunk(episodes)))
        script_writer = writers.of(with_long_replies(base))
        for name, script in (("random_chooser", chooser), ("oracle", oracle)):
            memories = script_writer.write_scripted(episodes, script)
            outcomes[name] = outcome_of(episodes, memories, reader)
    streams = [stream_tokens(episode, base.tokenizer) for episode in episodes]
    outcomes["bm25_rag"] = Outcome(answer_from_chunks(episodes, reader), None, float(np.mean(streams)))
    return outcomes


def outcome_of(episodes: Sequence[Episode], memories: list[WrittenMemory], reader: Reader) -> Outcome:
    """Scores of the answers given from `memories`."""
    tokens = float(np.mean([memory.tokens for memory in memories]))
    return Outcome(answer_from_memories(episodes, memories, reader), memories, tokens)


def rows_of(
    name: str,
    outcome: Outcome,
    episodes: Sequence[Episode],
    place: Mapping[str, str],
    config: EvaluationConfig,
) -> list[Row]:
    """One row over all questions and one for each kind of question."""

    def row(kind: str, n: int, totals: Sequence[float], counts: Sequence[float]) -> Row:
        e = bootstrap_ratio(totals, counts, config.bootstrap)
        return Row(name, place["source"], kind, place["length"], n, e.mean, e.low, e.high, outcome.memory_tokens)

    means = outcome.means()
    rows = [row(ALL, len(means), means, [1.0] * len(means))]
    for kind in sorted({question.kind for episode in episodes for question in episode.questions}):
        of_kind = [
            [value for value, question in zip(own, episode.questions, strict=True) if question.kind == kind]
            for own, episode in zip(outcome.scores, episodes, strict=True)
        ]
        counts = [float(len(own)) for own in of_kind]
        rows.append(row(kind, int(sum(counts)), [sum(own) for own in of_kind], counts))
    return rows


def choices_of(
    name: str, memories: Sequence[WrittenMemory], episodes: Sequence[Episode], place: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The share of the sentences of each kind that was stored; empty for episodes without sentence records."""
    if not all(has_sentences(episode) for episode in episodes):
        return []
    return [
        {"policy": name, **place, "kind": kind, "n": n, "stored_share": share}
        for kind, (n, share) in stored_shares(episodes, memories).items()
    ]


def differences(
    outcomes: Mapping[str, Outcome], place: Mapping[str, str], config: EvaluationConfig
) -> list[dict[str, Any]]:
    """`trained` minus every other policy, over the same episodes."""
    if "trained" not in outcomes:
        return []
    trained, found = outcomes["trained"].means(), []
    for name in outcomes:
        if name != "trained":
            e = paired_difference(trained, outcomes[name].means(), config.bootstrap)
            ends = {"difference": e.mean, "ci_low": e.low, "ci_high": e.high}
            found.append({"policy": "trained", "baseline": name, **place, **ends})
    return found


def length_losses(
    short: Mapping[str, Outcome],
    long: Mapping[str, Outcome],
    place: Mapping[str, str],
    config: EvaluationConfig,
) -> list[dict[str, Any]]:
    """How much more `trained` loses from the shortest length to this one than `oracle` does."""
    if short is long or not {"trained", "oracle"} <= long.keys():
        return []
    gaps = [np.subtract(o["oracle"].means(), o["trained"].means()) for o in (long, short)]
    extra = independent_difference(gaps[0], gaps[1], config.bootstrap)
    losses = {
        f"{name}_loss": float(np.mean(short[name].means()) - np.mean(long[name].means()))
        for name in ("trained", "oracle")
    }
    return [{**place, **losses, "extra_loss": extra.mean, "ci_low": extra.low, "ci_high": extra.high}]
