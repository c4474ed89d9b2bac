"""A small invented world in which what to write, what to skip and what to correct can all be scored exactly.

Every line of a chunk is one short sentence of one kind. Facts, events, knowledge and labelled samples may be
asked about after the last chunk; chatter about the same people never is; a correction replaces a fact of some
earlier chunk, and only the new value is right. "Early" sentences open with the word that shows their kind
("Note: Kelora lives in Vordale."), "late" ones show it after the name ("Kelora lives in Vordale."), which is
harder for a causal writer.

Retrieval is well-posed by construction: in one episode a (subject, relation) is stated once and corrected at
most once, an event is unique in its verb and unordered pair of people, every invented thing is used for one
purpose, and a question uses the words of its statement.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from memalpha_jax.episodes import names as name_lists
from memalpha_jax.episodes.episode import MAX_QUESTIONS, Episode, Question, validate
from memalpha_jax.episodes.world_words import (
    CHATTER_OPENERS,
    CHATTER_VERBS,
    CLASSES,
    EVENT_VERBS,
    MONTHS,
    MOODS,
    RELATIONS,
    SAMPLE_WORDS,
    template_words,
    vocabulary_texts,
)
from memalpha_jax.errors import UserError

__all__ = [
    "QUESTION_KINDS",
    "Sentence",
    "WorldConfig",
    "generate_episode",
    "generate_episodes",
    "has_sentences",
    "sentences",
    "template_words",
    "vocabulary_texts",
]

QUESTION_KINDS = (
    "fact_early", "fact_late", "event_early", "event_late", "knowledge_early", "knowledge_late",
    "sample", "corrected",
)  # fmt: skip
DATA_SOURCE = "generated"
_TRIES = 30


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """How sentences are drawn. Rates are probabilities per sentence.

    Attributes:
      sentences_min, sentences_max: sentences per chunk, drawn uniformly.
      chatter_rate: share of sentences that are chatter.
      correction_rate: share of useful sentences, after the first chunk, that correct an earlier fact.
      late_rate: share of sentences whose kind shows only after the name.
      ask_rate: share of the useful, still valid sentences that are asked about.
      people: people known from the start; more arrive as `statements_per_person` is reached.
      statements_per_person: facts and events per person on average, at any episode length.
      fact_weight, event_weight, knowledge_weight, sample_weight: relative frequency of the useful kinds.
    """

    sentences_min: int = 6
    sentences_max: int = 8
    chatter_rate: float = 0.5
    correction_rate: float = 0.2
    late_rate: float = 0.5
    ask_rate: float = 0.8
    people: int = 4
    statements_per_person: float = 3.0
    fact_weight: float = 0.4
    event_weight: float = 0.25
    knowledge_weight: float = 0.15
    sample_weight: float = 0.2

    def __post_init__(self) -> None:
        if not 1 <= self.sentences_min <= self.sentences_max:
            raise UserError(
                f"world: sentences_min {self.sentences_min} and sentences_max {self.sentences_max} must "
                "satisfy 1 <= sentences_min <= sentences_max"
            )
        for field in ("chatter_rate", "correction_rate", "late_rate", "ask_rate"):
            if not 0 <= getattr(self, field) <= 1:
                raise UserError(f"world: {field} is {getattr(self, field)}; it must lie between 0 and 1")
        if self.people < 2 or self.statements_per_person <= 0:
            raise UserError("world: people must be at least 2 and statements_per_person above 0")
        weights = (self.fact_weight, self.event_weight, self.knowledge_weight, self.sample_weight)
        if min(weights) < 0 or sum(weights) <= 0:
            raise UserError(f"world: the weights of the kinds are {weights}; none may be negative, one must be above 0")


@dataclasses.dataclass(frozen=True)
class Sentence:
    """What the generator knows about one line of a chunk; positions are (chunk, line), both from 0.

    `kind` is a question kind, "correction_early/late" or "chatter_early/late". `useful`: everything but
    chatter, also a fact that will be corrected. `value` is what a question about it asks for ("" in chatter).
    """

    text: str
    kind: str
    subject: str
    useful: bool
    asked: bool
    value: str
    corrects: tuple[int, int] | None = None
    corrected_by: tuple[int, int] | None = None


@dataclasses.dataclass
class _World:
    """What has been said so far in an episode that is being written."""

    rng: np.random.Generator
    config: WorldConfig
    people: list[str]  # in order of arrival
    places: list[str]
    things: list[str]  # unused ones
    facts: dict[tuple[str, str], tuple[int, int]] = dataclasses.field(default_factory=dict)  # not yet corrected
    stated: set[tuple] = dataclasses.field(default_factory=set)
    personal_statements: int = 0
    lines: list[list[Sentence]] = dataclasses.field(default_factory=list)
    questions: dict[tuple[int, int], str] = dataclasses.field(default_factory=dict)  # by position of the statement

    def cast(self) -> list[str]:
        arrived = int(self.personal_statements / self.config.statements_per_person) + 1
        return self.people[: max(self.config.people, arrived)]

    def pick(self, options: Sequence) -> str:
        return options[int(self.rng.integers(len(options)))]

    def pair(self) -> tuple[str, str]:
        cast = self.cast()
        first, second = self.rng.choice(len(cast), 2, replace=False)
        return cast[first], cast[second]

    def late(self) -> bool:
        return bool(self.rng.random() < self.config.late_rate)


def generate_episode(config: WorldConfig, split: str, index: int, *, chunks: int = 3, seed: int = 0) -> Episode:
    """Episode number `index` of a split; a function of the arguments alone.

    `split` "train" and "eval" share syllables and words but no invented name. The cast, the facts and the
    corrections grow with `chunks`. `metadata["sentences"]` holds one list of sentence records per chunk: see
    `sentences`.
    """
    rng = np.random.default_rng([seed, name_lists.SPLITS.index(split), index])
    people, places, things = (_shuffled(rng, kind, split) for kind in ("person", "place", "thing"))
    world = _World(rng, config, people, places, things)
    for t in range(chunks):
        _write_chunk(world, t)
    asked = _choose_asked(world)
    lines = [
        [dataclasses.replace(line, asked=(t, i) in asked) for i, line in enumerate(chunk)]
        for t, chunk in enumerate(world.lines)
    ]
    return validate(
        Episode(
            instance_id=f"generated-{split}-{chunks}x-{seed}-{index}",
            data_source=DATA_SOURCE,
            chunks=tuple("\n".join(line.text for line in chunk) for chunk in lines),
            questions=tuple(_question(world, lines, position) for position in sorted(asked)),
            metadata={"split": split, "sentences": [[sentence_to_json(line) for line in chunk] for chunk in lines]},
        )
    )


def generate_episodes(
    config: WorldConfig, split: str, count: int, *, first: int = 0, chunks: int = 3, seed: int = 0
) -> list[Episode]:
    """`count` episodes of a split, from number `first` on."""
    return [generate_episode(config, split, first + i, chunks=chunks, seed=seed) for i in range(count)]


def has_sentences(episode: Episode) -> bool:
    """Whether the generator's sentence records came with the episode; another source may use the key for anything."""
    return episode.data_source == DATA_SOURCE and "sentences" in episode.metadata


