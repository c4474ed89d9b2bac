"""The reward of every chunk of every trajectory: R(k,t) = r1(k) + r2(k,t) + beta r3(k) + gamma r4(k,t), paper
section 3.

Axes: N trajectories, T chunk steps, K calls per reply.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from memalpha_jax.errors import UserError
from memalpha_jax.rewards import metrics
from memalpha_jax.rewards.config import GraderConfig, JudgeConfig, ReaderConfig
from memalpha_jax.rewards.credit import CREDITS
from memalpha_jax.rewards.duplicates import near_duplicates
from memalpha_jax.rewards.judge import GradeQuery, Grader, Judge, JudgeError, JudgeQuery
from memalpha_jax.rewards.reader import ReaderQuery
from memalpha_jax.rewards.stale import Revisions, beside_stale
from memalpha_jax.tools.calls import SUCCESSES, CallBatch, CallKind, Status


@dataclass(frozen=True)
class RewardConfig:
    """Weights and choices of the reward; the defaults are the published ones.

    Attributes:
      beta, gamma, r2_weight: weights of r3, r4 and r2. With gamma 0 no judge is called.
      credit: which chunks r1 is paid to, "episode" or "gain" (see `credit.py`).
      pay_duplicates: True pays a text again when it is stored again in other words (r2) and judges the text of skipped
        exact duplicates (r4). False: near-duplicates are failures in r2 and 0 in r4, and so are skipped calls.
      pay_stale: True pays a correction that is stored beside what it corrects. False: it is a repeat (`stale.py`; needs
        episodes whose generator recorded the corrections).
      repeat_cost: how many successful calls one repeat, exact or near, costs in r2, besides not counting as one.
      near_duplicate: word Jaccard, in (0, 1], from which two texts count as near-duplicates.
      one_value: the reader answers with one value (`ExtractiveReader.one_value`), so that a stale one costs.
      published_scores: score answers with the released quirks (`metrics.score`).
      judge_retries: further attempts when the judge fails, after waits of judge_wait_s, twice that, ...
      judge_failure: when it still fails, "fail" raises `JudgeError`; "mask" leaves r4 out for the groups concerned.
      reader, judge, grader: who answers the questions, judges what was stored, and grades answers that no rule scores.
    """

    beta: float = 0.05
    gamma: float = 0.1
    r2_weight: float = 1.0
    credit: str = "episode"
    pay_duplicates: bool = True
    pay_stale: bool = True
    repeat_cost: float = 0.0
    near_duplicate: float = 0.8
    one_value: bool = False
    published_scores: bool = False
    judge_retries: int = 2
    judge_wait_s: float = 1.0
    judge_failure: str = "fail"
    reader: ReaderConfig = ReaderConfig()
    judge: JudgeConfig = JudgeConfig()
    grader: GraderConfig = GraderConfig()

    def __post_init__(self) -> None:
        if self.judge_failure not in ("fail", "mask"):
            raise UserError(f"rewards.judge_failure is {self.judge_failure!r}; use 'fail' or 'mask'")
        if self.credit not in CREDITS:
            raise UserError(f"rewards.credit is {self.credit!r}; use {' or '.join(map(repr, CREDITS))}")
        if not 0 < self.near_duplicate <= 1:
            raise UserError(f"rewards.near_duplicate is {self.near_duplicate}; it must be above 0 and at most 1")
        if self.repeat_cost < 0:
            raise UserError(f"rewards.repeat_cost is {self.repeat_cost}; it must not be negative")
        if self.judge_retries < 0 or self.judge_wait_s < 0:
            raise UserError("rewards.judge_retries and rewards.judge_wait_s must not be negative")


@dataclass(frozen=True)
class AppliedCalls:
    """The calls of a batch of trajectories and what became of them, on the host.

    kind, memory_type, item_id, status: int32[N, T, K] as in `CallBatch`, status after application (NO_CALL: unused).
    dropped: int32[N, T], calls beyond K. texts[n][t][k]: the text a call carries, "" where it carries none.
    """

    kind_NTK: np.ndarray
    memory_type_NTK: np.ndarray
    item_id_NTK: np.ndarray
    status_NTK: np.ndarray
    dropped_NT: np.ndarray
    texts: Sequence[Sequence[Sequence[str]]]


def applied_calls(calls: CallBatch, statuses_NTK: np.ndarray, decode: Callable[[list[int]], str]) -> AppliedCalls:
    """Brings calls [N, T] to the host and decodes the texts; equal token rows are decoded once."""
    content_NTKL, length_NTK = np.asarray(calls.content_KL), np.asarray(calls.length_K)
    known: dict[bytes, str] = {}

    def text(n: int, t: int, k: int) -> str:
        tokens = content_NTKL[n, t, k, : length_NTK[n, t, k]]
        key = tokens.tobytes()
        if key not in known:
            known[key] = decode(tokens.tolist()) if len(tokens) else ""
        return known[key]

    N, T, K = length_NTK.shape
    return AppliedCalls(
        kind_NTK=np.asarray(calls.kind_K),
        memory_type_NTK=np.asarray(calls.memory_type_K),
        item_id_NTK=np.asarray(calls.item_id_K),
        status_NTK=np.asarray(statuses_NTK),
        dropped_NT=np.asarray(calls.dropped),
        texts=[[[text(n, t, k) for k in range(K)] for t in range(T)] for n in range(N)],
    )


@dataclass(frozen=True)
class Rewards:
    """Reward components and their sum; rows beyond an episode's chunks are 0.

    r1, r3: float32[N]. r2, r4, total: float32[N, T]; total holds r1 as `RewardConfig.credit` says.
    chunk_mask: bool[N, T]. r4_valid: bool[N], False where the judge failed and r4 was left out of the total.
    calls, skipped, near_duplicates: int32[N, T] counts of all calls (dropped ones included), of exact duplicates
    and of near-duplicates.
    """

    r1_N: np.ndarray
    r2_NT: np.ndarray
    r3_N: np.ndarray
    r4_NT: np.ndarray
    total_NT: np.ndarray
    chunk_mask_NT: np.ndarray
    r4_valid_N: np.ndarray
    calls_NT: np.ndarray
    skipped_NT: np.ndarray
    near_duplicates_NT: np.ndarray

    @property
    def near_duplicate_rate(self) -> float:
        """Near-duplicates over all calls; 0 without calls."""
        return float(self.near_duplicates_NT.sum() / max(1, int(self.calls_NT.sum())))


def score_answers(
    queries: Sequence[ReaderQuery],
    answers: Sequence[str | None],
    golds: Sequence[metrics.Gold],
    *,
    published: bool = False,
    grader: Grader | None = None,
) -> list[float | None]:
    """One score per question; None where its answer, or the grade of it, failed for good.

    Answers of LLM-judged sources go to the grader in one batch.
    """
    graded = [
        i
        for i, (query, answer) in enumerate(zip(queries, answers, strict=True))
        if answer is not None and metrics.needs_grader(query.data_source)
    ]
    verdicts: dict[int, str | None] = {}
    if graded and grader is not None:
        asked = [
            GradeQuery(queries[i].question, tuple(metrics.golds(golds[i])), metrics.strip_thinking(answers[i] or ""))
            for i in graded
        ]
        verdicts = dict(zip(graded, grader.replies(asked), strict=True))
    return [
        None
        if answer is None or (i in verdicts and verdicts[i] is None)
        else metrics.score(query.data_source, answer, gold, published, verdicts.get(i))
        for i, (query, answer, gold) in enumerate(zip(queries, answers, golds, strict=True))
    ]


def compute_rewards(
    scores: Sequence[Sequence[float]],
    calls: AppliedCalls,
    *,
    chunk_mask_NT: np.ndarray,
    memory_tokens_N: np.ndarray,
    chunk_tokens_N: np.ndarray,
    config: RewardConfig,
    judge: Judge | None = None,
    group_N: np.ndarray | None = None,
    gains_NT: np.ndarray | None = None,
    revisions_N: Sequence[Revisions] | None = None,
) -> Rewards:
    """r1 to r4 and their sum.

    Args:
      scores: per trajectory the scores of its episode's questions.
      calls: the calls of every chunk, after application.
      chunk_mask_NT: bool, False beyond an episode's last chunk.
      memory_tokens_N: tokens of the final memory. chunk_tokens_N: tokens of all chunks of the episode.
      judge: needed where gamma is not 0.
      group_N: the group of each trajectory, within which a failed judge masks r4 together; None: all are one group.
      gains_NT: what each chunk is paid for the answers, with `config.credit` "gain".
      revisions_N: what is known about corrections in each trajectory's episode, with `config.pay_stale` False.

    Raises:
      UserError: no scores, a score that is not a number, empty chunks or mismatched sizes.
      JudgeError: the judge failed and `judge_failure` is "fail".
    """
    mask_NT = np.asarray(chunk_mask_NT, bool)
    N, calls = len(mask_NT), _within(calls, mask_NT)
    calls_NT = (calls.status_NTK != Status.NO_CALL).sum(-1) + calls.dropped_NT
    near_NTK = near_duplicates(
        calls.kind_NTK,
        calls.memory_type_NTK,
        calls.item_id_NTK,
        calls.status_NTK,
        calls.texts,
        config.near_duplicate,
    )
    paid_NTK = np.isin(calls.status_NTK, SUCCESSES)
    repeated_NTK = near_NTK | (calls.status_NTK == Status.SKIPPED)
    if not config.pay_duplicates:
        paid_NTK &= ~near_NTK
    if not config.pay_stale:
        beside_NTK = _beside_stale(calls, revisions_N)
        paid_NTK, repeated_NTK = paid_NTK & ~beside_NTK, repeated_NTK | beside_NTK
    r1_N = _mean_scores(scores, N)
    r2_NT = _share(paid_NTK.sum(-1) - config.repeat_cost * repeated_NTK.sum(-1), calls_NT)
    r3_N = _compression(np.asarray(memory_tokens_N), np.asarray(chunk_tokens_N))
    r4_NT, r4_valid_N = np.zeros(mask_NT.shape), np.ones(N, bool)
    if config.gamma != 0:
        good_NTK, r4_valid_N = _judged(calls, paid_NTK, config, judge, group_N)
        r4_NT = np.where(r4_valid_N[:, None], _share(good_NTK.sum(-1), calls_NT), 0.0)
    if (config.credit == "gain") != (gains_NT is not None):
        raise UserError(
            f"rewards: gains {'are missing' if gains_NT is None else 'were given'} with credit {config.credit!r}"
        )
    paid_r1_NT = r1_N[:, None] if gains_NT is None else gains_NT
    total_NT = paid_r1_NT + config.r2_weight * r2_NT + config.beta * r3_N[:, None] + config.gamma * r4_NT
    return Rewards(
        r1_N=r1_N.astype(np.float32),
        r2_NT=r2_NT.astype(np.float32),
        r3_N=r3_N.astype(np.float32),
        r4_NT=r4_NT.astype(np.float32),
        total_NT=np.where(mask_NT, total_NT, 0.0).astype(np.float32),
        chunk_mask_NT=mask_NT,
        r4_valid_N=r4_valid_N,
        calls_NT=calls_NT.astype(np.int32),
        skipped_NT=(calls.status_NTK == Status.SKIPPED).sum(-1).astype(np.int32),
        near_duplicates_NT=near_NTK.sum(-1).astype(np.int32),
    )


def _within(calls: AppliedCalls, mask_NT: np.ndarray) -> AppliedCalls:
    """The calls of real chunks only."""
    return replace(
        calls,
        status_NTK=np.where(mask_NT[..., None], calls.status_NTK, Status.NO_CALL),
        dropped_NT=np.where(mask_NT, calls.dropped_NT, 0),
    )


def _beside_stale(calls: AppliedCalls, revisions_N: Sequence[Revisions] | None) -> np.ndarray:
    if revisions_N is None:
        raise UserError("rewards: pay_stale is False, so what is known about corrections must be given")
    places = (calls.kind_NTK, calls.memory_type_NTK, calls.item_id_NTK, calls.status_NTK, calls.texts)
    return beside_stale(*places, revisions_N)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, 0 where there is nothing."""
    return part / np.maximum(whole, 1)


