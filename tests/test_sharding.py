"""Eight fake devices do what one does: the same tokens and memories, the same update.

A sharded matrix product adds up in another order, so logits differ by about 1e-6. A draw is an argmax (of
logits plus noise that depends on the trajectory's key alone), which such a difference can only turn where the
two best are closer than that. So one device's draws are repeated here with their margins, and the
trajectories compared are those whose every draw was clear by a hundred times the rounding: nearly all.
"""

from __future__ import annotations

import dataclasses
import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_policy
from jax.sharding import PartitionSpec as Spec
from small_policy import ROLLOUT, random_params, writing_engine, writing_params

from memalpha_jax.errors import UserError
from memalpha_jax.grpo.learner import GRPOConfig, TrainState, init_state, update
from memalpha_jax.memory.state import empty_memory
from memalpha_jax.policy.attention import Causal
from memalpha_jax.policy.config import LoraConfig
from memalpha_jax.policy.model import Qwen3
from memalpha_jax.policy.optimizer import OptimizerConfig, make_optimizer
from memalpha_jax.policy.sharding import (
    RULES,
    MeshConfig,
    check_rows,
    in_force,
    make_mesh,
    own_part,
    own_rows,
    place,
    place_rows,
    row_shards,
    rows,
    tree_shardings,
    whole,
)
from memalpha_jax.rewards.reader import ExtractiveReader
from memalpha_jax.rewards.reward import RewardConfig
from memalpha_jax.rewards.scoring import Scorer
from memalpha_jax.rollout.rollout import rollout, trajectory_keys
from memalpha_jax.rollout.trajectory import Trajectory

N, T, C = 16, 2, 16
P, R = ROLLOUT.prompt_tokens, ROLLOUT.reply_tokens
MEMORY = dataclasses.replace(small_policy.MEMORY, similar_items=0)  # half the compilation
ENGINE = writing_engine(memory=MEMORY)
RNG = np.random.default_rng(0)
CHUNK_LEN = RNG.integers(1, C + 1, (N, T))
CHUNKS = np.where(np.arange(C) < CHUNK_LEN[..., None], RNG.integers(98, 123, (N, T, C)), 0)
NUM_CHUNKS = np.where(np.arange(N) % 5 == 3, 1, T)
ADVANTAGE_NT = np.where(np.arange(T) < NUM_CHUNKS[:, None], RNG.normal(size=(N, T)), 0).astype(np.float32)
KEYS = trajectory_keys(1, 0, jnp.arange(N), jnp.zeros(N, int))
CLEAR = 1e-4
MESHES = {"8x1x1": MeshConfig(), "1x8x1": MeshConfig(data=1, fsdp=8), "2x2x2": MeshConfig(2, 2, 2)}


@pytest.fixture(scope="module")
def params():
    return writing_params(ENGINE.policy)


def rolled_out(engine, params) -> Trajectory:
    def run(params, *episodes):
        if engine.mesh is not None:
            episodes = jax.lax.with_sharding_constraint(episodes, rows(engine.mesh))
        return rollout(engine, params, empty_memory(MEMORY, (N,)), *episodes)

    return jax.jit(run)(params, KEYS, CHUNKS, CHUNK_LEN, NUM_CHUNKS)


@pytest.fixture(scope="module")
def alone(params) -> Trajectory:
    return jax.device_get(rolled_out(ENGINE, params))


@pytest.fixture(scope="module", params=MESHES)
def mesh(request):
    return make_mesh(MESHES[request.param])


@pytest.fixture(scope="module")
def together(params, mesh) -> tuple[Trajectory, list[int]]:
    """The trajectories from eight devices, and how many rows each call of the parser got."""
    asked, lock = [], threading.Lock()

    def parser(reply_NR, length_N):
        with lock:
            asked.append(len(length_N))
        return ENGINE.parser(reply_NR, length_N)

    engine = dataclasses.replace(ENGINE, mesh=mesh, parser=parser)
    placed = jax.device_put(params, tree_shardings(params, mesh))
    return jax.block_until_ready(rolled_out(engine, placed)), asked


@jax.jit
def draws(params, tokens_T, start, key) -> jax.Array:
    """Logits plus noise, [R, V], of a reply that starts at `start` of a sequence without gaps."""
    logits = Qwen3(ENGINE.policy).apply({"params": params}, tokens_T[None])[0]
    fold = jax.vmap(lambda r: jax.random.gumbel(jax.random.fold_in(key, r), logits.shape[-1:]))
    return jax.lax.dynamic_slice_in_dim(logits, start - 1, R) + fold(jnp.arange(R))


