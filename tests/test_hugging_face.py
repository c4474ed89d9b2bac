"""Hugging Face folders: torch is the oracle for numbers, and every broken folder gets a sentence."""

import dataclasses
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import hugging_face_models as hf
import huggingface_hub
import jax
import jax.numpy as jnp
import mini
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from memalpha_jax import load_policy
from memalpha_jax.errors import UserError
from memalpha_jax.policy import hub, hugging_face
from memalpha_jax.policy.attention import Causal
from memalpha_jax.policy.config import PolicyConfig, YarnConfig
from memalpha_jax.policy.generate import generate
from memalpha_jax.policy.hugging_face import load_params
from memalpha_jax.policy.hugging_face_config import config_json, policy_config, read_config
from memalpha_jax.policy.logprobs import reply_logprobs
from memalpha_jax.policy.model import Qwen3, rotary_frequencies
from memalpha_jax.policy.sampling import SamplingConfig
from memalpha_jax.policy.sharding import MeshConfig, make_mesh, tree_shardings
from memalpha_jax.policy.tokenizer import SentencePieceTokenizer

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, hf.SIZES["vocab_size"], (2, 24))
FILE = Path("config.json")


def logits(config: PolicyConfig, params, tokens_NT, first_position: int = 0) -> np.ndarray:
    positions = np.broadcast_to(np.arange(tokens_NT.shape[1]) + first_position, tokens_NT.shape)
    return np.asarray(_forward(config)(params, tokens_NT, positions))


@functools.cache
def _forward(config: PolicyConfig):
    model = Qwen3(config)

    def run(params, tokens_NT, positions):
        hidden, _ = model.apply({"params": params}, tokens_NT, positions, Causal(), method="hidden")
        return model.apply({"params": params}, hidden, method="logits")

    return jax.jit(run)


MODELS = {
    "qwen3 tied": ("qwen3", {"rope_theta": 1e6}),
    "qwen3 untied": ("qwen3", {"tie_word_embeddings": False, "rope_theta": 1e4}),
    "qwen3 one kv head, 3 layers": ("qwen3", {"num_key_value_heads": 1, "num_hidden_layers": 3}),
    "qwen3 no gqa, eps": ("qwen3", {"num_key_value_heads": 4, "rms_norm_eps": 1e-2}),
    "qwen3 yarn": ("qwen3", {"rope_scaling": hf.YARN, "rope_theta": 1e6}),
    "qwen3 yarn options": (
        "qwen3",
        {"rope_scaling": {**hf.YARN, "attention_factor": 1.3, "beta_fast": 20, "beta_slow": 2, "truncate": False}},
    ),
    "qwen2 tied": ("qwen2", {}),
    "qwen2 untied yarn": ("qwen2", {"tie_word_embeddings": False, "rope_scaling": hf.YARN}),
}


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_torch(name, tmp_path):
    kind, changes = MODELS[name]
    model = hf.random_model(kind, **changes)
    config = read_config(hf.save(model, tmp_path))
    params = load_params(tmp_path, config)
    for first_position in (0, 150):  # beyond the original length, where there is one
        expected = hf.torch_logits(model, TOKENS, first_position)
        assert np.abs(expected).max() > 1
        np.testing.assert_allclose(logits(config, params, TOKENS, first_position), expected, atol=1e-5)


def test_positions_of_a_long_context_turn_as_in_torch(tmp_path):
    """A frequency that is off by its last bit would show at 1e-3 here."""
    model = hf.random_model(rope_theta=1e6, rope_scaling={**hf.YARN, "original_max_position_embeddings": 32768})
    config = read_config(hf.save(model, tmp_path))
    params, expected = load_params(tmp_path, config), hf.torch_logits(model, TOKENS, 100_000)
    np.testing.assert_allclose(logits(config, params, TOKENS, 100_000), expected, atol=1e-4)