def _mean_scores(scores: Sequence[Sequence[float]], N: int) -> np.ndarray:
    if len(scores) != N:
        raise UserError(f"rewards: scores of {len(scores)} trajectories were given for a batch of {N}")
    for n, own in enumerate(scores):
        if len(own) == 0 or not np.all(np.isfinite(own)):
            raise UserError(
                f"rewards: trajectory {n} has the scores {list(own)}; every episode needs answered questions"
            )
    return np.array([np.mean(own) for own in scores], np.float64)


def _compression(memory_tokens_N: np.ndarray, chunk_tokens_N: np.ndarray) -> np.ndarray:
    if np.any(chunk_tokens_N <= 0):
        raise UserError("rewards: an episode has no chunk tokens, so its memory cannot be compared with its length")
    return 1.0 - memory_tokens_N / chunk_tokens_N


def _judged(
    calls: AppliedCalls,
    paid_NTK: np.ndarray,
    config: RewardConfig,
    judge: Judge | None,
    group_N: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """(bool[N, T, K] calls with an approved text, bool[N] trajectories of completely judged groups)."""
    if judge is None:
        raise UserError("rewards: gamma is not 0 but there is no judge; configure one or set rewards.gamma to 0")
    judged_NTK = paid_NTK & np.isin(calls.kind_NTK, (CallKind.INSERT, CallKind.UPDATE))
    if config.pay_duplicates:
        judged_NTK |= calls.status_NTK == Status.SKIPPED
    places = [tuple(place) for place in np.argwhere(judged_NTK).tolist()]
    queries = [JudgeQuery(int(calls.memory_type_NTK[n, t, k]), calls.texts[n][t][k]) for n, t, k in places]
    verdicts = _verdicts(judge, queries, config)
    N = len(judged_NTK)
    groups_N = np.zeros(N, int) if group_N is None else np.asarray(group_N)
    failed = {groups_N[place[0]] for place, query in zip(places, queries, strict=True) if query not in verdicts}
    good_NTK = np.zeros(judged_NTK.shape, bool)
    for place, query in zip(places, queries, strict=True):
        good_NTK[place] = verdicts.get(query, False)
    return good_NTK, np.array([group not in failed for group in groups_N], bool)


def _verdicts(judge: Judge, queries: Sequence[JudgeQuery], config: RewardConfig) -> dict[JudgeQuery, bool]:
    """Verdicts of the distinct queries; missing ones are left out or raise `JudgeError`."""
    verdicts: dict[JudgeQuery, bool] = {}
    missing, cause = list(dict.fromkeys(queries)), None
    for attempt in range(config.judge_retries + 1):
        if not missing:
            return verdicts
        if attempt:
            time.sleep(config.judge_wait_s * 2 ** (attempt - 1))
        given, cause = _attempt(judge, missing)
        verdicts |= given
        missing = [query for query in missing if query not in verdicts]
    if missing and config.judge_failure == "fail":
        raise JudgeError(
            f"the judge gave no verdict on {len(missing)} texts after {config.judge_retries + 1} attempts"
            f" ({cause}); check that it is running, or set rewards.judge_failure to 'mask' to train such "
            "groups without r4"
        ) from cause
    return verdicts


def _attempt(judge: Judge, queries: list[JudgeQuery]) -> tuple[dict[JudgeQuery, bool], JudgeError | None]:
    given: Sequence[bool | None]
    try:
        given, cause = judge.verdicts(queries), None
    except JudgeError as error:
        given, cause = error.partial or [None] * len(queries), error
    if len(given) != len(queries):
        return {}, JudgeError(f"{len(given)} verdicts for {len(queries)} texts")
    answered = zip(queries, given, strict=True)
    return {query: bool(verdict) for query, verdict in answered if verdict is not None}, cause


def reward_metrics(rewards: Rewards, sources: Sequence[str]) -> dict[str, float]:
    """Means of every component per data source and over all, as `reward/<source>/<name>`.

    sources: the data source of each trajectory. r1 and r3 are means over trajectories, the others over
    chunks; r4 is absent where the judge failed for every trajectory of a source.
    """
    names = np.array(sources)
    logged = {}
    for source in (*sorted(set(sources)), "all"):
        rows_N = np.ones(len(names), bool) if source == "all" else names == source
        for name, value in _source_metrics(rewards, rows_N).items():
            logged[f"reward/{source}/{name}"] = value
    return logged


def _source_metrics(rewards: Rewards, rows_N: np.ndarray) -> dict[str, float]:
    mask_NT = rewards.chunk_mask_NT & rows_N[:, None]
    judged_NT = mask_NT & rewards.r4_valid_N[:, None]
    calls = max(1, int(rewards.calls_NT[mask_NT].sum()))
    values = {
        "r1": rewards.r1_N[rows_N].mean(),
        "r2": rewards.r2_NT[mask_NT].mean(),
        "r3": rewards.r3_N[rows_N].mean(),
        "total": rewards.total_NT[mask_NT].mean(),
        "calls_per_chunk": rewards.calls_NT[mask_NT].mean(),
        "skipped_rate": rewards.skipped_NT[mask_NT].sum() / calls,
        "near_duplicate_rate": rewards.near_duplicates_NT[mask_NT].sum() / calls,
        "r4_masked": 1.0 - rewards.r4_valid_N[rows_N].mean(),
    }
    if judged_NT.any():
        values["r4"] = rewards.r4_NT[judged_NT].mean()
    return {name: float(value) for name, value in values.items()}
