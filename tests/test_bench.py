"""The benchmark: its counts against those of torch, and the peer does the same work."""

from __future__ import annotations

import dataclasses
import json
import sys

import jax
import mini
import numpy as np
import pytest
import torch
from small_policy import SIZES as SMALL
from small_policy import random_params
from torch.utils.flop_counter import FlopCounterMode

from memalpha_jax.bench import Options, bench, command_of
from memalpha_jax.benchmarks import peer as peer_module
from memalpha_jax.benchmarks.generation import generator, random_prompts
from memalpha_jax.benchmarks.peer import Peer, load_torch
from memalpha_jax.benchmarks.report import BM25_PEER, OURS, PEER, Measured, Result, as_json, as_text, ratios
from memalpha_jax.benchmarks.retrieval import bench_retrieval
from memalpha_jax.benchmarks.sizes import SIZES, sized
from memalpha_jax.benchmarks.sizes import random_params as random_in
from memalpha_jax.benchmarks.step import StepSettings, filled_tokenizer, step_config
from memalpha_jax.benchmarks.timing import Device, Timing, alternate
from memalpha_jax.benchmarks.training import TrainSettings, random_batch, trainer
from memalpha_jax.benchmarks.work import Work, decode_work, parameter_count, prefill_work, train_work
from memalpha_jax.errors import UserError
from memalpha_jax.policy.optimizer import OptimizerConfig

SMALL = dataclasses.replace(SMALL, rope_theta=1e4)


def counted_by_torch(config, tokens_NT, **options) -> int:
    """Operations of products in a forward pass of transformers' model, as torch counts them."""
    model = Peer(config, random_params(config), "float32").model
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.tensor(tokens_NT, dtype=torch.long), **options)
    return counter.get_total_flops()