def sentences(episode: Episode) -> list[list[Sentence]]:
    """The sentence records of a generated episode, per chunk in text order.

    In the long world (`long_world.py`) they are not lines of the chunk but what a perfect writer stores after it.
    """
    return [[_from_json(record) for record in chunk] for chunk in episode.metadata["sentences"]]


def _shuffled(rng: np.random.Generator, kind: str, split: str) -> list[str]:
    pool = name_lists.names(kind, split)
    return [pool[i] for i in rng.permutation(len(pool))]


def _write_chunk(world: _World, t: int) -> None:
    rng, config = world.rng, world.config
    count = int(rng.integers(config.sentences_min, config.sentences_max + 1))
    is_chatter = rng.random(count) < config.chatter_rate
    if t == 0:
        is_chatter[rng.integers(count)] = False  # an episode needs something to ask about
    world.lines.append([])
    for i in range(count):
        line, question = _chatter(world) if is_chatter[i] else _useful(world, (t, i))
        world.lines[t].append(line)
        if question:
            world.questions[(t, i)] = question


def _useful(world: _World, position: tuple[int, int]) -> tuple[Sentence, str]:
    rng, config = world.rng, world.config
    if position[0] > 0 and rng.random() < config.correction_rate:
        old = [key for key, stated in world.facts.items() if stated[0] < position[0]]
        old = [key for key in old if key[1] != "owns" or world.things]
        if old:
            return _correction(world, old[int(rng.integers(len(old)))], position)
    weights = np.array([config.fact_weight, config.event_weight, config.knowledge_weight, config.sample_weight])
    writers = (_fact, _event, _knowledge, _sample)
    # A writer that has run out of names hands over to the next, events (many pairs of people) before the
    # others.
    first = int(rng.choice(4, p=weights / weights.sum()))
    for writer in (writers[first], _event, _fact, _knowledge, _sample):
        if written := writer(world, position):
            return written
    return _chatter(world)


def _fact(world: _World, position: tuple[int, int]) -> tuple[Sentence, str] | None:
    free = [(p, r) for p in world.cast() for r in RELATIONS if ("fact", p, r) not in world.stated]
    if not world.things:
        free = [(p, r) for p, r in free if r != "owns"]
    if not free:
        return None
    person, relation = free[int(world.rng.integers(len(free)))]
    world.stated.add(("fact", person, relation))
    world.facts[(person, relation)] = position
    world.personal_statements += 1
    value = _fact_value(world, relation, old="")
    text, asking = _fact_text(person, relation, value)
    late = world.late()
    return _statement(text if late else f"Note: {text}", "fact", late, person, value), asking


