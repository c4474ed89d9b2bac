"""Text that episodes share: what a held-out set must not have in common with the training set.

Two episodes share text if they ask the same question or have a passage of 13 words in common (n-grams of 13 are the
measure of Brown et al. 2020, "Language models are few-shot learners", appendix C). Case, punctuation and white space do
not count, and neither do the fixed phrases in which chunks are wrapped.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import scipy.sparse

from memalpha_jax.episodes import wrapping
from memalpha_jax.episodes.episode import Episode

NGRAM = 13
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that every power of it keeps all 64 bits
_WORD = re.compile(r"\w+")
_STYLES = (wrapping.DOCUMENTS, wrapping.SAMPLES, wrapping.READING)
_WRAPPER = re.compile(
    "|".join(
        [r"\[Dialogue at timestamp [^\]\n]*\]"]
        + [re.escape(phrase) for style in _STYLES for phrase in (*style.openers, *style.replies)]
    )
)
_BREAK = "\x00"  # stands for what was taken out: no passage goes across
_GRAMS_AT_ONCE = 30_000_000

Episodes = Callable[[], Iterable[Episode]]
"""Gives the same episodes in the same order at every call, so that they need not be held in memory."""


@dataclasses.dataclass(frozen=True)
class Clash:
    """Something that a training episode has in common with a held-out one.

    Attributes:
      kind: "question" or "passage". text: what they share, in lower case.
      train, held_out: the episodes, as SOURCE/INSTANCE_ID.
    """

    kind: str
    text: str
    train: str
    held_out: str


def words(text: str) -> list[str]:
    """The words that are compared, in lower case."""
    return _WORD.findall(text.lower())


def question_keys(episode: Episode) -> list[str]:
    """What makes a question the same as another: its words.

    Where the episode has one question, that is an instruction such as "Summarise what you read" and the text is what
    matters; then its gold belongs to it.
    """
    if len(episode.questions) > 1:
        return [" ".join(words(question.question)) for question in episode.questions]
    only = episode.questions[0]
    golds = (only.answer,) if isinstance(only.answer, str) else only.answer
    return [" ".join(words(" ".join((only.question, *golds))))]


def evidence_chunks(episode: Episode) -> list[str]:
    """The chunks that carry the answers; all of them where a question does not say which."""
    if any(not question.evidence for question in episode.questions):
        return list(episode.chunks)
    return [episode.chunks[t] for t in sorted({t for question in episode.questions for t in question.evidence})]


@functools.lru_cache(maxsize=1 << 20)
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "little")


def _passages(text: str) -> Iterator[list[str]]:
    for passage in _WRAPPER.sub(_BREAK, text).split(_BREAK):
        found = words(passage)
        if len(found) >= NGRAM:
            yield found


def _hashes(found: Sequence[str]) -> np.ndarray:
    """uint64 [len(found) - 12]: sum of h(word i + j) m^(12 - j) modulo 2^64, for every i."""
    hashed = np.fromiter(map(_word_hash, found), np.uint64, len(found))
    count = len(found) - NGRAM + 1
    total = np.zeros(count, np.uint64)
    for j in range(NGRAM):
        total = total * _MULTIPLIER + hashed[j : j + count]
    return total


def gram_hashes(texts: Iterable[str]) -> np.ndarray:
    """uint64 [any]: the distinct hashes of all runs of 13 words within one of `texts`, sorted."""
    found = [_hashes(passage) for text in texts for passage in _passages(text)]
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.uint64)


def groups(episodes: Episodes) -> np.ndarray:
    """int32 [episodes]: the same number for episodes that share text, directly or through others."""
    first_asked: dict[str, int] = {}
    links: set[tuple[int, int]] = set()
    total = count = 0
    for number, episode in enumerate(episodes()):
        count += 1
        total += sum(map(len, episode.chunks)) // 6  # about so many words
        links.update((first_asked.setdefault(key, number), number) for key in question_keys(episode))
    parts = total // _GRAMS_AT_ONCE + 1
    for part in range(parts):
        links |= _links_of(episodes, part, parts)
    pairs = np.array(sorted(links), np.int64).reshape(-1, 2)
    graph = scipy.sparse.coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return scipy.sparse.csgraph.connected_components(graph, directed=False)[1]


def _links_of(episodes: Episodes, part: int, parts: int) -> set[tuple[int, int]]:
    """Pairs of episodes with a common passage whose hash is `part` modulo `parts`."""
    grams, owners = [], []
    for number, episode in enumerate(episodes()):
        found = gram_hashes(episode.chunks)
        found = found[found % np.uint64(parts) == part]
        grams.append(found)
        owners.append(np.full(len(found), number, np.int32))
    if not grams:
        return set()
    gram, owner = np.concatenate(grams), np.concatenate(owners)
    order = np.argsort(gram, kind="stable")
    gram, owner = gram[order], owner[order]
    same = np.flatnonzero(gram[1:] == gram[:-1])
    pairs = np.unique(np.stack([owner[same], owner[same + 1]], axis=1), axis=0)
    return set(map(tuple, pairs.tolist()))


def find_clashes(train: Episodes, held_out: Iterable[Episode]) -> list[Clash]:
    """Every question of `train` that `held_out` asks, and of each pair of episodes the first passage they share.

    Of a training episode the chunks with gold evidence count, of a held-out one all of its text.
    """
    asked: dict[str, int] = {}
    names, grams, owners = [], [], []
    for number, episode in enumerate(train()):
        names.append(_name(episode))
        for key in question_keys(episode):
            asked.setdefault(key, number)
        found = gram_hashes(evidence_chunks(episode))
        grams.append(found)
        owners.append(np.full(len(found), number, np.int32))
    if not names:
        return []
    gram, owner = np.concatenate(grams), np.concatenate(owners)
    order = np.argsort(gram, kind="stable")
    gram, owner = gram[order], owner[order]
    clashes = []
    for episode in held_out:
        for key in dict.fromkeys(question_keys(episode)):
            if key in asked:
                clashes.append(Clash("question", key, names[asked[key]], _name(episode)))
        shared = _shared_passages(episode, gram, owner)
        clashes += [Clash("passage", text, names[number], _name(episode)) for number, text in shared.items()]
    return clashes


def _shared_passages(episode: Episode, gram: np.ndarray, owner: np.ndarray) -> dict[int, str]:
    """The first passage that each training episode shares with this one, by the number of the former."""
    shared: dict[int, str] = {}
    for text in episode.chunks:
        for passage in _passages(text):
            hashed = _hashes(passage)
            starts, ends = (np.searchsorted(gram, hashed, side) for side in ("left", "right"))
            for i in np.flatnonzero(ends > starts).tolist():
                for number in owner[starts[i] : ends[i]].tolist():
                    shared.setdefault(number, " ".join(passage[i : i + NGRAM]))
    return shared


def _name(episode: Episode) -> str:
    return f"{episode.data_source}/{episode.instance_id}"


def count_clashes(clashes: Sequence[Clash]) -> dict[str, int]:
    """How many there are by kind and pair of sources, "question: nlu in nlu" and the like, in order of name."""
    pairs = (f"{clash.kind}: {clash.train.split('/')[0]} in {clash.held_out.split('/')[0]}" for clash in clashes)
    return dict(sorted(Counter(pairs).items()))
