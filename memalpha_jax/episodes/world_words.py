"""The fixed words of the generated world, and texts from which a tokenizer can learn them.

No word belongs to two lists, and every noun starts with a consonant sound ("a baker"), so that one article
will do.
"""

from __future__ import annotations

import dataclasses
import re

from memalpha_jax.episodes import names as name_lists


@dataclasses.dataclass(frozen=True)
class Relation:
    """`<person> <phrase> <value>.` answers `<person> <phrase> <asks>?`; no `values` where names are
    invented.
    """

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
            "bread rice soup honey beans pasta jam cake fish plums corn milk nuts tofu pears figs tea ham "
            "pie stew peas rye beef kale"
        ),
    ),
    "works": Relation(
        "works as a",
        "what",
        _words(
            "baker farmer pilot tailor judge nurse sailor barber miner potter singer teacher driver cook "
            "tutor clerk vet waiter writer guard poet coach smith monk"
        ),
    ),
    "owns": Relation("owns a", "what"),
}
EVENT_VERBS = _words("met saw called helped thanked hired taught paid")
CLASSES = _words(
    "bird tree metal fruit planet river dance game drink tool boat rock plant song spice cloud bug drum hill "
    "coin cat fox lake gem"
)
SAMPLE_WORDS = _words(
    "book chair lamp door clock paper table brush sofa basket box cup rug pen bed vase net fan desk bowl "
    "rope bell jar boot"
)
MONTHS = _words("January February March April May June July August September October November December")
CHATTER_OPENERS = _words("Well Haha Hey Oh")
CHATTER_VERBS = _words("smiled laughed waved winked nodded yawned")
MOODS = _words("funny tired happy bored sleepy busy hungry merry")
_LEADING_WORDS = (*CHATTER_OPENERS, *_words("Note Known Correction Sample On"))
_INNER_WORDS = _words("Label on is a at now looks")


def template_words() -> tuple[str, ...]:
    """Every word of a chunk that is no invented name and no number: those that open a line, then the
    others.
    """
    return (*_LEADING_WORDS, *_inner_words())


def _inner_words() -> tuple[str, ...]:
    phrases = [word for r in RELATIONS.values() for word in (*r.phrase.split(), *r.values)]
    lists = (phrases, EVENT_VERBS, CLASSES, SAMPLE_WORDS, MONTHS, CHATTER_VERBS, MOODS, _INNER_WORDS)
    return tuple(dict.fromkeys(word for words in lists for word in words))


def all_syllables() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Distinct first syllables (things also capitalised, as at the start of a sentence) and last
    syllables.
    """
    first: list[str] = []
    last: list[str] = []
    for kind in ("person", "place", "thing"):
        starts, ends = name_lists.syllables(kind)
        first += starts + (tuple(s.capitalize() for s in starts) if kind == "thing" else ())
        last += ends
    return tuple(dict.fromkeys(first)), tuple(dict.fromkeys(last))


def split_name(name: str) -> tuple[str, str] | None:
    """The two syllables of an invented name of any split ("Kelora" or, for things, also "Zorim"), else
    None.
    """
    first, last = all_syllables()
    found = re.fullmatch(f"({'|'.join(sorted(first, key=len, reverse=True))})({'|'.join(last)})", name)
    return (found[1], found[2]) if found else None


def vocabulary_texts(syllable_weight: int = 400, word_weight: int = 10) -> list[str]:
    """Texts from which a BPE learns every template word as one piece and every invented name as two
    syllables.

    A word that opens a line has no space before it, every other one has: each is shown in the places it takes
    in the chunks. Syllables stand alone and come first by weight, so no merge crosses the seam of a name,
    seen or unseen.
    """
    opening, inner = _syllable_places()
    texts = [*opening, *(f", {syllable}" for syllable in inner)] * syllable_weight
    texts += [*_LEADING_WORDS, *(f", {word}" for word in _inner_words())] * word_weight
    return texts + [f"{digit}, {digit}. {digit}: {digit}?\n" for digit in range(10)] * word_weight


def _syllable_places() -> tuple[list[str], list[str]]:
    """Syllables met without a space before them (also the last ones of a name), and those met after a
    space.
    """
    first = {kind: name_lists.syllables(kind)[0] for kind in ("person", "place", "thing")}
    last = [syllable for kind in first for syllable in name_lists.syllables(kind)[1]]
    opening = [*first["person"], *(syllable.capitalize() for syllable in first["thing"]), *last]
    return opening, [*first["person"], *first["place"], *first["thing"]]
