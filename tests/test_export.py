"""Exports: transformers and PEFT read them, every bit is kept, and nothing is overwritten or half-written."""

import dataclasses
import json
import shutil
from pathlib import Path

import hugging_face_models as hf
import jax
import jax.numpy as jnp
import mini
import numpy as np
import pytest
import torch
import transformers
from qwen_folder import small_folder
from safetensors.numpy import load_file

from memalpha_jax import export as export_module
from memalpha_jax import load_policy
from memalpha_jax.checkpoints import Checkpoints
from memalpha_jax.config import build, to_dict
from memalpha_jax.errors import UserError
from memalpha_jax.experiment import Config
from memalpha_jax.export import export
from memalpha_jax.memory.state import MemoryConfig
from memalpha_jax.policy import hugging_face
from memalpha_jax.policy.config import PROJECTIONS, LoraConfig, PolicyConfig, YarnConfig
from memalpha_jax.policy.hugging_face import load_params, tensors
from memalpha_jax.policy.hugging_face_config import read_config
from memalpha_jax.policy.lora import fingerprint, is_adapter, merge_lora
from memalpha_jax.policy.model import Qwen3, parameter_shapes
from memalpha_jax.policy.policy import Policy
from memalpha_jax.policy.tokenizer import SentencePieceTokenizer
from memalpha_jax.rollout.rollout import RolloutConfig
from memalpha_jax.tools.wire import call_frames

SIZES = PolicyConfig(vocab_size=96, width=32, layers=2, heads=4, kv_heads=2, head_dim=16, ff=48, max_positions=256)
TOKENS = np.random.default_rng(0).integers(0, 96, (2, 20))
WHOLE_FILE = 10**9


def policy_of(config: PolicyConfig, seed: int = 0, **fields) -> Policy:
    rng, params = np.random.default_rng(seed), {}
    for name, (shape, _) in parameter_shapes(config).items():
        value = rng.uniform(0.5, 1.5, shape) if name.endswith("norm") else rng.normal(0, 0.15, shape)
        params[name] = jnp.asarray(value, jnp.float32)
    return Policy(config, params, "made without a tokenizer", MemoryConfig(), RolloutConfig(), **fields)


def our_logits(policy: Policy) -> np.ndarray:
    return np.asarray(jax.jit(lambda p: Qwen3(policy.config).apply({"params": p}, TOKENS))(policy.params))


def their_logits(folder: Path, **options) -> np.ndarray:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", **options)
    return hf.torch_logits(model.eval(), TOKENS)


POLICIES = {
    "qwen3": SIZES,
    "qwen3 untied yarn": dataclasses.replace(
        SIZES, tied_embeddings=False, rope_theta=1e6, norm_eps=1e-4, yarn=YarnConfig(4.0, 64, 20.0, 2.0, 1.2, False)
    ),
    "qwen2.5": dataclasses.replace(SIZES, qk_norm=False, attention_bias=True, head_dim=8),
}


@pytest.mark.parametrize("name", POLICIES)
def test_transformers_loads_an_export_and_agrees(name, tmp_path):
    policy = policy_of(POLICIES[name])
    export(policy, tmp_path / "out", merge=True, dtype=None, file_bytes=WHOLE_FILE)
    np.testing.assert_allclose(their_logits(tmp_path / "out"), our_logits(policy), atol=1e-5)
    again = load_policy(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, again.params, policy.params)
    expected = dataclasses.replace(policy.config, max_positions=again.config.max_positions)
    assert again.config == expected


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_import_then_export_gives_the_same_files(dtype, tmp_path):
    model = hf.random_model(tie_word_embeddings=False).to(getattr(torch, dtype))
    original = hf.save(model, tmp_path / "in")
    policy = load_policy(original, dtype=dtype)
    export(policy, tmp_path / "one", merge=True, dtype=None, file_bytes=WHOLE_FILE)
    export(policy, tmp_path / "several", merge=True, dtype=None, file_bytes=20_000)
    expected = load_file(original / "model.safetensors")
    several = list((tmp_path / "several").glob("*.safetensors"))
    assert len(several) > 2
    assert all(file.stat().st_size < 25_000 for file in several)
    for found in (
        load_file(tmp_path / "one" / "model.safetensors"),
        {k: v for f in several for k, v in load_file(f).items()},
    ):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name].dtype == value.dtype
            assert found[name].tobytes() == value.tobytes(), name
    reread = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "several")
    assert reread.dtype == getattr(torch, dtype)
    for name, value in model.state_dict().items():
        assert torch.equal(reread.state_dict()[name], value)
    assert (tmp_path / "one" / "generation_config.json").read_bytes() == (
        original / "generation_config.json"
    ).read_bytes()


LORA = dataclasses.replace(SIZES, lora=LoraConfig(rank=3, alpha=12.0), path="Qwen/Some-Base")