@pytest.mark.parametrize("yarn", [None, hf.YARN, {**hf.YARN, "factor": 1.0}, {**hf.YARN, "truncate": False}])
@pytest.mark.parametrize("theta", [1e4, 1e6])
def test_frequencies_are_those_of_transformers(yarn, theta):
    original = {} if yarn is None else {"original_max_position_embeddings": 32768}
    config = transformers.Qwen3Config(
        head_dim=128, rope_theta=theta, rope_scaling={**yarn, **original} if yarn else None
    )
    ours = policy_config({**config.to_dict(), "architectures": ["Qwen3ForCausalLM"]}, FILE)
    if yarn is None:
        expected, factor = 1 / theta ** (torch.arange(0, 128, 2, dtype=torch.int64).float() / 128), 1.0
    else:
        expected, factor = ROPE_INIT_FUNCTIONS["yarn"](config, torch.device("cpu"))
    found, found_factor = rotary_frequencies(128, ours.rope_theta, ours.yarn)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1.2e-7)
    assert (found == expected.numpy()).mean() > 0.9
    assert found_factor == pytest.approx(factor, abs=1e-12)


def published(**changes) -> dict:
    """A config.json as the hub has it: rotary settings at the top level."""
    return {**config_json(PolicyConfig(vocab_size=96, max_positions=40_960), "bfloat16"), **changes}


def read(**changes) -> PolicyConfig:
    return policy_config({k: v for k, v in published(**changes).items() if v != "absent"}, FILE)


def test_both_forms_of_rotary_settings_are_read():
    assert read(rope_theta=5e5).rope_theta == 5e5
    new = {"rope_theta": 5e5, "rope_type": "default"}
    assert read(rope_theta="absent", rope_scaling="absent", rope_parameters=new).rope_theta == 5e5
    old = read(rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768})
    assert old.yarn == YarnConfig(factor=4.0, original_positions=32_768)
    new = {"rope_theta": 1e4, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}
    assert read(rope_theta="absent", rope_scaling="absent", rope_parameters=new) == old


def test_what_yarn_leaves_out_comes_from_where_transformers_takes_it():
    assert read(rope_scaling={"rope_type": "yarn", "factor": 2}).yarn == YarnConfig(2.0, 40_960)
    outside = read(rope_scaling={"rope_type": "yarn", "factor": None}, original_max_position_embeddings=10_240)
    assert outside.yarn == YarnConfig(4.0, 10_240)
    both = {"rope_type": "yarn", "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.5}
    assert read(rope_scaling=both).yarn.attention_factor == pytest.approx(1.36888794 / 1.18444397)


def test_the_longest_context_counts_yarn():
    assert read().max_positions == 40_960
    assert read(rope_scaling={**hf.YARN, "original_max_position_embeddings": 32_768}).max_positions == 131_072


def test_the_head_size_defaults_as_in_transformers():
    assert read(head_dim="absent").head_dim == 128
    qwen2 = read(head_dim="absent", architectures=["Qwen2ForCausalLM"], hidden_size=96, num_attention_heads=6)
    assert (qwen2.head_dim, qwen2.qk_norm, qwen2.attention_bias) == (16, False, True)


CONFIGS = [
    PolicyConfig(vocab_size=96, max_positions=512),
    PolicyConfig(vocab_size=96, max_positions=512, tied_embeddings=False, rope_theta=1e6, norm_eps=1e-5, head_dim=8),
    PolicyConfig(vocab_size=96, max_positions=2048, yarn=YarnConfig(4.0, 512, 20.0, 2.0, 1.5, False)),
    PolicyConfig(vocab_size=96, max_positions=512, qk_norm=False, attention_bias=True, kv_heads=1),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_is_read_back_as_it_was_written(config):
    assert policy_config(json.loads(json.dumps(config_json(config, "float32"))), FILE) == config


REFUSED = [
    ({"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM"),
    ({"architectures": ["Qwen3MoeForCausalLM"]}, "Qwen3MoeForCausalLM"),
    ({"architectures": "absent"}, "no architecture"),
    ({"hidden_act": "gelu"}, "gelu"),
    ({"use_sliding_window": True}, "use_sliding_window"),
    ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
    ({"attention_bias": True}, "attention_bias"),
    ({"quantization_config": {"quant_method": "fp8"}}, "quantized"),
    ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "'linear'"),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'"),
    ({"rope_parameters": {"rope_type": "llama3"}, "rope_scaling": "absent"}, "'llama3'"),
    ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "between layers"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    ({"rope_scaling": "yarn"}, "rope_scaling"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 0.5}}, "factor"),
    ({"rope_theta": "absent"}, "no rope_theta"),
    ({"rope_theta": -1.0}, "rope_theta is -1.0"),
    ({"hidden_size": "absent"}, "no hidden_size"),
    ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
    ({"vocab_size": "96"}, "vocab_size"),
    ({"vocab_size": True}, "vocab_size"),
    ({"num_key_value_heads": 3}, "num_key_value_heads"),
    ({"head_dim": 15}, "head_dim"),
    ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED)
