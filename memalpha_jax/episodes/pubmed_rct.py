"""PubMed-RCT: sentences of abstracts of randomised trials, labelled with one of 5 sections; training only.

Official files: github.com/Franck-Dernoncourt/pubmed-rct (no licence stated), `train.txt`, `dev.txt` and `test.txt` of
the 20k or the 200k set: `###PMID`, then a line `LABEL<tab>sentence` for each sentence, then an empty line. 112 episodes
of 10 chunks, whose length is drawn for each episode, show sentences of `train.txt`; questions come from `dev.txt`, and
`test.txt` is never read. Without `dev.txt` a tenth of the abstracts is held out for questions. `ori_pqal.json` of
PubMedQA stands in for `train.txt` where that is missing (see pubmedqa.py).
"""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterable, Iterator

from memalpha_jax.episodes.episode import Episode
from memalpha_jax.episodes.labelled import Sample, distinct, sample, several_labels
from memalpha_jax.episodes.labelled_episodes import Stream, training_episodes
from memalpha_jax.episodes.official import read_text
from memalpha_jax.episodes.pubmedqa import SECTIONS, read_abstract_sentences
from memalpha_jax.episodes.source import TRAINING, BuildOptions, Paths, Published, Source
from memalpha_jax.errors import UserError

FIELDS = ("sentence", "label")
# Published chunks have 1024-2048 tokens; ours stay below their limit by up to a sentence.
SHOWN = Stream(max_tokens=2048, min_tokens=1152, chunks=10)
KEPT_SENTENCES = 100_000
"""Of a larger file a seeded choice of so many sentences is kept in memory, more than all episodes together show."""


def load(paths: Paths, options: BuildOptions) -> Iterator[Episode]:
    """Training episodes; the official test split is never read."""
    train = paths["train"]
    if "dev" in paths:
        shown = _kept((one for _, one in _sentences(train)), options.seed)
        asked = _kept((one for _, one in _sentences(paths["dev"])), options.seed)
    else:
        shown = _kept((one for key, one in _sentences(train) if not _held_out(key)), options.seed)
        asked = _kept((one for key, one in _sentences(train) if _held_out(key)), options.seed)
    several_labels(shown, f"{train}", FIELDS[1])
    asked = several_labels(distinct(asked), f"{paths.get('dev', train)}, held-out abstracts", FIELDS[1])
    return training_episodes("pubmed_rct", distinct(shown, without=asked), SHOWN, options, asked)


def _held_out(key: str) -> bool:
    return zlib.crc32(key.encode("utf-8", "surrogatepass")) % 10 == 0


def _kept(samples: Iterable[Sample], seed: int) -> list[Sample]:
    """All samples, or of more than `KEPT_SENTENCES` an equally likely choice of so many (a reservoir)."""
    rng, kept = random.Random(seed), []
    for seen, one in enumerate(samples):
        if seen < KEPT_SENTENCES:
            kept.append(one)
        elif (place := rng.randrange(seen + 1)) < KEPT_SENTENCES:
            kept[place] = one
    return kept


def _sentences(path: str | os.PathLike[str]) -> Iterator[tuple[str, Sample]]:
    """Every sentence with the id of its abstract."""
    if str(path).removesuffix(".gz").endswith(".json"):
        yield from read_abstract_sentences(path)
        return
    key = ""
    for number, line in enumerate(_lines(read_text(path)), 1):
        where = f"{path}, line {number}"
        if line.startswith("###"):
            key = line[3:].strip()
        elif line.strip():
            label, tab, sentence = line.partition("\t")
            if not tab or not key:
                wanted = "a tab between label and sentence" if key else "a line ###PMID before the first sentence"
                raise UserError(f"{where} is {line!r:.80}, expected {wanted}; is this the official layout?")
            yield key, sample(sentence, label, where, FIELDS, SECTIONS)


def _lines(text: str) -> Iterator[str]:
    """The lines one by one; a list of those of the 200k set would take half a gigabyte."""
    start = 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield text[start:end]
        start = end + 1


SOURCES = (
    Source(
        "pubmed_rct",
        TRAINING,
        "test-time learning",
        {"train": ("train.txt", "ori_pqal.json"), "dev": ("dev.txt",)},
        where="https://github.com/Franck-Dernoncourt/pubmed-rct; stand-in: https://github.com/pubmedqa/pubmedqa",
        licence="none stated; stand-in: MIT, abstracts of PubMed",
        load=load,
        published=Published(chunks=10, questions=100),
        optional=frozenset({"dev"}),
    ),
)