@pytest.fixture(scope="module")
def adapted() -> Policy:
    return policy_of(LORA)


def test_merged_adapters_compute_the_same(adapted, tmp_path):
    export(adapted, tmp_path / "out", merge=True, dtype=None, file_bytes=WHOLE_FILE)
    np.testing.assert_allclose(their_logits(tmp_path / "out"), our_logits(adapted), atol=2e-5)
    base = Policy(SIZES, {k: v for k, v in adapted.params.items() if not is_adapter(k)}, "", *[None] * 2)
    assert np.abs(our_logits(base) - our_logits(adapted)).max() > 0.1  # the adapters do something


def test_merging_is_the_sum_of_the_paper(adapted):
    merged = merge_lora(adapted.params, adapted.config.lora)
    for name in PROJECTIONS:
        w, a, b = (np.asarray(adapted.params[f"{name}{end}"], np.float64) for end in ("", "_lora_a", "_lora_b"))
        np.testing.assert_allclose(merged[name], w + 12.0 / 3 * a @ b, atol=1e-5)
    half = {name: value.astype("bfloat16") for name, value in adapted.params.items()}
    assert {str(value.dtype) for value in merge_lora(half, adapted.config.lora).values()} == {"bfloat16"}
    with pytest.raises(UserError, match="down"):
        merge_lora({k: v for k, v in adapted.params.items() if k != "down_lora_b"}, adapted.config.lora)


