"""Invented names for the generated world: two syllables each, a quarter of the combinations kept for evaluation.

A model that has learnt to copy syllables can write a name that it never saw; one that has learnt names by heart cannot.
First syllables end in a vowel and last ones start with a consonant, so that a BPE finds the seam between them.
"""

from __future__ import annotations

import functools
import zlib

SPLITS = ("train", "eval")

_SYLLABLES = {
    "person": (
        "Ke Ta Mi Bo Du Fe Ga Hi Jo Lu Na Pe Ri So Tu Va We Yi Zo Bru Cla Dre Fli Gro",
        "lora vin mund dak zeth rick belle tosh wyn fara gorn jill lisk nessa pold quin raff sanne thur vex yan zuri "
        "hild keth",
    ),
    "place": (
        "Ara Bea Cro Dwe Eli Fra Gli Hea Iri Kno Lei Mau Nui Ola Pla Quo Rhe Ska Ste Tri Una Vro Whi Yea",
        "dale ford ton mere bury gate haven holm moor port stead thorpe wick wood worth burgh crest field glen marsh "
        "pool ridge vale brook",
    ),
    "thing": (
        "zo pli gru fa sno ku blo wu tri cho du vea mo skri jo nu ple ra twi lo bra gi que sha",
        "rim bop lax mub dunk nix fez gow kip tub vog zam pid sprot wub thap jeg lunt marg coz trel hox quib yup",
    ),
}


def held_out(name: str) -> bool:
    """True for the quarter of names that only evaluation shows; a hash of the name, the same everywhere for ever."""
    return zlib.crc32(name.lower().encode()) % 4 == 0


def syllables(kind: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """First and last syllables (24 each) of a kind: "person", "place" or "thing"."""
    first, last = _SYLLABLES[kind]
    return tuple(first.split()), tuple(last.split())


@functools.cache
def names(kind: str, split: str) -> tuple[str, ...]:
    """All names of a kind in a split ("train" or "eval"); the two splits share every syllable and no name."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    first, last = syllables(kind)
    return tuple(a + b for a in first for b in last if held_out(a + b) == (split == "eval"))
