"""Threads of the long world: sentences that belong together, what is asked about them, and what to hold of them.

The sentences of a thread are scattered over an episode in their order. No sentence is in two threads, and the words of
a question occur together in the notes of its own thread only.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from memalpha_jax.episodes.episode import Question
from memalpha_jax.episodes.long_world_words import (
    EVENT_VERBS,
    FOUND_VERBS,
    GAIN_VERBS,
    LEADS,
    LONG_RELATIONS,
    LOSS_VERBS,
    MATERIALS,
    SAMPLE_WORDS,
    UNITS,
    Cast,
)
from memalpha_jax.errors import UserError

if TYPE_CHECKING:  # the configuration lies with the generator, which needs the threads
    from memalpha_jax.episodes.long_world import LongWorldConfig


@dataclasses.dataclass(frozen=True)
class Told:
    """A sentence of a thread. A later one with the same `key` replaces what it says."""

    key: str
    text: str


@dataclasses.dataclass(frozen=True)
class Thread:
    """`notes[i]`: what a perfect writer holds of the thread after its sentence i, in one item.

    `questions` come without evidence: that is where the last sentence of every key is.
    """

    subject: str
    told: tuple[Told, ...]
    notes: tuple[str, ...]
    questions: tuple[Question, ...] = ()


def retrieval_thread(cast: Cast, config: LongWorldConfig) -> Thread:
    """A dated event of two people, or a fact reached over one or several hops."""
    if cast.chance(config.event_share):
        return _event(cast)
    return _fact(cast, _hops(cast, config), values=1, marked_share=0.0, kind="hops_{hops}")


def conflict_thread(cast: Cast, config: LongWorldConfig) -> Thread:
    """A fact that is replaced several times, or (not asked) one that stays."""
    if not cast.chance(config.revised_share):
        return dataclasses.replace(_fact(cast, 1, 1, 0.0, "stays"), questions=())
    values = 1 + cast.between(config.revisions)
    return _fact(cast, _hops(cast, config), values, config.marked_share, "revised_hops_{hops}")


def _hops(cast: Cast, config: LongWorldConfig) -> int:
    weights = np.array(config.hop_weights, float)
    return 1 + int(cast.rng.choice(len(weights), p=weights / weights.sum()))


def _fact(cast: Cast, hops: int, values: int, marked_share: float, kind: str) -> Thread:
    relation = cast.pick(tuple(LONG_RELATIONS))
    words, person = LONG_RELATIONS[relation], cast.person(relation)
    described, links = _describe(cast, person, relation, hops - 1)
    stated = cast.values(relation, values)
    main = [_statement(cast, f"{person} {words.phrase} {value}", i, marked_share) for i, value in enumerate(stated)]
    told = _mixed(cast, [Told(relation, text) for text in main], links)
    subject = described[0].upper() + described[1:]
    notes, held, value_of = [], dict[str, str](), dict(zip(main, stated, strict=True))
    for one in told:
        held[one.key] = one.text
        joined = hops > 1 and len(held) == hops
        value = value_of[held[relation]] if joined else ""
        notes.append(f"{subject} {words.phrase} {value}." if joined else " ".join(held.values()))
    question = Question(f"{subject} {words.phrase} {words.asks}?", stated[-1], kind.format(hops=hops))
    return Thread(person, tuple(told), tuple(notes), (question,))


def _describe(cast: Cast, person: str, relation: str, links: int) -> tuple[str, list[Told]]:
    """The person over so many links, and the sentences that tell them.

    Whoever the description names is taken for `relation`, so that no other thread tells it of them. Nobody has two
    teachers, and nothing two owners.
    """
    if links == 0:
        return person, []
    if links == 1 and cast.chance(0.5):
        thing = cast.thing()
        return f"the owner of the {thing}", [Told("owner", f"{cast.pick(LEADS)}{person} owns the {thing}.")]
    pupil = cast.person(relation, "has a teacher")
    described, told = _describe(cast, pupil, relation, links - 1)
    link = Told(f"teacher {links}", f"{cast.pick(LEADS)}{person} is the teacher of {pupil}.")
    return f"the teacher of {described}", [link, *told]


def _statement(cast: Cast, fact: str, replaces: int, marked_share: float) -> str:
    """The `fact` as a sentence; one that replaces others may say so."""
    if replaces and cast.chance(marked_share):
        return f"Things have changed: {fact} now."
    return f"{cast.pick(LEADS)}{fact}."


def _mixed(cast: Cast, main: list[Told], links: list[Told]) -> list[Told]:
    """All of them, `main` in its order, the links anywhere."""
    places = set(cast.rng.permutation(len(main) + len(links))[: len(links)].tolist())
    ordered, others = iter(main), iter(links)
    return [next(others) if i in places else next(ordered) for i in range(len(main) + len(links))]


def _event(cast: Cast) -> Thread:
    verb = cast.pick(EVENT_VERBS)
    one, other = cast.person(f"{verb} somebody"), cast.person(f"{verb} somebody")
    (day,) = cast.days(1)
    text = f"On {day} {one} {verb} {other}." if cast.chance(0.5) else f"{one} {verb} {other} on {day}."
    return Thread(one, (Told("event", text),), (text,), (Question(f"{one} {verb} {other} when?", day, "event"),))


def total_thread(cast: Cast, config: LongWorldConfig) -> Thread:
    """Gains and losses of one person in one kind of thing; never less than nothing is left."""
    unit, total, texts, notes = cast.pick(UNITS), 0, [], []
    person = cast.person(unit)
    for _ in range(cast.between(config.changes)):
        loses = total > 1 and cast.chance(config.loss_share)
        amount = cast.between((2, min(total, 20) if loses else 20))
        total += -amount if loses else amount
        verb = cast.pick(LOSS_VERBS if loses else GAIN_VERBS)
        texts.append(f"{cast.pick(LEADS)}{person} {verb} {amount} {unit} in {cast.pick(cast.towns())}.")
        notes.append(f"{person} has {total} {unit} in all.")
    told = tuple(Told(str(i), text) for i, text in enumerate(texts))
    question = Question(f"How many {unit} does {person} have in all?", str(total), "total")
    return Thread(person, told, tuple(notes), (question,))


def summary_thread(cast: Cast, config: LongWorldConfig) -> Thread:
    """A journey of one person; the keywords of its summary are its towns and what was met with there."""
    person, stops = cast.person("journey"), cast.between(config.stops)
    days, towns = cast.days(stops), cast.pick_some(cast.towns(), stops)
    things = [cast.thing() for _ in range(stops)]
    told, notes, held = [], [], []
    for i, (day, town, thing) in enumerate(zip(days, towns, things, strict=True)):
        told.append(Told(str(i), f"On {day} {person} {cast.pick(FOUND_VERBS)} the {thing} in {town}."))
        held.append(f"{day} {town} (the {thing})")
        notes.append(f"Journey of {person}: {', '.join(held)}.")
    keywords = tuple(itertools.chain.from_iterable(zip(towns, things, strict=True)))
    question = Question(f"Summarise the journey of {person}, with its towns and things.", keywords, "summary")
    return Thread(person, tuple(told), tuple(notes), (question,))


def rule_threads(
    cast: Cast, config: LongWorldConfig, budget: int, cost: Callable[[str], int]
) -> tuple[list[Thread], int]:
    """Labelled samples of at most `budget` tokens, a thread for each value of the feature that decides the label.

    A sample has four features. The label is a function of one of them and of no other: some value of every other one
    is shown with two labels. Of each value asked about at least two samples are shown; the samples of the questions
    are not. Returns the threads and the tokens of their sentences by `cost`. `UserError` if there is too little room.
    """
    people = [cast.new_person() for _ in range(max(40, config.rules))]
    whole: tuple[Sequence[str], ...] = (MATERIALS, SAMPLE_WORDS, people, cast.towns())
    deciding = int(cast.rng.integers(len(whole)))
    room = budget // cost(_labelled((MATERIALS[0], SAMPLE_WORDS[0], people[0], cast.towns()[0]), 0))
    sizes = [config.rules if i == deciding else max(config.rules, room // 3) for i in range(len(whole))]
    pools = [cast.pick_some(pool, min(size, len(pool))) for pool, size in zip(whole, sizes, strict=True)]
    labels = cast.rng.permutation(np.arange(config.rules) % config.labels).tolist()
    label_of = dict(zip(pools[deciding], labels, strict=True))
    shown, spent = _shown_samples(cast, pools, deciding, label_of, budget, cost)
    if not _one_decides(shown, label_of, deciding):
        raise UserError(
            f"long world: {len(shown)} labelled samples do not show which of their features decides; make the episode "
            f"longer, or lower rules ({config.rules}) or noise_share ({config.noise_share})"
        )
    count = -(-config.questions // config.rules)
    threads, seen = [], set(shown)
    for value in pools[deciding]:
        own = [sample for sample in shown if sample[deciding] == value]
        label = label_of[value]
        texts = [_labelled(sample, label) for sample in own]
        asked = _new_samples(cast, pools, deciding, value, count, seen) if len(own) > 1 else []
        rule = f"Samples with {value} have Label: {label}"
        told = tuple(Told(str(i), text) for i, text in enumerate(texts))
        questions = tuple(Question(f"{_sample(one)} ?", f"\\boxed{{{label}}}", "rule") for one in asked)
        # The first sample of a value does not tell yet which of its features counts.
        threads += [Thread(value, told, (*texts[:1], *[rule] * (len(own) - 1)), questions)] if own else []
    return threads, spent


def _sample(features: Sequence[str]) -> str:
    material, noun, person, town = features
    return f"Sample: the {material} {noun} of {person} from {town} Label:"


def _labelled(features: Sequence[str], label: int) -> str:
    return f"{_sample(features)} {label}"


def _new_samples(
    cast: Cast, pools: Sequence[Sequence[str]], deciding: int, value: str, count: int, seen: set[tuple[str, ...]]
) -> list[tuple[str, ...]]:
    """About `count` samples with this value of the deciding feature that are not in `seen`, where they are put."""
    found = []
    for _ in range(count):
        sample = tuple(value if i == deciding else cast.pick(pool) for i, pool in enumerate(pools))
        if sample not in seen:
            seen.add(sample)
            found.append(sample)
    return found


def _shown_samples(
    cast: Cast,
    pools: Sequence[Sequence[str]],
    deciding: int,
    label_of: dict[str, int],
    budget: int,
    cost: Callable[[str], int],
) -> tuple[list[tuple[str, ...]], int]:
    """Different samples up to `budget` tokens, and their tokens; the values of the deciding feature take turns."""
    shown: list[tuple[str, ...]] = []
    seen, spent, values = set[tuple[str, ...]](), 0, pools[deciding]
    # Half of all samples that there can be, at most, so that there are others to ask about.
    for turn in range(math.prod(map(len, pools)) // 2):
        value = values[turn % len(values)]
        for sample in _new_samples(cast, pools, deciding, value, 1, seen):
            tokens = cost(_labelled(sample, label_of[value]))
            if spent + tokens > budget:
                return shown, spent
            shown.append(sample)
            spent += tokens
    return shown, spent


def _one_decides(shown: Sequence[tuple[str, ...]], label_of: dict[str, int], deciding: int) -> bool:
    """Whether every feature but the deciding one has a value that is shown with two labels."""
    for i in range(len(shown[0]) if shown else 0):
        labels: dict[str, set[int]] = {}
        for sample in shown:
            labels.setdefault(sample[i], set()).add(label_of[sample[deciding]])
        if i != deciding and all(len(found) == 1 for found in labels.values()):
            return False
    return max(Counter(sample[deciding] for sample in shown).values(), default=0) > 1
