"""The words of the long world: its relations, what is counted, and talk that means nothing.

No word of a question's wording occurs in the talk, so that only statements can answer a question.
"""

from __future__ import annotations

import dataclasses
import datetime

import numpy as np

from memalpha_jax.episodes import names
from memalpha_jax.episodes.world_words import (
    CHATTER_VERBS,
    EVENT_VERBS,
    MONTHS,
    MOODS,
    RELATIONS,
    SAMPLE_WORDS,
    Relation,
)
from memalpha_jax.errors import UserError

__all__ = ["EVENT_VERBS", "FOUND_VERBS", "GAIN_VERBS", "LONG_RELATIONS", "LOSS_VERBS", "SAMPLE_WORDS", "UNITS", "Cast"]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


LONG_RELATIONS = {
    "lives": Relation("lives in", "which town"),
    # A teacher is also how one person is described by another.
    "works": Relation("works as a", "what", tuple(job for job in RELATIONS["works"].values if job != "teacher")),
    "likes": Relation("likes", "what", RELATIONS["likes"].values),
    "plays": Relation(
        "plays the",
        "which instrument",
        _words("flute harp organ lute fiddle trumpet cello horn zither banjo oboe tuba viola lyre bassoon piccolo"),
    ),
    "studies": Relation(
        "studies",
        "which subject",
        _words("law botany logic algebra history medicine optics poetry geology music grammar ethics physics rhetoric"),
    ),
}
"""The values of "lives" are invented towns."""

COLOURS = _words(
    "red blue green yellow white black grey brown pink purple orange scarlet crimson violet golden silver ivory amber "
    "teal beige maroon lilac olive copper"
)
MATERIALS = _words(
    "oak velvet glass marble leather wool bronze clay silk cedar linen brass jade pewter cotton granite bamboo wicker "
    "porcelain felt crystal slate walnut satin"
)
UNITS = _words("coins letters eggs candles stamps apples buttons tickets shells barrels")
GAIN_VERBS = _words("received won earned gained bought collected")
LOSS_VERBS = _words("lost sold spent lent dropped donated")
FOUND_VERBS = _words("found sketched admired repaired hid polished")

LEADS = ("", "", "", "As is well known, ", "People say that ", "It is written that ", "Note: ", "Neighbours tell that ")
_TALK_LEADS = ("", "", "That evening ", "Once more ", "To nobody's surprise ", "For a while ", "Without a word ")
_TALK_ENDS = ("", "", " and went on", " without a reason", " for a moment", " as always", " and thought of lunch")


def date_text(day: datetime.date) -> str:
    """As "3 May 2021"."""
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"


@dataclasses.dataclass
class Cast:
    """The people, things and towns of one episode; all of its random choices go through `rng`.

    A person is "GIVEN FAMILY"; no two people are alike, and neither are two things. `facts_per_person`: how many
    sentences of different kinds are about the same person, on average.
    """

    rng: np.random.Generator
    split: str
    facts_per_person: float
    people: list[str] = dataclasses.field(default_factory=list)
    _taken: set[tuple] = dataclasses.field(default_factory=set)

    def pick(self, options):
        """One of a sequence."""
        return options[int(self.rng.integers(len(options)))]

    def pick_some(self, options, count: int) -> list:
        """Different ones."""
        return [options[int(i)] for i in self.rng.choice(len(options), count, replace=False)]

    def between(self, bounds: tuple[int, int]) -> int:
        """A whole number from the first to the second of `bounds`."""
        return int(self.rng.integers(bounds[0], bounds[1] + 1))

    def chance(self, rate: float) -> bool:
        return bool(self.rng.random() < rate)

    def take(self, *key) -> bool:
        """Whether `key` is taken for the first time."""
        new = key not in self._taken
        self._taken.add(key)
        return new

    def new_person(self) -> str:
        """Somebody nobody has heard of."""
        given, family = names.names("person", self.split), names.names("family", self.split)
        for _ in range(1000):
            person = f"{self.pick(given)} {self.pick(family)}"
            if self.take(person):
                self.people.append(person)
                return person
        raise UserError("the long world has run out of people; make the episode shorter or raise facts_per_person")

    def person(self, *uses: str) -> str:
        """Somebody new or known, who has not been taken for any of the `uses` before."""
        known = self.people and self.chance(1 - 1 / self.facts_per_person)
        for person in (self.pick(self.people) for _ in range(4 if known else 0)):
            if not any((person, use) in self._taken for use in uses):
                break
        else:
            person = self.new_person()
        self._taken.update((person, use) for use in uses)
        return person

    def thing(self) -> str:
        """As "red oak zorim"."""
        invented = names.names("thing", self.split)
        for _ in range(1000):
            thing = f"{self.pick(COLOURS)} {self.pick(MATERIALS)} {self.pick(invented)}"
            if self.take(thing):
                return thing
        raise UserError("the long world has run out of things; make the episode shorter")

    def towns(self) -> tuple[str, ...]:
        return names.names("place", self.split)

    def values(self, relation: str, count: int) -> list[str]:
        """Different values of one of `LONG_RELATIONS`."""
        return self.pick_some(LONG_RELATIONS[relation].values or self.towns(), count)

    def days(self, count: int) -> list[str]:
        """Dates in order, as texts."""
        steps = self.rng.integers(1, 60, count)
        first = datetime.date(2010, 1, 1) + datetime.timedelta(int(self.rng.integers(5000)))
        return [date_text(first + datetime.timedelta(int(days))) for days in np.cumsum(steps)]

    def talk(self) -> str:
        """A sentence about known people that no question is about."""
        while len(self.people) < 2:
            self.new_person()
        one, other = self.pick_some(self.people, 2)
        if self.chance(0.3):
            return f"{self.pick(_TALK_LEADS)}{one} looked {self.pick(MOODS)}{self.pick(_TALK_ENDS)}."
        verb = self.pick(CHATTER_VERBS)
        when = f"On {self.days(1)[0]} " if self.chance(0.2) else self.pick(_TALK_LEADS)
        where = f" in {self.pick(self.towns())}" if self.chance(0.3) else ""
        return f"{when}{one} {verb} at {other}{where}{self.pick(_TALK_ENDS)}."
