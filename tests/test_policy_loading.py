"""Policies come back from a checkpoint as they were, and every wrong path gets a sentence."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_policy import jitted_init

import memalpha_jax
from memalpha_jax.checkpoints import Checkpoints
from memalpha_jax.config import build, to_dict
from memalpha_jax.errors import UserError
from memalpha_jax.experiment import Config
from memalpha_jax.policy.model import Qwen3
from memalpha_jax.policy.policy import load_policy
from memalpha_jax.policy.tokenizer import SentencePieceTokenizer
from memalpha_jax.tools.wire import call_frames

CONFIG = build(
    Config,
    {
        "policy": {"width": 16, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 8, "ff": 16},
        "memory": {"items": 8, "core_tokens": 20},
        "rollout": {"prompt_tokens": 90, "template": "compact"},
        "episodes": {"chunk_tokens": 50},
    },
)


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    texts = [f"Kelora lives in {place} since {year}." for place in ("Rome", "Oslo") for year in range(50)]
    return SentencePieceTokenizer.train(texts, 320, call_frames("qwen_agent"))


def save(place: Path, spm: SentencePieceTokenizer, seeds: dict[int, int], **meta) -> dict[int, dict]:
    sizes = dataclasses.replace(CONFIG.policy, vocab_size=spm.vocab_size)
    made = {step: jitted_init(sizes, jax.random.key(seed)) for step, seed in seeds.items()}
    meta = {"config": to_dict(CONFIG), "tokenizer": spm.files(), **meta}
    with Checkpoints(place) as checkpoints:
        for step, params in made.items():
            checkpoints.save(step, {"params": params, "step": jnp.int32(step)}, meta)
    return made


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, tokenizer) -> tuple[Path, dict[int, dict]]:
    root = tmp_path_factory.mktemp("run")
    return root, save(root / "checkpoints", tokenizer, {1: 10, 2: 20})


@pytest.mark.parametrize(("place", "step"), [("", 2), ("checkpoints", 2), ("checkpoints/1", 1)])
def test_a_policy_is_read_from_a_workdir_its_checkpoints_or_one_step(workdir, tokenizer, place, step):
    root, made = workdir
    policy = load_policy(root / place)
    jax.tree.map(np.testing.assert_array_equal, policy.params, made[step])
    assert policy.step == step
    assert policy.config == dataclasses.replace(CONFIG.policy, vocab_size=tokenizer.vocab_size)
    assert (policy.memory, policy.rollout, policy.chunk_tokens) == (CONFIG.memory, CONFIG.rollout, 50)
    text = "Kelora lives in Oslo. \u2603 <|im_end|>"
    assert policy.tokenizer.encode(text) == tokenizer.encode(text)
    assert policy.tokenizer.decode(policy.tokenizer.encode(text)) == text


def test_logits_are_those_of_the_model_at_every_length(workdir):
    policy = load_policy(workdir[0])
    tokens = policy.tokenizer.encode("Kelora lives in Rome since 19. Kelora lives.")
    whole = jax.jit(Qwen3(policy.config).apply)({"params": policy.params}, jnp.array([tokens]))[0]
    for length in (1, 2, 5, len(tokens)):
        found = policy.logits(tokens[:length])
        assert found.shape == (length, policy.config.vocab_size)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, whole[:length], atol=1e-5)


def test_logits_refuse_ids_that_do_not_exist(workdir):
    policy = load_policy(workdir[0])
    for tokens in ([], [-1], [policy.config.vocab_size]):
        with pytest.raises(UserError, match="token id"):
            policy.logits(tokens)


def test_wrong_paths_are_told(tmp_path):
    with pytest.raises(UserError, match="no directory"):
        load_policy(tmp_path / "absent")
    with pytest.raises(UserError, match="no checkpoint"):
        load_policy(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="Hugging Face"):
        load_policy(tmp_path)


@pytest.mark.parametrize("missing", ["config", "tokenizer"])
def test_a_checkpoint_without_config_or_tokenizer_is_told(tmp_path, tokenizer, missing):
    save(tmp_path, tokenizer, {0: 0}, **{missing: None})
    with pytest.raises(UserError, match=f"holds no {missing}"):
        load_policy(tmp_path)


def test_parameters_that_do_not_fit_their_config_are_told(tmp_path, tokenizer):
    config = to_dict(CONFIG)
    config["policy"]["ff"] = 24
    save(tmp_path, tokenizer, {0: 0}, config=config)
    with pytest.raises(UserError, match=r"down.*\(2, 16, 16\).*\(2, 24, 16\)"):
        load_policy(tmp_path)
    del config["memory"]
    shutil.rmtree(tmp_path)
    save(tmp_path, tokenizer, {0: 0}, config=config)
    with pytest.raises(UserError, match="'memory'"):
        load_policy(tmp_path)


def test_public_names_import_and_cost_nothing_before():
    for name in memalpha_jax.__all__:
        assert getattr(memalpha_jax, name) is not None
    assert memalpha_jax.bm25_rank(["tea", "rice pudding", "rain"], "pudding", 1) == [1]
    assert memalpha_jax.score("icl_banking77_5900shot_balance", "\\boxed{7}", "7") == 1.0
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = memalpha_jax.nothing_like_it
    code = "import sys, json, memalpha_jax; print(json.dumps([m for m in ('jax', 'numpy') if m in sys.modules]))"
    root = Path(memalpha_jax.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=root)
    assert json.loads(done.stdout) == []
