"""Embeddings against transformers' torch model; dense and fused rankings against loops."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from embedding_folder import PIECES, make_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_bm25 import BM25Okapi
from transformers import AutoTokenizer

from memalpha_jax.errors import UserError
from memalpha_jax.memory.dense import DenseIndex, FusionIndex
from memalpha_jax.memory.retrieval import words
from memalpha_jax.memory.sentence_encoder import BATCH, load_encoder
from memalpha_jax.methods.method import Entry
from memalpha_jax.methods.retrieval import RetrievalConfig, make_retrieval

TEXTS = [
    "The red fox sleeps in the wood.",
    "a [SEP] b [CLS] [MASK] : text that looks like frames stays text",
    "tea",
    "",
    "a text with more tokens than the model takes " * 4,
    "where is the owl? \ud800 in the blue house",
    "TEA",
]


def torch_embeddings(folder: Path, model, texts: list[str], pooling: str) -> np.ndarray:
    """By transformers, one text at a time and without padding."""
    tokenizer, vectors = AutoTokenizer.from_pretrained(folder), []
    for text in texts:
        text = text.replace("\ud800", "?")
        ids = tokenizer(text, truncation=True, max_length=20, return_tensors="pt", split_special_tokens=True)
        with torch.no_grad():
            hidden = model(**ids).last_hidden_state[0]
        vectors.append(torch.nn.functional.normalize(hidden[0] if pooling == "cls_token" else hidden.mean(0), dim=0))
    return torch.stack(vectors).numpy()


@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token"])
def test_embeddings_are_those_of_torch(tmp_path, pooling):
    model = make_folder(tmp_path, pooling)
    encoder = load_encoder(tmp_path)
    expected = torch_embeddings(tmp_path, model, TEXTS, pooling)
    np.testing.assert_allclose(encoder.texts(TEXTS), expected, atol=2e-6)
    np.testing.assert_allclose(encoder.query(TEXTS[0]), expected[0], atol=2e-6)


def test_a_batch_is_as_good_as_any_other(folder):
    encoder = load_encoder(folder)
    many = encoder.texts(["fox", "the red owl"] * BATCH)
    np.testing.assert_allclose(many, np.tile(encoder.texts(["fox", "the red owl"]), (BATCH, 1)), atol=2e-6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("embeddings")
    make_folder(path, prompts={"query": "q: ", "passage": "p: "})
    return path


@pytest.fixture(scope="module")
def encoder(folder):
    return load_encoder(folder)


def test_prompts_come_from_the_folder_unless_the_settings_name_others(folder, encoder):
    own = load_encoder(folder, "where ", "the ")
    np.testing.assert_allclose(own.query("q: fox"), load_encoder(folder, "where q", ": ").query(": fox"), atol=1e-6)
    np.testing.assert_allclose(encoder.query("fox"), load_encoder(folder, "q", "p").query(": fox"), atol=1e-6)
    np.testing.assert_allclose(encoder.texts(["fox"]), load_encoder(folder, "q", "p").texts([": fox"]), atol=1e-6)
    assert not np.allclose(encoder.query("fox"), encoder.texts(["fox"])[0], atol=1e-3)
    assert own.identity != encoder.identity == load_encoder(folder).identity


def test_another_model_has_another_identity(tmp_path, encoder):
    make_folder(tmp_path, prompts={"query": "q: ", "passage": "p: "}, seed=1)
    assert load_encoder(tmp_path).identity != encoder.identity


class Letters:
    """Counts of letters, to a length of 1; says what it was asked for."""

    width = 3

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def texts(self, texts: list[str]) -> np.ndarray:
        self.asked.append(texts)
        return np.stack([self.query(text) for text in texts])

    def query(self, query: str) -> np.ndarray:
        counts = np.array([1e-3 + query.count(letter) for letter in "abc"], np.float32)
        return counts / np.linalg.norm(counts)


UPDATES = st.tuples(st.sampled_from(["add", "replace", "remove"]), st.integers(0, 4), st.text("abc ", max_size=8))


def ranks(scores: list[float]) -> dict[int, int]:
    return {i: rank for rank, i in enumerate(sorted(range(len(scores)), key=lambda i: -scores[i]), start=1)}


def fused(texts: list[str], cosines: list[float], query: str) -> list[float]:
    """Sums of 1 / (60 + rank), with rank_bm25's ranking of the texts that share a word with the query."""
    dense, found = ranks(cosines), [0.0] * len(texts)
    if any(map(words, texts)):
        found = BM25Okapi([words(text) for text in texts]).get_scores(words(query)).tolist()
    sparse = ranks(found)
    return [(1 / (60 + sparse[i]) if found[i] else 0) + 1 / (60 + dense[i]) for i in range(len(texts))]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(UPDATES, max_size=6), min_size=1, max_size=4), st.text("abc ?", max_size=6))
