"""Looking at episodes: as text, and their lengths and questions as a picture."""

from __future__ import annotations

import io
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import matplotlib

matplotlib.use("Agg")  # no display; must come before pyplot
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from memalpha_jax.episodes.episode import Episode, Question

WIDTH = 110
_CHUNK_LETTERS = 400
_QUESTIONS = 5
_KINDS = 15
_BARS = 30


def readable(episode: Episode, chunk_tokens: Sequence[int] = ()) -> str:
    """An episode on a few screens: the start of each chunk, some questions with answers, and where these stand."""
    lines = [f"=== {episode.data_source} / {episode.instance_id}", _summary(episode, chunk_tokens)]
    for t, chunk in enumerate(episode.chunks):
        size = f", {chunk_tokens[t]} tokens" if len(chunk_tokens) else ""
        lines += ["", f"--- chunk {t}{size}", *_wrapped(_cut(chunk, _CHUNK_LETTERS))]
    shown = _spread(episode.questions, _QUESTIONS)
    lines += ["", f"--- {len(shown)} of {len(episode.questions)} questions"]
    for question in shown:
        lines += _question_lines(question)
    return "\n".join(lines) + "\n"


def _summary(episode: Episode, chunk_tokens: Sequence[int]) -> str:
    tokens = f", {sum(chunk_tokens):,} tokens" if len(chunk_tokens) else ""
    metadata = f"; metadata: {_cut(str(dict(episode.metadata)), 200)}" if episode.metadata else ""
    return f"{len(episode.chunks)} chunks{tokens}, {len(episode.questions)} questions{metadata}"


def _question_lines(question: Question) -> Iterator[str]:
    golds = (question.answer,) if isinstance(question.answer, str) else question.answer
    yield from _wrapped(_cut(f"Q ({question.kind}) {question.question}", 600))
    yield from _wrapped(_cut(f"A {' | '.join(golds)}", 300), "    ")
    place = f"chunk {', '.join(map(str, question.evidence))}" if question.evidence else "not given"
    yield f"    evidence: {place}"


def _spread(questions: Sequence[Question], count: int) -> list[Question]:
    """Up to `count` of them from the first to the last, evenly."""
    places = np.unique(np.linspace(0, len(questions) - 1, min(count, len(questions))).round().astype(int))
    return [questions[i] for i in places]


def _cut(text: str, letters: int) -> str:
    if len(text) <= letters:
        return text
    end = letters // 4
    return f"{text[: letters - end]} [... {len(text) - letters:,} letters ...] {text[-end:]}"


def _wrapped(text: str, indent: str = "") -> list[str]:
    """Lines that fit a terminal; control characters, which could change it, are spelled out."""
    lines: list[str] = []
    for line in text.splitlines():
        safe = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
        lines += textwrap.wrap(safe, WIDTH, initial_indent=indent, subsequent_indent=indent) or [""]
    return lines


def draw_statistics(
    tokens_of: Mapping[str, Sequence[Sequence[int]]], kinds_of: Mapping[str, Sequence[Sequence[str]]], title: str
) -> bytes:
    """A PNG of four histograms by data source: tokens per chunk and episode, questions per episode, kinds of question.

    Args:
      tokens_of: by data source, of each episode the tokens of its chunks.
      kinds_of: by data source, of each episode the kinds of its questions.
    """
    figure, axes = plt.subplots(2, 2, figsize=(13, 9), constrained_layout=True)
    try:
        chunks = {name: [n for episode in episodes for n in episode] for name, episodes in tokens_of.items()}
        _histogram(axes[0, 0], chunks, "Length of chunks", "tokens", "chunks")
        sums = {name: [sum(episode) for episode in episodes] for name, episodes in tokens_of.items()}
        _histogram(axes[0, 1], sums, "Length of episodes", "tokens", "episodes")
        counts = {name: [len(kinds) for kinds in episodes] for name, episodes in kinds_of.items()}
        _histogram(axes[1, 0], counts, "Questions per episode", "questions", "episodes")
        _kinds(axes[1, 1], kinds_of)
        figure.suptitle(title, fontsize=14)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=110, metadata={"Software": None})
        return png.getvalue()
    finally:
        plt.close(figure)


def _histogram(axis: Axes, values: Mapping[str, Sequence[int]], title: str, x: str, y: str) -> None:
    everything = np.concatenate([np.asarray(v) for v in values.values()])
    low, high = int(everything.min()), int(everything.max())
    wide = low > 0 and high > 50 * low  # sources of very different lengths
    width = -(-(high - low + 1) // _BARS)  # whole numbers: every bar covers equally many of them
    edges = np.geomspace(low, high + 1, _BARS + 1) if wide else np.arange(low, high + width + 1, width) - 0.5
    axis.hist(list(values.values()), edges, stacked=True, label=[f"{name} ({len(v):,})" for name, v in values.items()])
    if wide:
        axis.set_xscale("log")
    axis.xaxis.get_major_locator().set_params(**({} if wide else {"integer": True}))
    axis.set_title(title, fontsize=11)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def _kinds(axis: Axes, kinds_of: Mapping[str, Sequence[Sequence[str]]]) -> None:
    counts = Counter(f"{name}: {kind}" for name, episodes in kinds_of.items() for kinds in episodes for kind in kinds)
    shown = counts.most_common(_KINDS)[::-1]
    bars = axis.barh([name[:40] for name, _ in shown], [count for _, count in shown])
    axis.bar_label(bars, fmt="{:,.0f}", fontsize=8, padding=2)
    axis.margins(x=0.12)
    left_out = f" ({_KINDS} most frequent of {len(counts)})" if len(counts) > _KINDS else ""
    axis.set_title(f"Kinds of question{left_out}", fontsize=11)
    axis.set_xlabel("questions")
    axis.grid(alpha=0.3, axis="x")
