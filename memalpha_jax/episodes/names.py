"""Invented names for the generated world: two syllables each, a quarter of the combinations kept for
evaluation.

A model that has learnt to copy syllables can write a name that it never saw; one that has learnt names by
heart cannot. First syllables end in a vowel; last ones are consonant, vowel, consonant, their closing letters
(n r s t x) never their opening ones. So no syllable holds a pair of letters that also meets at a seam, and a
BPE can learn where the seam is. Family names, which are for the long world alone, keep none of this.
"""

from __future__ import annotations

import functools
import zlib

SPLITS = ("train", "eval")

_SYLLABLES = {
    "person": (
        "Ke Ta Mi Bo Du Fe Gu Hi Jo Lu Na Pe Ri Se Tu Va We Yi Zo Bru Cla Dre Fli Gro",
        "hin fex kur mur zor jos dux das mun lus gux zix jir fax gus wex bos hix lar vax wun ves kis ben",
    ),
    "place": (
        "Sta Swe Pri Plo Fru Cre Dri Gla Bro Sli Tho Cho Sha She Sku Spi Sno Smi Twe Tra Whi Kno Qua Gri",
        "dax der gon jix mit vux gix fot wor lox vin zox zun hos fen hur jas wot lin pur kax ken pux mes",
    ),
    "thing": (
        "ba bi da di fa fo ga go ha ho ka ko la le ma mo no nu pa po ra ro sa so",
        "dor dex bix gen zux kix vut zus hes jon gex jat het ler wir vos bax len kox pes wus min mir fux",
    ),
    "family": (
        "Ab Ack Ald Am Arv Bal Bel Bir Bor Cal Cor Dal Dor Ed El Er Fal Fen Gal Gor Hal Hol Il Ing Jar Kal Kor Lam Lin "
        "Mal Mor Nal Nor Ol Or Pal Per Ral Ror Sal Sel Tal Tor Ul Val Wal Yal Zel",
        "aby acre afell agard aham akin alow amond and anby ark arrow aske avon aylor eby eden edge elay elby elm enby "
        "ended enson erby esk ett eville ibald iden ilby imore ingham inton irby isk iston ivel obald oby oden ogard "
        "olby omond orby orden ottle uby",
    ),
}


def held_out(name: str) -> bool:
    """True for the quarter of names that only evaluation shows; a hash of the name, the same everywhere for
    ever.
    """
    return zlib.crc32(name.lower().encode()) % 4 == 0


def syllables(kind: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """First and last syllables of a kind: "person", "place" or "thing" (24 each), or "family" (48, and 48 ends)."""
    first, last = _SYLLABLES[kind]
    return tuple(first.split()), tuple(last.split())


@functools.cache
def names(kind: str, split: str) -> tuple[str, ...]:
    """All names of a kind in a split ("train" or "eval"); the two splits share every syllable and no name."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    first, last = syllables(kind)
    return tuple(a + b for a in first for b in last if held_out(a + b) == (split == "eval"))
