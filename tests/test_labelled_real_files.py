"""The classification sources from their real files, counted with the true Qwen tokenizer."""

from __future__ import annotations

import itertools
import re
import statistics

import mini
import pytest
import qwen_folder
import transformers
from label_files import EVALUATED, SOURCES, TRAINED
from test_labelled import asked_in, stream_of

from memalpha_jax.episodes.labelled import same_text
from memalpha_jax.episodes.source import EVALUATION, TRAINING, BuildOptions
from memalpha_jax.rewards import metrics

DATA = mini.ROOT.parent / "shared" / "data"
TREC = {"train": "trec/train_5500.label", "test": "trec/TREC_10.label"}
FILES = {
    "nlu": {"train": "nlu/train.csv", "test": "nlu/test.csv"},
    "trec_coarse": TREC,
    "trec_fine": TREC,
    "banking77": {split: f"banking77/{split}.csv" for split in ("train", "test")}
    | {"categories": "banking77/categories.json"},
    "clinic150": {"data": "clinc150/data_full.json"},
    "pubmed_rct": {"train": "pubmedqa/ori_pqal.json"},
}
LABELS = {"nlu": 64, "trec_coarse": 6, "trec_fine": 50, "banking77": 77, "clinic150": 150, "pubmed_rct": 5}
LOADED = 3
"""Training episodes looked at, of each source."""


@pytest.fixture(scope="module")
def count_tokens():
    tokenizer = transformers.AutoTokenizer.from_pretrained(qwen_folder.qwen_folder())
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))


@pytest.fixture(scope="module")
def load(count_tokens):
    """The first episodes of a source, each source loaded once."""
    loaded = {}

    def first(name: str, role: str):
        paths = {key: DATA / path for key, path in FILES[name].items()}
        for path in paths.values():
            if not path.exists():
                pytest.skip(f"there is no {path}")
        if (name, role) not in loaded:
            episodes = SOURCES[name, role].load(paths, BuildOptions(count_tokens))
            loaded[name, role] = list(itertools.islice(episodes, LOADED))
        return loaded[name, role]

    return first


@pytest.mark.parametrize(("name", "role"), list(SOURCES))
def test_every_label_is_shown_and_no_question_is(name, role, load):
    for episode in load(name, role):
        shown = stream_of(episode)
        assert {number for _, number in shown} == set(range(LABELS[name]))
        assert len(episode.questions) == 100
        assert not {same_text(text) for text in asked_in(episode)} & {same_text(text) for text, _ in shown}


@pytest.mark.parametrize(
    ("name", "limit", "mean"),
    [("nlu", 624, (600, 620)), ("trec_coarse", 620, (595, 620)), ("pubmed_rct", 2048, (1024, 2048))],
)
def test_training_episodes_have_the_published_shape(name, limit, mean, load, count_tokens):
    for episode in load(name, TRAINING):
        lengths = [count_tokens(chunk) for chunk in episode.chunks]
        assert len(lengths) == 10
        assert max(lengths) <= limit
        assert mean[0] <= statistics.mean(lengths) <= mean[1]


@pytest.mark.parametrize(("name", "role"), EVALUATED)
def test_evaluation_chunks_are_full_and_never_too_long(name, role, load, count_tokens):
    (episode,) = load(name, role)
    lengths = [count_tokens(chunk) for chunk in episode.chunks]
    assert max(lengths) <= 1024
    assert statistics.mean(lengths[:-1]) > 900
    assert sum(lengths) > 50_000


@pytest.mark.parametrize("name", ["nlu", "trec_coarse"])
def test_training_holds_nothing_of_the_evaluation(name, load):
    evaluated = [*load(name, EVALUATION), *(load("trec_fine", EVALUATION) if name == "trec_coarse" else [])]
    held_out = {same_text(text) for episode in evaluated for text in texts_of(episode)}
    assert not held_out & {same_text(text) for episode in load(name, TRAINING) for text in texts_of(episode)}


def texts_of(episode) -> list[str]:
    return [*asked_in(episode), *(text for text, _ in stream_of(episode))]


@pytest.mark.parametrize(("name", "role"), list(SOURCES))
def test_knowing_every_sample_by_heart_answers_nothing(name, role, load):
    """Whoever remembers all samples word for word finds no question among them."""
    for episode in load(name, role):
        known = {same_text(text): number for text, number in stream_of(episode)}
        answers = [f"\\boxed{{{known.get(same_text(text), '')}}}" for text in asked_in(episode)]
        assert accuracy(episode, answers) == 0


@pytest.mark.parametrize(("name", "role"), TRAINED)
def test_true_classes_with_the_numbers_of_another_episode_score_at_chance(name, role, load):
    """An oracle that knows the class of every text has to read this episode's numbers all the same."""
    own, other = [], []
    episodes = load(name, role)
    for episode, before in zip(episodes, [episodes[-1], *episodes], strict=False):
        names = episode.metadata["labels"]
        classes = [names[int(re.search(r"\d+", question.answer)[0])] for question in episode.questions]
        own.append(accuracy(episode, [f"\\boxed{{{names.index(label)}}}" for label in classes]))
        other.append(accuracy(episode, [f"\\boxed{{{before.metadata['labels'].index(label)}}}" for label in classes]))
    assert own == [1.0] * LOADED
    # The labels that keep their number are one on average, however many there are; of five or six labels one can be a
    # third of the questions.
    assert statistics.mean(other) < (0.1 if LABELS[name] > 50 else 0.6)


def accuracy(episode, answers) -> float:
    scores = [
        metrics.score(episode.data_source, answer, question.answer)
        for answer, question in zip(answers, episode.questions, strict=True)
    ]
    return statistics.mean(scores)
