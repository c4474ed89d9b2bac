"""Labelled samples as episodes: a stream of samples whose labels are numbers, then unseen samples to label.

The number of a label is drawn anew for every episode, so that it can only be learnt from the stream. A question is a
sample that the stream does not show, not even in other letter case, punctuation or spacing, and its gold answer is
`\\boxed{n}`.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import cast

import numpy as np

from memalpha_jax.episodes.chunkers import Chunk, Unit, sample_chunker
from memalpha_jax.episodes.episode import MAX_QUESTIONS, Episode, Question, validate
from memalpha_jax.episodes.labelled import Sample, deal, label_names
from memalpha_jax.episodes.source import BuildOptions
from memalpha_jax.episodes.wrapping import SAMPLES, Wrapper, labelled_sample
from memalpha_jax.errors import UserError

TRAINING_EPISODES = 112
"""A 90/10 split of these leaves the 100 per source that the published training set takes at most."""
APART = 11
APART_SHARES = {"most": 0.75, "apart": 0.25}


@dataclasses.dataclass(frozen=True)
class Stream:
    """How much one episode shows.

    Attributes:
      min_tokens, max_tokens: the longest chunk of an episode is drawn uniformly from this range.
      chunks: chunks per episode; 0 for no limit. samples: at most so many are shown; 0 for no limit.
    """

    max_tokens: int
    min_tokens: int = 0
    chunks: int = 0
    samples: int = 0


def training_episodes(
    name: str, shown: Sequence[Sample], stream: Stream, options: BuildOptions, asked: Sequence[Sample] = ()
) -> Iterator[Episode]:
    """`TRAINING_EPISODES` episodes over one pool of distinct samples, each with a choice and numbering of its own.

    Questions are drawn from `asked`, or where that is empty from the samples of `shown` that an episode leaves out. The
    last `APART` episodes have samples of their own, so that they can be kept back for validation; unless there are too
    few samples for that.
    """
    builder, apart = _builders(name, shown, stream, options, asked)
    for number in range(TRAINING_EPISODES):
        chosen = builder if number < TRAINING_EPISODES - APART else apart
        yield chosen.episode(f"{name}-train-{number:04d}")


def _builders(
    name: str, shown: Sequence[Sample], stream: Stream, options: BuildOptions, asked: Sequence[Sample]
) -> tuple[_Builder, _Builder]:
    """The builders of most episodes and of those kept apart: two with nothing in common, or twice the same one."""
    shown_by, asked_by = deal(shown, APART_SHARES), deal(asked, APART_SHARES)
    labels = set(label_names(shown))
    smallest = min(len(asked_by[part] if asked else shown_by[part][len(labels) :]) for part in APART_SHARES)
    if smallest < MAX_QUESTIONS or any(set(label_names(part)) != labels for part in shown_by.values()):
        whole = _Builder(name, shown, asked, stream, options)
        return whole, whole
    most, apart = (_Builder(name, shown_by[part], asked_by[part], stream, options) for part in APART_SHARES)
    return most, apart


def evaluation_episodes(
    name: str, shown: Sequence[Sample], stream: Stream, options: BuildOptions, asked: Sequence[Sample]
) -> Iterator[Episode]:
    """The one episode of a MemoryAgentBench source; its questions are drawn from `asked`, the official test split.

    `options.stream_tokens` bounds the stream where `options.chunks` does not.
    """
    if options.stream_tokens and not options.chunks:
        limit = options.chunk_tokens or stream.max_tokens
        stream = dataclasses.replace(stream, chunks=max(1, options.stream_tokens // limit))
    yield _Builder(name, shown, asked, stream, options).episode(f"{name}-eval")


class _Builder:
    """Makes episodes of one source, each from its name and the seed alone."""

    def __init__(
        self, name: str, shown: Sequence[Sample], asked: Sequence[Sample], stream: Stream, options: BuildOptions
    ) -> None:
        self.name, self.shown, self.options = name, shown, options
        self.wrapper = Wrapper(SAMPLES, options.count_tokens)
        self.groups: dict[str, list[int]] = {label: [] for label in label_names(shown)}  # places in `shown`
        for i, one in enumerate(shown):
            self.groups[one.label].append(i)
        if len(self.groups) < 2:
            raise UserError(f"{name}: the samples to show have {len(self.groups)} label(s), at least two are needed")
        # A label that is never shown cannot be asked for.
        self.asked = [one for one in asked if one.label in self.groups]
        if asked and not self.asked:
            raise UserError(f"{name}: no sample to ask about has a label of those to show")
        if not asked and len(shown) <= len(self.groups):
            raise UserError(f"{name}: there is one sample for each label, which leaves none to ask about")
        # Without a split of their own the questions come from what is left of `shown`.
        most = len(shown) if self.asked else len(shown) - MAX_QUESTIONS
        most = max(len(self.groups), min(most, stream.samples or most))
        self.stream = dataclasses.replace(stream, chunks=options.chunks or stream.chunks, samples=most)
        if options.chunk_tokens:
            limit = options.chunk_tokens
            self.stream = dataclasses.replace(self.stream, min_tokens=limit, max_tokens=limit)

    def episode(self, instance_id: str) -> Episode:
        rng = np.random.default_rng([self.options.seed, zlib.crc32(instance_id.encode())])
        names = [label for _, label in sorted(zip(rng.random(len(self.groups)), self.groups, strict=True))]
        number_of = {label: number for number, label in enumerate(names)}
        chunks = self._chunks(number_of, rng)
        places = [cast(tuple[int, ...], chunk.keys) for chunk in chunks]  # in `shown`
        keys = set(itertools.chain(*places))
        asked = self.asked or [one for i, one in enumerate(self.shown) if i not in keys]
        labels_shown = [{self.shown[i].label for i in chunk} for chunk in places]
        questions = tuple(
            _question(asked[i], number_of, labels_shown) for i in rng.permutation(len(asked))[:MAX_QUESTIONS]
        )
        texts = tuple(one.text for one in self.wrapper.wrap([chunk.text for chunk in chunks], rng))
        return validate(Episode(instance_id, self.name, texts, questions, {"labels": names, "samples": len(keys)}))

    def _chunks(self, number_of: Mapping[str, int], rng: np.random.Generator) -> list[Chunk]:
        """The chunks of the stream, `stream.chunks` of them where there are samples enough.

        Samples are taken label by label in turn, so that every label is shown and none much more often than another,
        and shown in random order.
        """
        limit, wanted = int(rng.integers(self.stream.min_tokens, self.stream.max_tokens + 1)), self.stream.chunks
        chunker = sample_chunker(limit, self.wrapper.count_tokens)
        units: list[Unit] = []
        sizes: list[int] = []
        room, total = limit - self.wrapper.count_tokens(""), 0
        for i in itertools.islice(self._in_turns(rng), self.stream.samples):
            units.append(Unit(labelled_sample(self.shown[i].text, str(number_of[self.shown[i].label])), i))
            sizes.append(self.options.count_tokens(f"{units[-1].text}\n"))
            total += sizes[-1]
            if wanted and total > wanted * room:
                break
        places = rng.random(len(units))
        count = _most_that_fit(sizes, places, room, wanted) if wanted else len(units)
        while True:
            if count < len(self.groups):
                raise UserError(
                    f"{self.name}: one sample of each of the {len(self.groups)} labels takes more than {wanted} "
                    f"chunk(s) of {limit} tokens; raise the tokens or the number of chunks"
                )
            chunks = chunker([units[i] for i in np.argsort(places[:count])])
            if not wanted or len(chunks) <= wanted:
                return chunks
            count -= 1  # tokens do not quite add up

    def _in_turns(self, rng: np.random.Generator) -> Iterator[int]:
        """Places in `shown`: one of every label, then another of every label, until none is left."""
        groups = [rng.permutation(group).tolist() for group in self.groups.values()]
        for turn in itertools.zip_longest(*groups):
            yield from (i for i in turn if i is not None)


def _most_that_fit(sizes: Sequence[int], places: np.ndarray, room: int, chunks: int) -> int:
    """The largest n so that the first n samples, in the order of `places`, fill at most `chunks` chunks.

    It counts as if the tokens of samples simply added up, which the exact packing afterwards may contradict by a few.
    """

    def needed(count: int) -> int:
        filled, free = 0, 0
        for i in np.argsort(places[:count]):
            if sizes[i] > free:
                filled, free = filled + 1, room
            free -= sizes[i]
        return filled

    return bisect.bisect_right(range(len(sizes) + 1), chunks, key=needed) - 1


def _question(one: Sample, number_of: Mapping[str, int], labels_shown: Sequence[Collection[str]]) -> Question:
    evidence = tuple(t for t, labels in enumerate(labels_shown) if one.label in labels)
    return Question(f"Sample: {one.text}\nLabel: ?", f"\\boxed{{{number_of[one.label]}}}", "classification", evidence)
