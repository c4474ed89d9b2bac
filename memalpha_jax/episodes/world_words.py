"""The fixed words of the generated world, and texts from which a tokenizer can learn them.

No word belongs to two lists, and every noun starts with a consonant sound ("a baker"), so that one article will do.
"""

from __future__ import annotations

import dataclasses
import re

from memalpha_jax.episodes import names as name_lists


WORD_WEIGHT = 40
NAME_WEIGHT = 20


@dataclasses.dataclass(frozen=True)
class Relation:
    """`<person> <phrase> <value>.` answers `<person> <phrase> <asks>?`; no `values` where names are invented."""

    phrase: str
    asks: str
    values: tuple[str, ...] = ()


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


RELATIONS = {
    "lives": Relation("lives in", "which place"),
    "likes": Relation(
        "likes",
        "what",
        _words(
            "bread rice soup cheese honey beans pasta salad cake fish plums grapes corn milk jam nuts tofu "
            "pears figs dates mango curry stew tea"
        ),
    ),
    "works": Relation(
        "works as a",
        "what",
        _words(
            "baker doctor farmer pilot tailor judge nurse painter sailor barber lawyer miner potter singer "
            "teacher driver hunter banker butcher dentist plumber waiter writer guard"
        ),
    ),
    "owns": Relation("owns a", "what"),
}
EVENT_VERBS = _words("met visited called helped thanked hired taught paid")
CLASSES = _words(
    "bird tree metal fruit planet river dance game drink tool boat stone plant fabric language song "
    "spice cloud beetle color drum lizard mountain coin"
)
SAMPLE_WORDS = _words(
    "book chair lamp door clock glass paper table wheel spoon brush bottle ladder mirror basket bucket "
    "candle carpet hammer pencil pillow button ribbon saddle"
)
MONTHS = _words("January February March April May June July August September October November December")
CHATTER_OPENERS = _words("Well Haha Hey Oh")
CHATTER_VERBS = _words("smiled laughed waved winked nodded yawned")
MOODS = _words("funny tired happy bored sleepy busy hungry merry")
_FRAME_WORDS = _words("Note Known Correction Sample Label On on in is a as at now looks what when which place")


def template_words() -> tuple[str, ...]:
    """Every word of the world that is no invented name, as written in the text (no punctuation, no digits)."""
    phrases = [word for r in RELATIONS.values() for word in (*r.phrase.split(), *r.asks.split(), *r.values)]
    lists = (EVENT_VERBS, CLASSES, SAMPLE_WORDS, MONTHS, CHATTER_OPENERS, CHATTER_VERBS, MOODS, _FRAME_WORDS)
    return tuple(dict.fromkeys([*phrases, *(word for words in lists for word in words)]))


def all_syllables() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Distinct first syllables (things also capitalised, as at the start of a sentence) and last syllables."""
    first: list[str] = []
    last: list[str] = []
    for kind in ("person", "place", "thing"):
        starts, ends = name_lists.syllables(kind)
        first += starts + (tuple(s.capitalize() for s in starts) if kind == "thing" else ())
        last += ends
    return tuple(dict.fromkeys(first)), tuple(dict.fromkeys(last))


def split_name(name: str) -> tuple[str, str] | None:
    """The two syllables of an invented name of any split ("Kelora" or, for things, also "Zorim"), else None."""
    first, last = all_syllables()
    found = re.fullmatch(f"({'|'.join(sorted(first, key=len, reverse=True))})({'|'.join(last)})", name)
    return (found[1], found[2]) if found else None


def vocabulary_texts(word_weight: int = WORD_WEIGHT, name_weight: int = NAME_WEIGHT) -> list[str]:
    """Texts in which a BPE finds every template word whole and every invented name as its two syllables.

    Names are the training combinations only. The counts do the steering: a syllable is met in about 18 names, so with
    these weights its inner pairs outnumber those across the seam, and words come before whole names would.
    """
    texts = []
    for kind in ("person", "place", "thing"):
        names = name_lists.names(kind, "train")
        texts += [" ".join(names)] * name_weight
        if kind == "thing":
            texts += [" ".join(name.capitalize() for name in names)] * name_weight
    texts += [" ".join(template_words())] * word_weight
    texts += ["\n".join(f"{digit}, {digit}. {digit}: {digit}?" for digit in range(10))] * word_weight
    return texts