def test_dense_and_fused_rankings_equal_loops_after_any_updates(rounds, query):
    letters = Letters()
    dense, fusion, texts = DenseIndex(letters), FusionIndex(letters), {}
    for updates in rounds:
        for name, key, text in updates:
            if (name == "add") == (key in texts):
                continue
            for index in (dense, fusion):
                index.remove(key) if name == "remove" else getattr(index, name)(key, text)
            if name == "remove":
                del texts[key]
            else:
                texts[key] = text
        cosines = [float(letters.query(text) @ letters.query(query)) for text in texts.values()]
        np.testing.assert_allclose(dense.scores(query), cosines, atol=1e-6)
        found = dict(dense.best(query, 9))
        assert list(found.values()) == sorted(found.values(), reverse=True)
        np.testing.assert_allclose(
            fusion.scores(query), fused(list(texts.values()), dense.scores(query).tolist(), query), atol=1e-12
        )
        assert len(dense) == len(fusion) == len(texts) == len(found)
        keys, scores = list(texts), fusion.scores(query)
        best = sorted(range(len(keys)), key=lambda i: -scores[i])[:2]
        assert fusion.best(query, 2) == [(keys[i], scores[i]) for i in best]


def test_texts_are_embedded_once_and_together():
    letters = Letters()
    index = DenseIndex(letters)
    for key in range(5):
        index.add(key, "a" * key)
    index.replace(1, "b")
    index.remove(4)
    index.best("a", 2)
    index.best("b", 2)
    index.replace(0, "c")
    assert index.best("c", 1)[0][0] == 0
    assert letters.asked == [["", "b", "aa", "aaa"], ["c"]]


def test_a_method_ranks_by_the_model_of_the_folder(folder):
    for method in ("dense", "fusion"):
        retrieval = make_retrieval(RetrievalConfig(method, str(folder), query_prompt="p: "))
        assert retrieval.identity.startswith(f"{method} ")
        entries = [Entry(str(i), "semantic", text, i) for i, text in enumerate(["the blue house", "a red fox"])]
        found = retrieval.open().best_passages(entries, ("semantic",), "a red fox", 1)
        assert [passage.id for passage in found] == ["1"]


def broken(folder: Path, name: str, **changes) -> None:
    values = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**values, **changes}))


BREAKING = {
    "no modules": (lambda f: (f / "modules.json").unlink(), "modules.json"),
    "modules are no list": (lambda f: (f / "modules.json").write_text('{"a": 1}'), "modules.json"),
    "a path elsewhere": (
        lambda f: (f / "modules.json").write_text('[{"type": "x.Pooling", "path": "../p"}]'),
        "not one beside it",
    ),
    "another part": (lambda f: (f / "modules.json").write_text('[{"type": "x.Dense", "path": "2_Dense"}]'), "Dense"),
    "another pooling": (
        lambda f: broken(f, "1_Pooling/config.json", pooling_mode_mean_tokens=False, pooling_mode_max_tokens=True),
        "cls_token",
    ),
    "two poolings": (lambda f: broken(f, "1_Pooling/config.json", pooling_mode_cls_token=True), "mean_tokens"),
    "another architecture": (lambda f: broken(f, "config.json", model_type="mpnet"), "mpnet"),
    "another activation": (lambda f: broken(f, "config.json", hidden_act="relu"), "relu"),
    "another size": (lambda f: broken(f, "config.json", intermediate_size=25), "shape"),
    "more layers": (lambda f: broken(f, "config.json", num_hidden_layers=3), "encoder.layer.2"),
    "fewer words": (lambda f: broken(f, "config.json", vocab_size=len(PIECES) - 1), "pieces"),
    "heads that do not divide": (lambda f: broken(f, "config.json", num_attention_heads=5), "no multiple"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
    "weights cut off": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
        "model.safetensors",
    ),
}


@pytest.mark.parametrize("fault", BREAKING)
def test_a_broken_folder_is_one_sentence(tmp_path, fault):
    make_folder(tmp_path)
    damage, named = BREAKING[fault]
    damage(tmp_path)
    with pytest.raises(UserError) as error:
        load_encoder(tmp_path)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_no_folder_is_named():
    with pytest.raises(UserError, match="/nowhere"):
        load_encoder("/nowhere")