def test_operations_are_those_that_torch_counts():
    N, P, R = 3, 7, 4
    config = dataclasses.replace(SMALL, layers=3)
    attention = 4 * config.layers * config.heads * config.head_dim
    # Unlike ours, eager attention computes what the causal mask then hides.
    hidden = attention * N * (P * P - P * (P + 1) // 2)
    counted = counted_by_torch(config, np.ones((N, P)), logits_to_keep=1)
    assert prefill_work(config, N, P, 4).flops == counted - hidden
    S = P + R
    hidden = attention * N * (S * S - S * (S + 1) // 2)
    counted = counted_by_torch(config, np.ones((N, S)), logits_to_keep=R)
    assert train_work(config, N, P, R).flops == 3 * (counted - hidden)
    # A prefill and one token per step is a prefill of all tokens, save the logits in between.
    new = 5
    both = prefill_work(config, N, P, 4) + decode_work(config, N, P, new, 4)
    logits = 2 * config.vocab_size * config.width
    assert both.flops == prefill_work(config, N, P + new - 1, 4).flops + N * (new - 1) * logits


def test_bytes_are_those_of_the_arrays():
    N, P, new = 2, 6, 4
    for config in (SMALL, dataclasses.replace(SMALL, tied_embeddings=False)):
        params = random_params(config)
        read = {name: value.nbytes for name, value in params.items() if value.ndim == 3}
        read["head"] = params["embed" if config.tied_embeddings else "head"].nbytes
        slot = 2 * config.kv_heads * config.head_dim * 4 * config.layers
        # The first token comes from the prefill; token i attends to all P + i before the next, its own included.
        expected = sum(sum(read.values()) + N * (P + i) * slot for i in range(1, new))
        assert decode_work(config, N, P, new, 4).moved == expected
        assert decode_work(config, N, P, new, 2).moved == expected // 2
        assert parameter_count(config) == sum(value.size for value in params.values())


def test_sizes_are_the_published_ones():
    millions = {name: round(parameter_count(config) / 1e6, 1) for name, config in SIZES.items()}
    assert millions == {"1m": 0.9, "10m": 10.5, "qwen3-0.6b": 596.0, "qwen3-4b": 4022.5}
    with pytest.raises(UserError, match=r"--size=7b.*qwen3-4b"):
        sized("7b", "float32")


def test_weights_are_made_in_their_dtype():
    made = random_in(SMALL, jax.random.key(0), "bfloat16")
    assert {value.dtype.name for value in made.values()} == {"bfloat16"}
    exact = random_in(SMALL, jax.random.key(0), "float32")
    np.testing.assert_allclose(made["q"].astype("float32"), exact["q"], rtol=1e-2)


@pytest.fixture(scope="module")
def params():
    return random_params(SMALL)


def test_the_peer_writes_the_same_tokens_with_either_cache(params):
    prompt_NP = random_prompts(SMALL, 3, 9)
    ours = np.asarray(generator(SMALL, params, prompt_NP, 12)())
    peer = Peer(SMALL, params, "float32")
    for cache in peer_module.CACHES:
        peer.settings["cache"] = cache
        np.testing.assert_array_equal(peer.generate(prompt_NP, 12), ours)
    np.testing.assert_array_equal(peer.prefill(prompt_NP), ours[:, 0])
    assert len({tuple(row) for row in ours.tolist()}) == 3


def test_the_peer_takes_what_was_fastest(params, monkeypatch):
    peer = Peer(SMALL, params, "float32")
    before = torch.get_num_threads()
    cost = {("dynamic", 1): 3.0, ("dynamic", 4): 2.0, ("static", 1): 0.5, ("static", 4): 4.0}
    tried = []

    def seconds(run):
        run()
        tried.append((peer.settings["cache"], torch.get_num_threads()))
        return cost[tried[-1]]

    monkeypatch.setattr("memalpha_jax.benchmarks.timing.seconds_of", seconds)
    monkeypatch.setattr(peer_module.os, "cpu_count", lambda: 4)
    try:
        peer.choose(lambda: None, peer_module.CACHES)
        assert peer.settings == {"cache": "static", "threads": 1}
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert set(tried) == set(cost)


def test_the_peer_is_trained_on_the_same_loss(params):
    """The same norm of the gradient, for every division into blocks; and still so after an update."""
    settings = TrainSettings(block_rows=2, optimizer=OptimizerConfig(warmup=0.0, lr=1e-3, weight_decay=0.0))
    batch = random_batch(SMALL, params, 4, 6, 5, settings)
    theirs = Peer(SMALL, params, "float32").trainer(batch, settings, "float32")
    whole = Peer(SMALL, params, "float32").trainer(batch, dataclasses.replace(settings, block_rows=0), "float32")
    ours = trainer(SMALL, jax.tree.map(np.array, params), batch, settings)
    for _ in range(2):
        norm = theirs()
        assert norm > 0.01
        assert ours() == pytest.approx(norm, rel=1e-3)
        assert whole() == pytest.approx(norm, rel=1e-4)


def test_runs_take_turns_and_the_best_and_the_median_are_kept(monkeypatch):
    order, durations = [], {"a": iter([5.0, 1.0, 2.0]), "b": iter([4.0, 4.0, 9.0])}
    monkeypatch.setattr("memalpha_jax.benchmarks.timing.seconds_of", lambda run: run())

    def timed(name):
        order.append(name)
        return next(durations[name])

    timings = alternate({name: lambda name=name: timed(name) for name in durations}, 3, lambda: order.append("."))
    assert "".join(order) == "ab.ba.ab."
    assert timings == {"a": Timing(1.0, 2.0), "b": Timing(4.0, 4.0)}
    assert timings["b"] - timings["a"] == Timing(3.0, 2.0)


def test_rates_shares_and_ratios():
    device = Device("float32")
    assert device.copy_bandwidth == device.matmul_rate == 0
    device.copy_bandwidth, device.matmul_rate = 10e9, 1e12
    work = Work(tokens=1000, flops=int(0.5e12), moved=int(2e9))
    result = Result([Measured("both", OURS, Timing(1.0, 3.0), work), Measured("both", PEER, Timing(2.0, 4.0), work)])
    figures = as_json(result, device, {"command": "decode"})
    ours = figures["measured"][0]
    assert ours["share_of_copy_bandwidth"] == pytest.approx(0.2)
    assert ours["share_of_matmul_rate"] == pytest.approx(0.5)
    assert figures["ratios"] == {"both": {"min": 0.5, "median": 0.75}}
    table = as_text(result, device)
    assert "0.50 (minima), 0.75 (medians)" in table
    assert [cell.strip() for cell in table.splitlines()[2].split("|")[3:-1]] == (
        ["1000", "500.0", "2.00", "1.000", "3.000", "1000", "20.0", "50.0"]
    )


def test_a_device_keeps_the_best_of_its_rates(monkeypatch):
    seconds = iter([0.1, 0.2, 0.4, 0.1, 0.2, 0.2])
    device = Device("float32")
    copied, multiplied = 2 * device._source.nbytes, 2 * device._matrix.shape[0] ** 3
    monkeypatch.setattr("memalpha_jax.benchmarks.timing.seconds_of", lambda run: next(seconds))
    device.sample()
    assert device.copy_bandwidth == pytest.approx(copied / 0.1)
    assert device.matmul_rate == pytest.approx(multiplied / 0.1)


def test_the_tokenizer_of_a_step_covers_the_vocabulary():
    settings = StepSettings(rows=4, group=2, chunks=2, prompt=160, new=8, train=TrainSettings())
    config = step_config(sized("1m", "float32"), settings, steps=2)
    tokenizer = filled_tokenizer(config)
    assert tokenizer.vocab_size == config.policy.vocab_size == 1024
    assert all(isinstance(tokenizer.decode([i]), str) for i in range(tokenizer.vocab_size))
    with pytest.raises(UserError, match="not a multiple of --group=2"):
        step_config(config.policy, dataclasses.replace(settings, rows=3), 2)
    with pytest.raises(UserError, match="no room for a chunk"):
        step_config(config.policy, dataclasses.replace(settings, prompt=100), 2)


def test_a_step_is_timed_by_part(tmp_path):
    file = tmp_path / "step.json"
    sizes = ("--size=1m", "--batch=2", "--group=2", "--chunks=1", "--prompt=128", "--new=4", "--repeats=1")
    out = mini.succeeded(mini.run("bench", "step", *sizes, f"--json={file}"))
    figures = json.loads(file.read_text())
    seconds = {row["part"].strip(): row["min"] for row in figures["measured"]}
    parts = ("rollout", "reward", "update")
    assert seconds["step"] == pytest.approx(sum(seconds[part] for part in parts))
    assert all(seconds[part] > 0 for part in parts)
    assert {"render alone", "prefill alone", "decode alone", "apply alone", "of which parsing"} <= seconds.keys()
    assert figures["settings"]["command"] == "step"
    assert figures["checks"]["mean tokens of a reply"] == "4 of 4"
    assert figures["device"]["copy_bytes_per_second"] > 0
    assert "| update" in out


def test_decode_as_a_person_types_it(tmp_path):
    sizes = ("--size=1m", "--batch=2", "--prompt=8", "--new=3", "--repeats=1")
    file = tmp_path / "decode.json"
    out = mini.succeeded(mini.run("bench", "decode", *sizes, "--peer=hf", f"--json={file}"))
    figures = json.loads(file.read_text())
    assert {(row["part"], row["by"]) for row in figures["measured"]} == (
        {(part, by) for part in ("prefill", "decode", "both") for by in (OURS, PEER)}
    )
    assert figures["checks"]["tokens alike"] == "6 of 6"
    assert "memalpha_jax / transformers, both: " in out


def test_retrieval_is_measured_beside_rank_bm25(monkeypatch):
    monkeypatch.setattr("memalpha_jax.benchmarks.timing.Device.sample", lambda device: None)
    result = bench_retrieval(30, Device("float32"), 1)
    assert {(one.part, one.by) for one in result.measured} >= {("build", OURS), ("build", BM25_PEER)}
    assert result.checks["same best items in the same order"] == "100 of 100"
    assert float(result.checks["largest difference of a score"]) < 1e-9
    assert result.checks["queries, times as fast"] > 0
    assert set(ratios(result)) == {"build", "100 queries"}


def test_without_rank_bm25_retrieval_is_not_measured(monkeypatch):
    monkeypatch.setitem(sys.modules, "rank_bm25", None)
    with pytest.raises(UserError, match=r"rank_bm25.*not installed.*memalpha_jax\[test\]"):
        bench_retrieval(30, None, 1)


@pytest.mark.parametrize(
    ("command", "options", "words"),
    [
        ("", {}, "which benchmark?"),
        ("encode", {}, "decode, prefill, train, step"),
        ("decode", {"new": 1}, "at least 2"),
        ("decode", {"batch": 0}, "--batch=0"),
        ("train", {"batch": 4, "block_rows": 3}, "must divide --batch=4"),
        ("train", {"new": 8, "logprob_slice": 3}, "must divide --new=8"),
        ("step", {"peer": "hf"}, "leave --peer out"),
        ("step", {"path": "runs/tiny"}, "--size instead"),
        ("decode", {"size": "7b"}, "known are"),
        ("retrieval", {"items": 0}, "--items=0"),
        ("retrieval", {"peer": "hf"}, "leave --peer out"),
        ("decode", {"path": "/nowhere"}, "/nowhere"),
        ("prefill", {"size": "qwen3-0.6b", "prompt": 50_000, "dtype": "bfloat16"}, "context"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(command, options, words, monkeypatch):
    monkeypatch.setattr("memalpha_jax.bench.Device", lambda dtype: None)
    monkeypatch.setattr("memalpha_jax.bench.random_params", lambda *args: {})
    with pytest.raises(UserError) as error:
        bench(command, Options(**options))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_fault_of_the_command_line_ends_the_command():
    mini.refused(mini.run_here("bench", "decode", "--new=1"), "--new=1", "at least 2")


def test_without_torch_the_peer_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"torch.*not installed.*memalpha_jax\[test\]"):
        load_torch()


def test_the_command_is_taken_out_of_the_command_line():
    argv = ["bench", "decode", "--new=3"]
    assert (command_of(argv), argv) == ("decode", ["bench", "--new=3"])
    argv = ["bench", "--help"]
    assert (command_of(argv), argv) == ("", ["bench", "--help"])