def margins(params, t: Trajectory) -> np.ndarray:
    """By how much every token drawn beat the second best, [N, T, R]; inf where none was drawn."""
    found = np.full((N, T, R), np.inf)
    for n, step in zip(*np.nonzero(t.reply_len_NT), strict=True):
        start, drawn = t.prompt_len_NT[n, step], t.reply_len_NT[n, step]
        tokens = np.zeros(P + R, np.int32)
        tokens[:start], tokens[start : start + R] = t.prompt_NTP[n, step, :start], t.reply_NTR[n, step]
        scores = np.asarray(draws(params, tokens, start, jax.random.fold_in(KEYS[n], step)))[:drawn]
        np.testing.assert_array_equal(scores.argmax(axis=1), t.reply_NTR[n, step, :drawn])
        second, best = np.sort(scores, axis=1)[:, -2:].T
        found[n, step, :drawn] = best - second
    return found


@pytest.fixture(scope="module")
def clear_rows(params, alone) -> np.ndarray:
    clear = (margins(params, alone) > CLEAR).all(axis=(1, 2))
    assert clear.sum() >= N - 2
    assert alone.reply_len_NT.sum() > N * R / 2
    return np.flatnonzero(clear)


def test_rollouts_equal_those_of_one_device(alone, together, clear_rows, mesh):
    found = together[0]
    assert len(found.reply_NTR.sharding.device_set) == 8
    assert found.reply_NTR.sharding.shard_shape(found.reply_NTR.shape)[0] == N // row_shards(mesh)
    found, expected = (jax.tree.map(lambda x: np.asarray(x)[clear_rows], t) for t in (found, alone))
    np.testing.assert_allclose(found.logprobs_NTR, expected.logprobs_NTR, atol=1e-5)
    found = dataclasses.replace(found, logprobs_NTR=expected.logprobs_NTR)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_every_shard_asks_the_host_for_its_own_rows_only(together, mesh):
    asked = together[1]
    assert set(asked) == {N // row_shards(mesh)}
    assert len(asked) == T * mesh.size  # every replica along `tensor` asks as well


def test_memories_made_again_from_shards_equal_those_of_one_device(alone, mesh):
    scorer = Scorer(ENGINE, small_policy.TOKENIZER, RewardConfig(credit="gain"), ExtractiveReader(), None)
    there = jax.device_put(alone, rows(mesh))
    for (t, found), (step, expected) in zip(scorer._memories(there), scorer._memories(alone), strict=True):
        assert t == step
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), jax.device_get(expected))


SGD = optax.sgd(1.0, momentum=0.9)
CONFIG = GRPOConfig(block_rows=8)
POLICY = dataclasses.replace(ENGINE.policy, tied_embeddings=False, attention_bias=True, lora=LoraConfig(rank=4))
"""With every kind of parameter that there is; all are trained, so that the gradient of each is compared."""
STATIC = {"policy": POLICY, "temperature": 1.0, "config": CONFIG}


@pytest.fixture(scope="module")
def all_params():
    params = random_params(POLICY)
    started_at_0 = [name for name in params if name.endswith(("_bias", "_lora_b"))]
    assert len(started_at_0) == 3 + 7
    rng = np.random.default_rng(3)
    noise = {name: jnp.asarray(rng.normal(0, 0.1, params[name].shape), jnp.float32) for name in started_at_0}
    return {**params, **noise}


@pytest.fixture(scope="module")
def trajectory(alone) -> Trajectory:
    """One device's trajectories with other old log-probs, so that ratios are away from 1."""
    noise = RNG.normal(0, 0.1, alone.logprobs_NTR.shape).astype(np.float32)
    return dataclasses.replace(alone, logprobs_NTR=alone.logprobs_NTR + noise)


@pytest.fixture(scope="module")
def updated_alone(all_params, trajectory) -> tuple[TrainState, dict]:
    return jax.jit(functools.partial(update, optimizer=SGD, **STATIC))(
        init_state(all_params, SGD), {}, None, trajectory, ADVANTAGE_NT
    )


def test_an_update_equals_that_of_one_device(all_params, trajectory, updated_alone, mesh):
    """With SGD at rate 1 the parameters move by the gradient."""
    state = init_state(all_params, SGD)
    shardings = tree_shardings(state, mesh)
    step = jax.jit(functools.partial(update, optimizer=SGD, mesh=mesh, **STATIC), out_shardings=(shardings, None))
    there = place_rows(trajectory, mesh, N)
    found, metrics = step(place(state, mesh), {}, None, there, ADVANTAGE_NT)
    expected, wanted = updated_alone
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), expected.params, all_params)
    assert min(moved.values()) > 1e-4
    assert max(moved.values()) > 1e-2
    found_all, wanted_all = (
        (found.params, found.opt_state, metrics),
        (expected.params, expected.opt_state, wanted),
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found_all, wanted_all)