def test_models_that_are_not_computed_are_refused(changes, words):
    with pytest.raises(UserError, match=words) as caught:
        read(**changes)
    assert "config.json" in str(caught.value)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """One bfloat16 model, in one file and in several. Look at them, copy them to change them."""
    model = hf.random_model(tie_word_embeddings=False).bfloat16()
    root = tmp_path_factory.mktemp("models")
    single, several = hf.save(model, root / "single"), hf.save(model, root / "several", max_shard_size="20KB")
    assert len(list(several.glob("*.safetensors"))) > 2
    return {"single": single, "several": several}


@pytest.fixture
def folder(folders, tmp_path) -> Path:
    """The first of them, to be broken."""
    return Path(shutil.copytree(folders["single"], tmp_path / "model"))


@pytest.mark.parametrize("name", ["single", "several"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_hold_the_bits_of_the_files(folders, name, dtype):
    config = read_config(folders[name])
    params = load_params(folders[name], config, dtype=dtype)
    stored = load_file(folders["single"] / "model.safetensors")
    for tensor, (parameter, layer, shape) in hugging_face.tensors(config).items():
        value = params[parameter] if layer is None else params[parameter][layer].T
        assert value.dtype == dtype
        assert value.shape == shape
        np.testing.assert_array_equal(np.asarray(value), stored[tensor].astype(dtype))


def test_every_bfloat16_survives(folders, folder):
    """All 65,536 bit patterns, not-a-numbers too."""
    config = dataclasses.replace(read_config(folder), vocab_size=2048)
    hf.change_config(folder, vocab_size=2048)
    bits = np.arange(1 << 16, dtype=np.uint16).reshape(2048, 32)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"] = bits.view(ml_dtypes.bfloat16)
    tensors["lm_head.weight"] = bits[::-1].copy().view(ml_dtypes.bfloat16)
    save_file(tensors, folder / "model.safetensors")
    params = load_params(folder, config, dtype="bfloat16")
    np.testing.assert_array_equal(np.asarray(params["embed"]).view(np.uint16), bits)
    np.testing.assert_array_equal(np.asarray(params["head"]).view(np.uint16), bits[::-1])


@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 4, 2)])
def test_shards_hold_what_the_whole_does(folders, sizes, monkeypatch):
    monkeypatch.setattr(hugging_face, "PIECE_BYTES", 700)  # several pieces to a tensor
    config, mesh = read_config(folders["several"]), make_mesh(MeshConfig(*sizes))
    whole = load_params(folders["single"], config, dtype="bfloat16")
    shardings = tree_shardings(whole, mesh)
    params = load_params(folders["several"], config, dtype="bfloat16", shardings=shardings)
    for name, value in whole.items():
        assert params[name].sharding == shardings[name]
        np.testing.assert_array_equal(np.asarray(params[name]), np.asarray(value))
    policy = load_policy(folders["single"], dtype="bfloat16", mesh=mesh)
    assert policy.params["q"].sharding == shardings["q"]
    assert policy.config.dtype == "bfloat16"