def adapter_applied(base: Path, adapter: Path) -> transformers.PreTrainedModel:
    """The base with the adapter added by PEFT's definition: W (as [out, in]) + alpha / r B A."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager").eval()
    settings = json.loads((adapter / "adapter_config.json").read_text())
    held = {name: torch.from_numpy(value) for name, value in load_file(adapter / "adapter_model.safetensors").items()}
    modules = dict(model.named_modules())
    for name in [name for name in held if name.endswith("lora_A.weight")]:
        path = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        assert path.rsplit(".", 1)[-1] in settings["target_modules"]
        a, b = held.pop(name), held.pop(name.replace("lora_A", "lora_B"))
        assert a.shape[0] == b.shape[1] == settings["r"]
        modules[path].weight.data += settings["lora_alpha"] / settings["r"] * b @ a
    assert not held
    return model


@pytest.mark.parametrize("targets", [PROJECTIONS, ("q", "v")])
def test_an_adapter_alone_has_the_form_of_peft(adapted, targets, tmp_path):
    config = dataclasses.replace(LORA, lora=dataclasses.replace(LORA.lora, targets=targets))
    wanted = tuple(f"{name}_lora_{part}" for name in targets for part in "ab")
    params = {k: v for k, v in adapted.params.items() if not is_adapter(k) or k in wanted}
    policy = dataclasses.replace(adapted, config=config, params=params)
    plain = dataclasses.replace(policy, config=SIZES)
    export(plain, tmp_path / "base", merge=True, dtype=None, file_bytes=WHOLE_FILE)
    export(policy, tmp_path / "adapter", merge=False, dtype=None, file_bytes=WHOLE_FILE)
    expected = our_logits(policy)
    found = hf.torch_logits(adapter_applied(tmp_path / "base", tmp_path / "adapter"), TOKENS)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert (
        json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == LORA.path
    )
    assert "Qwen/Some-Base" in (tmp_path / "adapter" / "README.md").read_text()


def test_peft_itself_reads_the_adapter(adapted, tmp_path):
    peft = pytest.importorskip("peft")
    plain = dataclasses.replace(adapted, config=SIZES)
    export(plain, tmp_path / "base", merge=True, dtype=None, file_bytes=WHOLE_FILE)
    export(adapted, tmp_path / "adapter", merge=False, dtype=None, file_bytes=WHOLE_FILE)
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager")
    model = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    np.testing.assert_allclose(hf.torch_logits(model, TOKENS), our_logits(adapted), atol=2e-5)


RUN = {
    "policy": {"width": 16, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 8, "ff": 16},
    "memory": {"items": 8, "core_tokens": 20},
    "rollout": {"prompt_tokens": 90, "template": "compact", "temperature": 0.7},
    "episodes": {"chunk_tokens": 50},
}


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    texts = [f"Kelora lives in {place} since {year}." for place in ("Rome", "Oslo") for year in range(50)]
    return SentencePieceTokenizer.train(texts, 320, call_frames("qwen_agent"))


def save_run(root: Path, tokenizer: SentencePieceTokenizer, keep=lambda name: True, meta=None, **policy) -> dict:
    """A workdir with two checkpoints; returns the parameters of the last."""
    config = build(Config, {**RUN, "policy": {**RUN["policy"], **policy}})
    sizes = dataclasses.replace(config.policy, vocab_size=tokenizer.vocab_size)
    meta = {"config": to_dict(config), "tokenizer": tokenizer.files(), **(meta or {})}
    with Checkpoints(root / "checkpoints") as checkpoints:
        for step in (1, 2):
            params = {name: value for name, value in policy_of(sizes, step).params.items() if keep(name)}
            checkpoints.save(step, {"params": params, "step": jnp.int32(step)}, meta)
    lines = [{"step": s, "reward/all/total": s / 8, **({"eval/accuracy": 0.5} if s == 1 else {})} for s in (1, 2, 3)]
    (root / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return params


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, tokenizer) -> tuple[Path, dict]:
    root = tmp_path_factory.mktemp("run")
    return root, save_run(root, tokenizer)


def test_the_command_makes_a_folder_that_others_and_we_read(workdir, tokenizer, tmp_path):
    root, params = workdir
    out = tmp_path / "out"
    printed = mini.succeeded(mini.run("export", f"--checkpoint={root}", f"--output={out}", "--max_file_gb=2e-5"))
    assert str(out) in printed
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert len(list(out.glob("model-*.safetensors"))) > 1
    model = transformers.AutoModelForCausalLM.from_pretrained(out, attn_implementation="eager").eval()
    assert model.generation_config.eos_token_id == tokenizer.eos_id
    assert model.generation_config.temperature == 0.7
    policy, trained = load_policy(out), load_policy(root)
    jax.tree.map(np.testing.assert_array_equal, policy.params, params)
    np.testing.assert_allclose(hf.torch_logits(model, TOKENS[:1]), policy.logits(TOKENS[0])[None], atol=1e-5)
    assert (policy.memory, policy.rollout, policy.chunk_tokens) == (trained.memory, trained.rollout, 50)
    assert policy.tokenizer.files() == tokenizer.files()
    card = (out / "README.md").read_text()
    for words in ("`reward/all/total` | 0.25 |", "`eval/accuracy` | 0.5 |", '"prompt_tokens": 90', "AutoTokenizer"):
        assert words in card
    assert "0.375" not in card  # of a later step


def test_one_step_is_exported_in_another_dtype(workdir, tmp_path):
    arguments = [f"--checkpoint={workdir[0]}/checkpoints/1", f"--output={tmp_path / 'out'}", "--dtype=bfloat16"]
    mini.succeeded(mini.run_here("export", *arguments))
    assert {str(v.dtype) for v in load_file(tmp_path / "out" / "model.safetensors").values()} == {"bfloat16"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert "0.125" in (tmp_path / "out" / "README.md").read_text()


def test_a_checkpoint_of_adapters_is_put_on_its_base(workdir, tokenizer, tmp_path):
    root, base = workdir
    lora = {"rank": 2, "alpha": 8.0}
    adapters = save_run(tmp_path / "lora", tokenizer, is_adapter, lora=lora, path=str(root))
    assert all(map(is_adapter, adapters))
    policy = load_policy(tmp_path / "lora")
    jax.tree.map(np.testing.assert_array_equal, policy.params, {**base, **adapters})
    assert load_policy(tmp_path / "lora", dtype="bfloat16").params["q"].dtype == "bfloat16"
    export(policy, tmp_path / "out", merge=True, dtype=None, file_bytes=WHOLE_FILE)
    merged = load_params(tmp_path / "out", read_config(tmp_path / "out"))
    expected = merge_lora({**base, **adapters}, LoraConfig(2, 8.0))
    jax.tree.map(np.testing.assert_array_equal, merged, expected)

    save_run(tmp_path / "own", tokenizer, is_adapter, lora=lora)
    with pytest.raises(UserError, match="adapters only"):
        load_policy(tmp_path / "own")
    shutil.copytree(root / "checkpoints", tmp_path / "own" / "warm_start")
    jax.tree.map(
        np.testing.assert_array_equal, load_policy(tmp_path / "own" / "checkpoints" / "2").params, policy.params
    )
    save_run(tmp_path / "gone", tokenizer, is_adapter, lora=lora, path=str(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"adapters of .*absent, which cannot be read"):
        load_policy(tmp_path / "gone")
    hf.save(hf.random_model(hidden_size=48), tmp_path / "absent")  # another model in its place
    with pytest.raises(UserError, match=r"absent, which is another model now: its width is 48 and was \d+"):
        load_policy(tmp_path / "gone")


def test_adapters_are_not_put_on_another_base(workdir, tokenizer, tmp_path):
    root, base = workdir
    options = {"lora": {"rank": 2, "alpha": 8.0}, "path": str(root)}
    # What they were trained on is known whether it was held in single precision or half of it.
    held = {name: value.astype(jnp.bfloat16) for name, value in base.items()}
    save_run(tmp_path / "right", tokenizer, is_adapter, {"base": fingerprint(held)}, **options)
    load_policy(tmp_path / "right")
    load_policy(tmp_path / "right", dtype="bfloat16")
    changed = {**base, "q": base["q"].at[0, 0, 0].add(0.1)}
    save_run(tmp_path / "wrong", tokenizer, is_adapter, {"base": fingerprint(changed)}, **options)
    with pytest.raises(UserError, match="adapters of another model"):
        load_policy(tmp_path / "wrong")


def test_a_folder_is_converted_as_it_is_stored(tmp_path):
    hf.save(hf.random_model().bfloat16(), tmp_path / "in")
    arguments = [f"--checkpoint={tmp_path / 'in'}", f"--output={tmp_path / 'out'}"]
    mini.succeeded(mini.run_here("export", *arguments))
    expected = load_file(tmp_path / "in" / "model.safetensors")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert {name: value.tobytes() for name, value in found.items()} == {k: v.tobytes() for k, v in expected.items()}
    assert "came without" in (tmp_path / "out" / "README.md").read_text()


def test_adapters_on_adapters_start_from_the_merged_ones(workdir, tokenizer, tmp_path):
    root, base = workdir
    first = save_run(tmp_path / "first", tokenizer, is_adapter, lora={"rank": 2, "alpha": 8.0}, path=str(root))
    second = {"rank": 3, "alpha": 6.0, "targets": ["q"]}
    own = save_run(tmp_path / "second", tokenizer, is_adapter, lora=second, path=str(tmp_path / "first"))
    expected = {**merge_lora({**base, **first}, LoraConfig(2, 8.0)), **own}
    jax.tree.map(np.testing.assert_array_equal, load_policy(tmp_path / "second").params, expected)


def test_a_hugging_face_tokenizer_goes_along(tmp_path):
    folder = small_folder(tmp_path / "in", ["Kelora lives in Oslo since 1990."] * 20, 300)
    hf.save(hf.random_model(vocab_size=512), folder)
    policy = load_policy(folder)
    assert policy.tokenizer.vocab_size < policy.config.vocab_size == 512  # padded, as the released models are
    export(policy, tmp_path / "out", merge=True, dtype=None, file_bytes=WHOLE_FILE)
    text = "<|im_start|>user\nKelora lives in Oslo."
    expected = transformers.AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out")(text)["input_ids"] == expected
    assert load_policy(tmp_path / "out").tokenizer.encode_trusted(text) == expected
    hf.save(hf.random_model(vocab_size=128), folder)
    with pytest.raises(UserError, match=r"tokenizer has \d+ ids, but the embedding only 128 rows"):
        load_policy(folder)


def test_nothing_is_overwritten_and_nothing_left_behind(workdir, tmp_path, monkeypatch):
    policy = policy_of(SIZES)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    (tmp_path / "file").write_text("keep")
    for name in ("full", "file"):
        with pytest.raises(UserError, match="exists already"):
            export(policy, tmp_path / name, merge=True, dtype=None, file_bytes=WHOLE_FILE)
    mini.refused(
        mini.run_here("export", f"--checkpoint={workdir[0]}", f"--output={tmp_path / 'full'}"), "full", "exists already"
    )
    (tmp_path / "empty").mkdir()
    export(policy, tmp_path / "empty", merge=True, dtype=None, file_bytes=WHOLE_FILE)
    assert (tmp_path / "empty" / "config.json").is_file()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module, "write_weights", full)
    with pytest.raises(UserError, match="No space left"):
        export(policy, tmp_path / "new", merge=True, dtype=None, file_bytes=WHOLE_FILE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "full"]
    assert (tmp_path / "full" / "mine.txt").read_text() == "keep"


def test_what_cannot_be_exported_is_told(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"no adapters.*--merge_lora"):
        export(policy_of(SIZES), out, merge=False, dtype=None, file_bytes=WHOLE_FILE)
    mixture = dataclasses.replace(SIZES, attention_bias=True)
    with pytest.raises(UserError, match=r"qk_norm and policy\.attention_bias"):
        export(policy_of(mixture), out, merge=True, dtype=None, file_bytes=WHOLE_FILE)
    assert list(tmp_path.iterdir()) == []
    assert hugging_face.holds_model(tmp_path) is False


def test_text_of_a_config_stays_text_in_the_card():
    policy = policy_of(dataclasses.replace(SIZES, path="x`\n\n# Heading <script>"))
    card = export_module.model_card(policy, {}, merged=True)
    assert "\n# Heading" not in card
    assert "No metrics" in card


def test_every_tensor_of_a_model_has_one_name():
    names = tensors(dataclasses.replace(SIZES, tied_embeddings=False))
    model = hf.random_model(tie_word_embeddings=False)
    assert {n: t.shape for n, t in names.items()} == {n: tuple(v.shape) for n, v in model.state_dict().items()}
