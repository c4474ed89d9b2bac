"""Two processes put adapters on a Hugging Face model, each reading its own shards of it, as one process does."""

from __future__ import annotations

import json
from pathlib import Path

import hugging_face_models as hf
import mini
import pair
import pytest
from qwen_folder import small_folder

from memalpha_jax.episodes.generated import vocabulary_texts
from memalpha_jax.metrics_log import read_metrics
from memalpha_jax.tools.prompts import load_template

CHANGES = {
    "grpo.objective.kl_coef": 0.01,  # the base is the reference as well
    "grpo.steps": 1,  # of two updates: the first moves the one half of fresh adapters only
    "policy.lora.rank": 2,
    "rollout.prompt_tokens": 240,
    "run.evaluate_every": 0,
    "run.trace_every": 0,
}


@pytest.fixture(scope="module")
def changes(tmp_path_factory) -> dict[str, object]:
    """`CHANGES` with a random model and its tokenizer to start from."""
    # What every prompt begins with is among the texts, so that it becomes few tokens.
    texts = [load_template("compact")] * 9 + vocabulary_texts()[:5000]
    folder = small_folder(tmp_path_factory.mktemp("hf") / "model", texts, 800)
    held = json.loads((folder / "tokenizer.json").read_text())
    tokens = len(held["model"]["vocab"]) + len(held["added_tokens"])
    model = hf.random_model(vocab_size=tokens + tokens % 2, max_position_embeddings=1024, num_hidden_layers=1)
    return {**CHANGES, "policy.path": hf.save(model, folder)}


def test_adapters_on_a_hugging_face_model_have_the_bits_of_one_process(tmp_path: Path, changes):
    for done in pair.finish(pair.start(tmp_path / "one", changes, 2)):
        mini.succeeded(done)
    for done in pair.finish(*pair.start_two(tmp_path / "two", changes)):
        mini.succeeded(done)
    state = pair.assert_same(tmp_path / "one", tmp_path / "two", 1)
    trained = {name: value for name, value in state.items() if name.startswith("['params']")}
    assert all("_lora_" in name for name in trained)  # the model itself is not trained, and not saved
    assert all(value.any() for name, value in trained.items() if name.endswith("_lora_b']"))  # which began at 0
    (metrics,) = read_metrics(tmp_path / "two" / "metrics.jsonl")
    assert metrics["update/grad_norm"] > 1e-3
    assert metrics["update/reference_kl"] > 0
