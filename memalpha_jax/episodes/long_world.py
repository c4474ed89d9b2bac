"""A generated world of prose-like text, for episodes of any length from about a thousand to a million tokens.

It stands beside the tiny world of `generated.py`, whose lines are shorter and fewer. An episode is of one kind, which
is also the end of its `data_source`:

  kind        competence                  what is asked
  retrieval   accurate retrieval          dated events; facts reached over one, two or three statements
  conflict    conflict resolution         facts of the same sort that later statements have replaced
  rules       test-time learning          labels of unseen samples, decided by one of four features of a sample
  summary     long-range understanding    a journey that is told bit by bit; gold: its towns and things, as keywords
  totals      long-range understanding    what is left after gains and losses all over the text

Gold answers, and the chunks that hold the evidence, are exact. A fact that was replaced is no evidence. Splits share
words and no name of a person, town or thing. Retrieval is well-posed: see `long_world_threads`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

import numpy as np

from memalpha_jax.episodes import long_world_threads
from memalpha_jax.episodes.chunkers import CountTokens, Unit, unit_chunker
from memalpha_jax.episodes.episode import MAX_QUESTIONS, Episode, Question, validate
from memalpha_jax.episodes.generated import Sentence, sentence_to_json
from memalpha_jax.episodes.long_world_threads import Thread
from memalpha_jax.episodes.long_world_words import Cast
from memalpha_jax.episodes.names import SPLITS
from memalpha_jax.episodes.source import EVALUATION, TRAINING, BuildOptions, Paths, Source
from memalpha_jax.errors import UserError

COMPETENCE_OF = {
    "retrieval": "accurate retrieval",
    "conflict": "conflict resolution",
    "rules": "test-time learning",
    "summary": "long-range understanding",
    "totals": "long-range understanding",
}
KINDS = tuple(COMPETENCE_OF)
_BUILDERS: dict[str, Callable[[Cast, LongWorldConfig], Thread]] = {
    "retrieval": long_world_threads.retrieval_thread,
    "conflict": long_world_threads.conflict_thread,
    "summary": long_world_threads.summary_thread,
    "totals": long_world_threads.total_thread,
}
_FAILURES = 20
"""So many threads in a row that do not fit any more, and the text is full."""


@dataclasses.dataclass(frozen=True)
class LongWorldConfig:
    """How hard the long world is. Every attribute is a knob; those of other kinds have no effect.

    Attributes:
      noise_share: of the tokens, in sentences about the same people, towns and dates that no question is about.
      questions: most questions of an episode, up to 100. The other statements of a long text are distractors of the
        same form.
      facts_per_person: statements of different sorts about the same person, on average: more make people easier to
        take for each other.
      hop_weights: (retrieval, conflict) relative frequency of facts over one, two, .. statements.
      event_share: (retrieval) of the statements, in dated events of two people.
      revised_share: (conflict) of the facts, in facts that are replaced; the others are not asked about.
      revisions: (conflict) how often such a fact is replaced, least and most.
      marked_share: (conflict) of the replacing statements, in statements that say that things have changed. Of the
        others only their later place tells that they are the valid ones.
      rules: (rules) values of the feature that decides a label. labels: different labels.
      stops: (summary) of a journey, least and most. Each gives two keywords.
      changes: (totals) gains and losses behind a total, least and most. loss_share: of the changes, in losses.
    """

    noise_share: float = 0.5
    questions: int = 40
    facts_per_person: float = 3.0
    hop_weights: tuple[float, ...] = (0.5, 0.3, 0.2)
    event_share: float = 0.2
    revised_share: float = 0.5
    revisions: tuple[int, int] = (1, 3)
    marked_share: float = 0.5
    rules: int = 6
    labels: int = 3
    stops: tuple[int, int] = (3, 6)
    changes: tuple[int, int] = (3, 8)
    loss_share: float = 0.3

    def __post_init__(self) -> None:
        for field in ("noise_share", "event_share", "revised_share", "marked_share", "loss_share"):
            if not 0 <= getattr(self, field) <= 1:
                raise UserError(f"long world: {field} is {getattr(self, field)}; it must lie between 0 and 1")
        if self.noise_share == 1 or self.event_share == 1 or self.revised_share == 0:
            raise UserError("long world: noise_share and event_share must be below 1, and revised_share above 0")
        if not 1 <= self.questions <= MAX_QUESTIONS:
            raise UserError(f"long world: questions is {self.questions}; it must lie between 1 and {MAX_QUESTIONS}")
        if self.facts_per_person < 1:
            raise UserError(f"long world: facts_per_person is {self.facts_per_person}; it must be at least 1")
        if not self.hop_weights or min(self.hop_weights) < 0 or sum(self.hop_weights) <= 0:
            raise UserError(
                f"long world: hop_weights are {self.hop_weights}; none may be negative, one must be above 0"
            )
        for field, least, most in (("revisions", 1, 10), ("stops", 1, 20), ("changes", 1, 1000)):
            low, high = getattr(self, field)
            if not least <= low <= high <= most:
                raise UserError(f"long world: {field} is {low, high}; they must rise from {least} to {most} at most")
        if not 2 <= self.labels <= self.rules <= 24:
            raise UserError(
                f"long world: labels {self.labels} and rules {self.rules} must satisfy 2 <= labels <= rules <= 24"
            )


def generate_long_episode(
    config: LongWorldConfig,
    kind: str,
    split: str,
    index: int,
    *,
    tokens: int,
    chunk_tokens: int,
    count_tokens: CountTokens,
    seed: int = 0,
) -> Episode:
    """Episode number `index` of a kind, split ("train" or "eval") and length; a function of the arguments alone.

    Args:
      tokens: of all chunks together, at most; little less is used. chunk_tokens: of a chunk, at most.
      count_tokens: of a text; besides the other arguments, only the numbers that it gives matter.

    Returns:
      A validated episode. `metadata["sentences"]` holds for every chunk what a perfect writer stores after it, in the
      form of `generated.sentences`, so that `rollout.scripted.oracle` can write it: a statement that is asked about as
      it stands, or what follows from the statements so far (a total, a rule, a summary, a fact over several hops),
      each replacing what was held of the same question before.

    Raises:
      UserError: unknown kind or split, a length with no room for a question, or names that run out.
    """
    if kind not in KINDS or split not in SPLITS:
        raise UserError(
            f"long world: kind {kind!r} and split {split!r} must be of {', '.join(KINDS)} and {', '.join(SPLITS)}"
        )
    rng = np.random.default_rng([seed, KINDS.index(kind), SPLITS.index(split), tokens, index])
    cast = Cast(rng, split, config.facts_per_person)
    cost = lambda text: count_tokens(f"{text}\n")
    threads, spent = _threads(config, kind, cast, int(tokens * (1 - config.noise_share)), cost)
    noise = _noise(cast, tokens - spent, cost) if config.noise_share else []
    texts, places = _scattered(rng, threads, noise)
    chunks = unit_chunker(chunk_tokens, count_tokens)([Unit(text, key=i) for i, text in enumerate(texts)])
    chunks_of: dict[Hashable, list[int]] = {i: [] for i in range(len(texts))}
    for t, chunk in enumerate(chunks):
        for key in chunk.keys:
            chunks_of[key].append(t)
    asked = _asked(rng, threads, config.questions)
    questions = [
        dataclasses.replace(question, evidence=_evidence(threads[i], places[i], chunks_of)) for i, question in asked
    ]
    notes = _notes(threads, places, dict(asked), chunks_of, len(chunks))
    return validate(
        Episode(
            instance_id=f"generated-{kind}-{split}-{tokens}-{seed}-{index}",
            data_source=f"generated_{kind}",
            chunks=tuple(chunk.text for chunk in chunks),
            questions=tuple(questions),
            metadata={"split": split, "sentences": [[sentence_to_json(note) for note in chunk] for chunk in notes]},
        )
    )


def _threads(
    config: LongWorldConfig, kind: str, cast: Cast, budget: int, cost: Callable[[str], int]
) -> tuple[list[Thread], int]:
    """Threads that fill `budget` tokens, and the tokens that they take."""
    if kind == "rules":
        return long_world_threads.rule_threads(cast, config, budget, cost)
    first = dataclasses.replace(config, revised_share=1.0)  # an episode needs something to ask about
    threads, spent, failures = list[Thread](), 0, 0
    while failures < _FAILURES:
        thread = _BUILDERS[kind](cast, config if threads else first)
        tokens = sum(cost(one.text) for one in thread.told)
        if spent + tokens > budget:
            failures += 1
            continue
        threads.append(thread)
        spent, failures = spent + tokens, 0
    if not threads:
        raise UserError(
            f"long world: {budget} tokens of statements have no room for one question of kind {kind!r}; make the "
            f"episode longer or lower noise_share ({config.noise_share})"
        )
    return threads, spent


def _noise(cast: Cast, budget: int, cost: Callable[[str], int]) -> list[str]:
    """Talk of up to `budget` tokens, about those who are known and some others."""
    for _ in range(budget // 400):
        cast.new_person()
    lines: list[str] = []
    while (budget := budget - cost(line := cast.talk())) >= 0:
        lines.append(line)
    return lines


def _scattered(
    rng: np.random.Generator, threads: Sequence[Thread], noise: Sequence[str]
) -> tuple[list[str], list[list[int]]]:
    """All sentences in a random order that keeps the order within each thread, and the places of each thread."""
    order = iter(rng.permutation(sum(len(thread.told) for thread in threads) + len(noise)).tolist())
    places = [sorted(itertools.islice(order, len(thread.told))) for thread in threads]
    at = {
        p: one.text
        for thread, own in zip(threads, places, strict=True)
        for p, one in zip(own, thread.told, strict=True)
    }
    at |= dict(zip(order, noise, strict=True))
    return [at[place] for place in range(len(at))], places


def _asked(rng: np.random.Generator, threads: Sequence[Thread], limit: int) -> list[tuple[int, Question]]:
    """At most `limit` questions in random order, each with the number of its thread."""
    possible = [(i, question) for i, thread in enumerate(threads) for question in thread.questions]
    return [possible[int(i)] for i in rng.permutation(len(possible))[:limit]]


def _evidence(thread: Thread, places: Sequence[int], chunks_of: Mapping[Hashable, Sequence[int]]) -> tuple[int, ...]:
    """The chunks of the sentences that are still valid at the end."""
    last = {one.key: place for one, place in zip(thread.told, places, strict=True)}
    return tuple(sorted({t for place in last.values() for t in chunks_of[place]}))


def _notes(
    threads: Sequence[Thread],
    places: Sequence[Sequence[int]],
    asked: dict[int, Question],
    chunks_of: Mapping[Hashable, Sequence[int]],
    chunks: int,
) -> list[list[Sentence]]:
    """Per chunk, what a perfect writer stores after it; see `generate_long_episode`."""
    notes: list[list[Sentence]] = [[] for _ in range(chunks)]
    for i, question in sorted(asked.items()):
        after = {chunks_of[place][-1]: note for place, note in zip(places[i], threads[i].notes, strict=True)}
        before: tuple[int, int] | None = None
        for t, text in sorted(after.items()):
            if before is not None and notes[before[0]][before[1]].text == text:
                continue
            notes[t].append(Sentence(text, question.kind, threads[i].subject, True, True, "", corrects=before))
            before = (t, len(notes[t]) - 1)
    return notes


# --- as data sources ---

EPISODES = {TRAINING: 112, EVALUATION: 8}
"""Episodes of each kind that `prepare` builds: 112 leave 100 after a tenth is kept back."""
LENGTHS = {TRAINING: (4_096, 8_192, 16_384), EVALUATION: (16_384, 65_536)}
"""Tokens of these episodes, in turn, unless `stream_tokens` or `chunks` says otherwise."""
CHUNK_TOKENS = 2_048
LONGEST_SENTENCE = 32
"""About so many tokens at the end of a chunk may stay free."""


def load_generated(kind: str, role: str, paths: Paths, options: BuildOptions) -> Iterator[Episode]:
    """Episodes of a kind without any file: names of the "train" split for training, of "eval" for evaluation."""
    chunk_tokens = options.chunk_tokens or CHUNK_TOKENS
    wanted = options.stream_tokens or options.chunks * max(1, chunk_tokens - LONGEST_SENTENCE)
    for index in range(EPISODES[role]):
        tokens = LENGTHS[role][index % len(LENGTHS[role])]
        yield generate_long_episode(
            LongWorldConfig(),
            kind,
            "train" if role == TRAINING else "eval",
            index,
            tokens=wanted or tokens,
            chunk_tokens=chunk_tokens,
            count_tokens=options.count_tokens,
            seed=options.seed,
        )


SOURCES = tuple(
    Source(
        name=f"generated_{kind}",
        role=role,
        competence=competence,
        files={},
        where="nowhere: it is generated",
        licence="that of this package",
        load=functools.partial(load_generated, kind, role),
    )
    for kind, competence in COMPETENCE_OF.items()
    for role in (TRAINING, EVALUATION)
)