def _fact_value(world: _World, relation: str, old: str) -> str:
    if relation == "owns":
        return world.things.pop()
    options = world.places if relation == "lives" else RELATIONS[relation].values
    while (value := world.pick(options)) == old:
        pass
    return value


def _fact_text(person: str, relation: str, value: str) -> tuple[str, str]:
    words = RELATIONS[relation]
    return f"{person} {words.phrase} {value}.", f"{person} {words.phrase} {words.asks}?"


def _correction(world: _World, key: tuple[str, str], position: tuple[int, int]) -> tuple[Sentence, str]:
    person, relation = key
    t, i = world.facts[key]
    del world.facts[key]
    value = _fact_value(world, relation, old=world.lines[t][i].value)
    world.lines[t][i] = dataclasses.replace(world.lines[t][i], corrected_by=position)
    world.questions.pop((t, i))
    text, asking = _fact_text(person, relation, value)
    late = world.late()
    text = f"{text[:-1]} now." if late else f"Correction: {text}"
    return dataclasses.replace(_statement(text, "correction", late, person, value), corrects=(t, i)), asking


def _event(world: _World, position: tuple[int, int]) -> tuple[Sentence, str] | None:
    for _ in range(_TRIES):
        (one, other), verb = world.pair(), world.pick(EVENT_VERBS)
        key = ("event", verb, frozenset((one, other)))
        if key not in world.stated:
            break
    else:
        return None
    world.stated.add(key)
    world.personal_statements += 1
    date, late = f"{world.rng.integers(1, 10)} {world.pick(MONTHS)}", world.late()
    text = f"{one} {verb} {other} on {date}." if late else f"On {date} {one} {verb} {other}."
    return _statement(text, "event", late, one, date), f"{one} {verb} {other} when?"


def _knowledge(world: _World, position: tuple[int, int]) -> tuple[Sentence, str] | None:
    if not world.things:
        return None
    thing, value, late = world.things.pop(), world.pick(CLASSES), world.late()
    text = f"{thing.capitalize()} is a {value}." if late else f"Known: {thing} is a {value}."
    return _statement(text, "knowledge", late, thing, value), f"{thing.capitalize()} is a what?"


def _sample(world: _World, position: tuple[int, int]) -> tuple[Sentence, str] | None:
    if not world.things:
        return None
    thing, label = world.things.pop(), str(world.rng.integers(10))
    shown = f"Sample: {thing} {world.pick(SAMPLE_WORDS)} Label:"
    return Sentence(f"{shown} {label}", "sample", thing, True, False, label), f"{shown} ?"


def _chatter(world: _World) -> tuple[Sentence, str]:
    for _ in range(_TRIES):
        one, other = world.pair()
        late = world.late()
        about = f"{world.pick(CHATTER_VERBS)} at {other}" if world.rng.random() < 0.5 else f"looks {world.pick(MOODS)}"
        text = f"{one} {about}." if late else f"{world.pick(CHATTER_OPENERS)}, {one} {about}."
        if ("chatter", text) not in world.stated:
            break
    world.stated.add(("chatter", text))
    return Sentence(text, "chatter_late" if late else "chatter_early", one, False, False, ""), ""


def _statement(text: str, kind: str, late: bool, subject: str, value: str) -> Sentence:
    return Sentence(text, f"{kind}_late" if late else f"{kind}_early", subject, True, False, value)


def _choose_asked(world: _World) -> set[tuple[int, int]]:
    """Positions of the statements asked about: never a corrected fact, at least one, at most
    `MAX_QUESTIONS`.
    """
    valid = sorted(world.questions)
    asked = [position for position in valid if world.rng.random() < world.config.ask_rate] or valid[-1:]
    if len(asked) > MAX_QUESTIONS:
        asked = [asked[i] for i in world.rng.choice(len(asked), MAX_QUESTIONS, replace=False)]
    return set(asked)


def _question(world: _World, lines: list[list[Sentence]], position: tuple[int, int]) -> Question:
    line = lines[position[0]][position[1]]
    kind = "corrected" if line.corrects else line.kind
    return Question(world.questions[position], line.value, kind, evidence=(position[0],))


def sentence_to_json(line: Sentence) -> dict:
    """The record that `sentences` reads."""
    record = {**vars(line)}  # flat; `asdict` would take a fifth of the time that a warm start's rows take
    for field in ("corrects", "corrected_by"):
        record[field] = record[field] and list(record[field])
    return record


def _from_json(record: dict) -> Sentence:
    positions = {field: record[field] and tuple(record[field]) for field in ("corrects", "corrected_by")}
    return Sentence(**{**record, **positions})