def test_activations_stay_with_their_rows_where_parameters_are_sliced_as_well(params):
    """XLA's own choice is to gather all rows on every device, and then a sliced model needs more room, not less."""
    tokens = np.ones((32, 256), np.int32)

    def gradient(params, tokens):
        def loss(p):
            positions = jnp.broadcast_to(jnp.arange(256), tokens.shape)
            return Qwen3(ENGINE.policy).apply({"params": p}, tokens, positions, Causal(), method="hidden")[0].sum()

        return jax.grad(loss)(params)

    sizes = {}
    for name, config in (("data", MeshConfig(data=8)), ("fsdp", MeshConfig(data=1, fsdp=8))):
        mesh = make_mesh(config)

        def traced(params, tokens, mesh=mesh):
            with in_force(mesh):
                return gradient(params, tokens)

        compiled = jax.jit(traced).lower(place(params, mesh), place_rows(tokens, mesh, 32)).compile()
        sizes[name] = compiled.memory_analysis().temp_size_in_bytes
    assert sizes["fsdp"] < 1.2 * sizes["data"]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_moments_are_sliced_like_their_parameters(params, name):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    of_params = tree_shardings(params, mesh)
    optimizer = make_optimizer(OptimizerConfig(name=name), 10)
    state = init_state(params, optimizer)
    sizes = jax.tree_util.tree_leaves_with_path(state)
    sliced = 0
    for (path, leaf), sharding in zip(sizes, jax.tree.leaves(tree_shardings(state, mesh)), strict=True):
        keys = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
        if keys and keys[-1] in params and leaf.shape == params[keys[-1]].shape:
            assert sharding == of_params[keys[-1]]
            sliced += not sharding.is_fully_replicated
        else:
            assert sharding.is_fully_replicated
    assert sliced >= 2 * len(RULES.keys() & params.keys())  # parameters and at least one moment of each


def test_every_large_parameter_is_sliced_over_both_axes(all_params):
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    even = {name: value[:256] if name in ("embed", "head") else value for name, value in all_params.items()}
    for name, value in place(even, mesh).items():
        parts = value.size // value.addressable_shards[0].data.size
        adapter = 2 if name in ("o_lora_a", "down_lora_a") or name.endswith("_lora_b") else 4
        if name in ("o_lora_b", "down_lora_b"):
            adapter = 4
        wanted = 1 if name.endswith("norm") else 2 if name.endswith("_bias") else adapter if "_lora_" in name else 8
        assert parts == wanted, name


def test_rules_say_what_is_sliced_and_odd_sizes_stay_whole(params):
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=4))
    spec = {name: sharding.spec for name, sharding in tree_shardings(params, mesh).items()}
    assert spec["q"] == spec["gate"] == Spec(None, "fsdp", "tensor")
    assert spec["o"] == spec["down"] == Spec(None, "tensor", "fsdp")
    assert params["embed"].shape[0] % 4 != 0
    assert spec["embed"] == Spec(None, "fsdp")
    assert spec["norm"] == spec["q_norm"] == Spec()


@pytest.mark.parametrize("bad", [{"data": 3}, {"tensor": 3}, {"fsdp": 16}, {"data": 4}, {"data": 8, "tensor": 2}])
def test_a_mesh_that_does_not_fit_is_told(bad):
    with pytest.raises(UserError, match=r"mesh\.data.*do not fit 8 device"):
        make_mesh(MeshConfig(**bad))


@pytest.mark.parametrize("bad", [{"data": -8}, {"fsdp": 0}, {"tensor": -1, "fsdp": -1}])
def test_a_mesh_without_sizes_is_told(bad):
    with pytest.raises(UserError, match=r"mesh\."):
        make_mesh(MeshConfig(**bad))


def test_the_rest_of_the_devices_goes_to_data():
    sizes = [((1, 1), 8), ((2, 1), 8), ((2, 2), 4), ((1, 8), 1)]
    for (fsdp, tensor), shards in sizes:
        mesh = make_mesh(MeshConfig(fsdp=fsdp, tensor=tensor))
        assert mesh.size == 8
        assert row_shards(mesh) == shards


def test_a_process_alone_holds_all_rows_and_finds_them_as_they_were():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    rows_of = {"x": np.arange(8), "y": np.arange(16.0, dtype=np.float32).reshape(8, 2)}
    placed = place_rows(rows_of, mesh, 8)
    assert placed["y"].sharding == rows(mesh)
    assert own_rows(mesh, 8).tolist() == own_rows(None, 8).tolist() == list(range(8))
    for found in (own_part(placed), whole(placed), own_part(rows_of), whole(rows_of)):
        jax.tree.map(np.testing.assert_array_equal, found, rows_of)


def test_a_batch_that_the_shards_do_not_divide_is_told():
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2))
    check_rows(mesh, 3, 4)
    with pytest.raises(UserError, match=r"grpo\.episodes x grpo\.group is 6, which 4 shards do not divide"):
        check_rows(mesh, 3, 2)