def test_each_shard_reads_its_own_part_only(folders, monkeypatch):
    """Over fsdp=8 no device, and so no process, reads more than an eighth of a matrix."""
    config, mesh = read_config(folders["single"]), make_mesh(MeshConfig(1, 8, 1))
    taken: list[tuple[str, int]] = []
    original = hugging_face._read

    def counted(file, tensor, part):
        for piece, row in original(file, tensor, part):
            taken.append((tensor, piece.size))
            yield piece, row

    monkeypatch.setattr(hugging_face, "_read", counted)
    whole = {name: jax.ShapeDtypeStruct(s, "bfloat16") for name, s in hugging_face.base_shapes(config).items()}
    load_params(folders["single"], config, shardings=tree_shardings(whole, mesh))
    sizes = {name: int(np.prod(tensor.shape)) for name, tensor in hugging_face.tensors(config).items()}
    assert all(size == sizes[name] // 8 for name, size in taken if "proj" in name or "embed" in name)
    assert sum(size for _, size in taken) == sum(sizes.values())


MEMORY_CODE = """
import sys, threading, time
from pathlib import Path
import jax
from memalpha_jax.policy.hugging_face import load_params
from memalpha_jax.policy.hugging_face_config import read_config

def status(key):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(key))

small, large, dtype = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
load_params(small, read_config(small), dtype=dtype)  # the runtime and the compiler are no part of the bound
before = status("VmRSS")
params = load_params(large, read_config(large), dtype=dtype)
print(status("VmHWM") - before, sum(value.nbytes for value in params.values()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts memory as Linux does")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_peak_memory_is_the_destination_and_a_part_of_the_largest_tensor(folders, tmp_path, dtype):
    sizes = {
        "vocab_size": 64_000,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 2,
        "head_dim": 64,
    }
    config = policy_config({**json.loads((folders["single"] / "config.json").read_text()), **sizes}, FILE)
    zero = {name: np.zeros(t.shape, ml_dtypes.bfloat16) for name, t in hugging_face.tensors(config).items()}
    shutil.copy(folders["single"] / "config.json", tmp_path / "config.json")
    hf.change_config(tmp_path, **sizes)
    save_file(zero, tmp_path / "model.safetensors")
    command = [sys.executable, "-c", MEMORY_CODE, str(folders["single"]), str(tmp_path), dtype]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=mini.ROOT, env=environment)
    peak, destination = map(int, done.stdout.split())
    largest = max(value.nbytes for value in zero.values())
    assert largest > 60e6
    assert peak > destination  # else it was not measured
    assert peak < destination + 1.3 * largest, f"{(peak - destination) / largest:.2f} x the largest tensor"


def test_log_probs_of_a_padded_batch_are_those_of_torch(tmp_path):
    model = hf.random_model()
    config = read_config(hf.save(model, tmp_path))
    N, P, R = 4, 13, 9
    prompt_len, reply_len = np.array([13, 4, 1, 8]), np.array([9, 9, 3, 6])
    prompt, reply = (RNG.integers(0, 96, (N, size)) for size in (P, R))
    arguments = (prompt, prompt_len, reply, reply_len)
    run = jax.jit(lambda params: reply_logprobs(config, params, *map(jnp.asarray, arguments)))
    found, entropy = map(np.asarray, run(load_params(tmp_path, config)))

    width = int((prompt_len + reply_len).max())
    rows, mask = np.full((N, width), 7), np.zeros((N, width), np.int64)  # left padding, as generation has it
    for n in range(N):
        row = np.concatenate([prompt[n, : prompt_len[n]], reply[n, : reply_len[n]]])
        rows[n, width - len(row) :], mask[n, width - len(row) :] = row, 1
    positions = np.maximum(mask.cumsum(-1) - 1, 0)
    with torch.no_grad():
        inputs = {"attention_mask": torch.as_tensor(mask), "position_ids": torch.as_tensor(positions)}
        scores = model(torch.as_tensor(rows), **inputs).logits.log_softmax(-1).numpy()
    for n in range(N):
        own = scores[n, width - reply_len[n] - 1 : width - 1]
        chosen = own[np.arange(reply_len[n]), reply[n, : reply_len[n]]]
        np.testing.assert_allclose(found[n, : reply_len[n]], chosen, atol=1e-5)
        np.testing.assert_allclose(entropy[n, : reply_len[n]], -(np.exp(own) * own).sum(-1), atol=1e-4)


@pytest.mark.parametrize(("kind", "seed"), [("qwen3", 0), ("qwen2", 1)])
def test_greedy_replies_are_those_of_torch_token_for_token(kind, seed, tmp_path):
    model = hf.random_model(kind, max_position_embeddings=256)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.mul_(2.5 if "proj.weight" in name else 1)  # smaller ones soon repeat themselves
    config = read_config(hf.save(model, tmp_path))
    lengths = np.array([17, 5, 11])
    prompt = np.random.default_rng(seed).integers(0, 96, (3, 17))
    sampling = SamplingConfig(reply_tokens=128, temperature=0.0, eos_id=-1)
    keys = jax.random.split(jax.random.key(0), 3)
    run = jax.jit(lambda params, *rest: generate(config, params, *rest, sampling))
    replies = run(load_params(tmp_path, config), prompt, lengths, keys, np.ones(3, bool))

    padded = np.stack([np.roll(row, 17 - length) for row, length in zip(prompt, lengths, strict=True)])
    mask = np.arange(17) >= 17 - lengths[:, None]
    options = {"max_new_tokens": 128, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    inputs = {"attention_mask": torch.as_tensor(mask, dtype=torch.int64)}
    expected = model.generate(torch.as_tensor(padded), **inputs, **options)[:, 17:].numpy()
    assert all(len(set(row)) > 20 for row in expected.tolist())
    np.testing.assert_array_equal(np.asarray(replies.tokens_NR), expected)


def test_a_policy_without_tokenizer_loads(folders):
    policy = load_policy(folders["single"])
    assert policy.config == read_config(folders["single"])
    assert policy.step == 0
    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    model = transformers.AutoModelForCausalLM.from_pretrained(folders["single"], **options)
    expected = hf.torch_logits(model, TOKENS[:1])
    np.testing.assert_allclose(policy.logits(TOKENS[0]), expected[0], atol=1e-5)
    with pytest.raises(UserError, match=r"no tokenizer.*tokenizer\.json"):
        _ = policy.tokenizer


def break_file(folder: Path, change) -> None:
    """Rewrites the tensors of a folder after `change` did what it wants to them."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


GATE = "model.layers.1.mlp.gate_proj.weight"
BROKEN = {
    "missing": (lambda t: t.pop(GATE), GATE),
    "extra": (lambda t: t.update({"model.layers.2.mlp.up_proj.weight": t[GATE]}), "model.layers.2.mlp.up_proj.weight"),
    "misshapen": (lambda t: t.update({GATE: t[GATE][:-1].copy()}), rf"{GATE} has shape \(47, 32\).*\(48, 32\)"),
    "transposed": (lambda t: t.update({GATE: t[GATE].T.copy()}), rf"{GATE} has shape \(32, 48\)"),
    "integers": (lambda t: t.update({GATE: t[GATE].astype(np.int8)}), rf"{GATE} is of type I8"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_wrong_tensor_is_named_with_its_file(folder, fault, monkeypatch):
    change, words = BROKEN[fault]
    break_file(folder, change)
    monkeypatch.setattr(hugging_face, "_load_parameter", None)  # it is found before any data is read
    with pytest.raises(UserError, match=words) as caught:
        load_policy(folder)
    assert str(folder) in str(caught.value)
    assert re.search("download|take|known", str(caught.value))  # what to do about it


def test_a_file_that_is_cut_off_names_the_first_tensor_that_is_lost(folder):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    start, end = header[GATE]["data_offsets"]
    file.write_bytes(whole[: len(whole) - header_data(header) + (start + end) // 2])
    with pytest.raises(UserError, match=rf"{file}.*{GATE} is cut off"):
        load_policy(folder)
    for content in (whole[:20], b"", b"<html>not found</html>"):
        file.write_bytes(content)
        with pytest.raises(UserError, match=rf"cannot read {file}"):
            load_policy(folder)


def header_data(header: dict) -> int:
    return max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")


def test_old_frequency_tables_are_ignored(folder):
    table = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32)}
    break_file(folder, lambda tensors: tensors.update(table))
    load_policy(folder)


def test_a_head_beside_tied_embeddings_must_be_theirs(folder):
    hf.change_config(folder, tie_word_embeddings=True)
    with pytest.raises(UserError, match=r"lm_head\.weight.*differs.*tie_word_embeddings"):
        load_policy(folder)
    break_file(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"]}))
    assert "head" not in load_policy(folder).params


def index_faults(folder: Path) -> list[tuple[dict, str]]:
    index = json.loads((folder / hugging_face.INDEX).read_text())
    places = index["weight_map"]
    other = next(name for name in places.values() if name != places[GATE])
    return [
        ({"weight_map": {**places, GATE: other}}, f"{other} lacks the tensor {GATE}"),
        ({"weight_map": {**places, GATE: "absent.safetensors"}}, "absent.safetensors is missing"),
        ({"weight_map": {**places, GATE: "../single/model.safetensors"}}, "not one beside it"),
        ({}, "weight_map"),
        ({"weight_map": {name: file for name, file in places.items() if file == other}}, "in none of"),
    ]


def test_a_wrong_index_is_told(folders, tmp_path):
    folder = Path(shutil.copytree(folders["several"], tmp_path / "model"))
    for index, words in index_faults(folder):
        (folder / hugging_face.INDEX).write_text(json.dumps(index))
        with pytest.raises(UserError, match=words):
            load_policy(folder)
    (folder / hugging_face.INDEX).write_text("{")
    with pytest.raises(UserError, match=r"index\.json"):
        load_policy(folder)


def test_folders_that_are_no_models_are_told(folder):
    hf.change_config(folder, intermediate_size=56)  # the config of another model
    with pytest.raises(UserError, match=r"shape \(32, 48\).*config\.json makes it \(32, 56\)"):
        load_policy(folder)
    (folder / "config.json").write_text('{"architectures": ')
    with pytest.raises(UserError, match=r"cannot read .*config\.json"):
        load_policy(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"no config\.json"):
        load_policy(folder)
    (folder / "config.json").write_text(json.dumps(published()))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"neither model\.safetensors.*pytorch_model\.bin"):
        load_policy(folder)
    with pytest.raises(UserError, match="float16"):
        load_params(folder, read(), dtype="float16")


def test_a_tokenizer_of_another_model_is_refused(folder):
    texts = [f"Kelora lives in {place} since {year}." for place in ("Rome", "Oslo") for year in range(50)]
    SentencePieceTokenizer.train(texts, 320).save(folder)
    with pytest.raises(UserError, match=r"tokenizer has \d+ ids, but the embedding only 96 rows"):
        load_policy(folder)


def test_a_hub_name_is_told_from_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub.is_hub_id("Qwen/Qwen3-0.6B")
    (tmp_path / "runs").mkdir()
    for path in ("runs/tiny", "/abs/path", "../up", "a/b/c", "model", "./Qwen/Qwen3-0.6B", "~/model"):
        assert not hub.is_hub_id(path)


def test_without_a_network_the_error_says_what_was_wanted_and_what_to_do():
    code = "from memalpha_jax import load_policy; load_policy('Qwen/Qwen3-0.6B')"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": "/nonexistent"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=mini.ROOT, env=environment)
    last = done.stderr.strip().splitlines()[-1]
    assert "UserError" in last
    for words in ("config.json", "Qwen/Qwen3-0.6B", "network", "path of its folder"):
        assert words in last


def test_a_hub_name_is_fetched_config_first(folders, monkeypatch):
    asked: list[str] = []

    def config(name, file):
        asked.append(file)
        return str(folders["single"] / file)

    def snapshot(name, allow_patterns):
        asked.append(name)
        assert "model.safetensors" in allow_patterns
        return str(folders["single"])

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", config)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert load_policy("someone/model").config.width == 32
    assert asked == ["config.json", "someone/model"]
