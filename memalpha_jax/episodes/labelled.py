"""Labelled samples of official files: reading them, and dealing them out so that no two sets share a text."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import scipy.sparse

from memalpha_jax.episodes.official import read_csv
from memalpha_jax.episodes.source import EVALUATION, TRAINING
from memalpha_jax.errors import UserError

ALIKE_WORDS = 10
"""Texts are alike if they have a run of so many words in common: fewer than the 13 by which overlap between sets is
measured, because the words Sample and Label stand around every text."""

Part = TypeVar("Part", bound=str)


class Sample(NamedTuple):
    """A text on one line, and the name of its label."""

    text: str
    label: str


def sample(text: str, label: str, where: str, fields: tuple[str, str], labels: Collection[str] = ()) -> Sample:
    """The sample of a row at `where`; UserError if its text or label, named by `fields`, is empty, or the label is
    none of `labels` (where those are given).
    """
    text, label = one_line(text), label.strip()
    if not text:
        raise UserError(f"{where}, field {fields[0]!r} holds no text to label")
    if not label:
        raise UserError(f"{where}, field {fields[1]!r} is empty; every sample needs its label")
    if labels and label not in labels:
        raise UserError(
            f"{where}, field {fields[1]!r} is {label!r:.80}, which is none of the {len(labels)} labels known for it "
            f"({', '.join(itertools.islice(sorted(labels), 3))}, ..)"
        )
    return Sample(text, label)


def read_labelled_csv(
    path: str | os.PathLike[str], fields: tuple[str, str], labels: Collection[str] = ()
) -> list[Sample]:
    """Samples of a CSV file whose columns of text and label are `fields`; of at least two labels."""
    rows = read_csv(path, fields)
    return several_labels(
        [sample(row[fields[0]], row[fields[1]], where, fields, labels) for row, where in rows], f"{path}", fields[1]
    )


def several_labels(samples: list[Sample], where: str, field: str) -> list[Sample]:
    """`samples`; UserError unless they have two labels at least, for else there is nothing to tell apart."""
    names = label_names(samples)
    if len(names) < 2:
        found = f"holds only one label, {names[0]!r:.80}" if names else "has no samples"
        raise UserError(f"{where}, field {field!r} {found}; at least two labels are needed")
    return samples


def label_names(samples: Iterable[Sample]) -> tuple[str, ...]:
    """The distinct labels, sorted."""
    return tuple(sorted({one.label for one in samples}))


def one_line(text: str) -> str:
    """White space of any kind as single spaces: a line break would end a sample in the stream."""
    return " ".join(text.split())


def same_text(text: str) -> str:
    """Equal for texts that differ in letter case, punctuation and white space only."""
    return " ".join(re.findall(r"\w+", text.casefold())) or one_line(text)


def distinct(samples: Iterable[Sample], without: Iterable[Sample] = ()) -> list[Sample]:
    """The samples in order, each text once; left out are the texts of `without`, and those with two labels."""
    taken = {same_text(one.text) for one in without}
    first: dict[str, Sample | None] = {}
    for one in samples:
        key = same_text(one.text)
        known = first.setdefault(key, one)
        if known is not None and known.label != one.label:
            first[key] = None
    return [one for key, one in first.items() if one is not None and key not in taken]


def halves(train: Sequence[Sample], test: Sequence[Sample], role: str) -> tuple[list[Sample], list[Sample]]:
    """(samples that `role` may show, samples that evaluation asks) of a source whose training file serves both roles.

    Half of `train` goes to each role; what is like a text of `test` goes to evaluation.
    """
    dealt = deal(distinct(train, without=test), {EVALUATION: 0.5, TRAINING: 0.5}, test, EVALUATION)
    return dealt[role], distinct(test)


def deal(
    samples: Sequence[Sample], shares: Mapping[Part, float], test: Sequence[Sample] = (), test_part: Part | None = None
) -> dict[Part, list[Sample]]:
    """Samples dealt to parts, of every label about the share of each; texts that are alike go to the same part.

    What is like a text of `test` goes to `test_part`. Which part a text falls into depends on the samples alone, never
    on a seed, so that sets built at different times have nothing in common.
    """
    cluster_of = _clusters([one.text for one in (*samples, *test)])
    clusters: dict[int, list[Sample]] = {}
    for one, cluster in zip(samples, cluster_of, strict=False):
        clusters.setdefault(cluster, []).append(one)
    tested = set(cluster_of[len(samples) :])
    dealt: dict[Part, list[Sample]] = {part: [] for part in shares}
    counts = {part: Counter[str]() for part in shares}
    for cluster in sorted(clusters, key=lambda c: (-len(clusters[c]), _mixed(clusters[c][0].text))):
        label = clusters[cluster][0].label
        part = min(shares, key=lambda part: counts[part][label] / shares[part])
        if cluster in tested and test_part is not None:
            part = test_part
        dealt[part] += clusters[cluster]
        counts[part].update(one.label for one in clusters[cluster])
    return dealt


def _mixed(text: str) -> tuple[int, str]:
    return zlib.crc32(same_text(text).encode("utf-8", "surrogatepass")), text


def _clusters(texts: Sequence[str]) -> list[int]:
    """The same number for texts that are alike, directly or through others."""
    hashes: list[int] = []
    owners: list[int] = []
    for owner, text in enumerate(texts):
        for run in _runs(same_text(text)):
            hashes.append(int.from_bytes(hashlib.blake2b(run.encode("utf-8", "surrogatepass"), digest_size=8).digest()))
            owners.append(owner)
    hashed, owner_of = np.array(hashes, np.uint64), np.array(owners, np.int64)
    order = np.argsort(hashed, kind="stable")
    hashed, owner_of = hashed[order], owner_of[order]
    same = np.flatnonzero(hashed[1:] == hashed[:-1])
    links = (np.ones(len(same)), (owner_of[same], owner_of[same + 1]))
    graph = scipy.sparse.coo_array(links, shape=(len(texts), len(texts)))
    return scipy.sparse.csgraph.connected_components(graph, directed=False)[1].tolist()


def _runs(text: str) -> Iterator[str]:
    """All runs of `ALIKE_WORDS` words, or the whole of a shorter text."""
    words = text.split()
    for start in range(max(1, len(words) - ALIKE_WORDS + 1)):
        yield " ".join(words[start : start + ALIKE_WORDS])
