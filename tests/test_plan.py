"""What `plan` says: counts against arrays and compilers, what fits, what it refuses."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import mini
import pytest
from small_plans import SMALL, config, machine

from memalpha_jax.errors import UserError
from memalpha_jax.experiment import Config
from memalpha_jax.planning.abstract import layout
from memalpha_jax.planning.estimate import ROLLOUT, UPDATE, Estimator
from memalpha_jax.planning.liveness import peak_bytes
from memalpha_jax.planning.plan import as_dict, make_plan, resolved_policy, table
from memalpha_jax.planning.topologies import GIB, topology
from memalpha_jax.policy.config import LoraConfig, PolicyConfig
from memalpha_jax.policy.hugging_face_config import config_json

QWEN3_4B = PolicyConfig(
    vocab_size=151_936,
    width=2560,
    layers=36,
    heads=32,
    kv_heads=8,
    head_dim=128,
    ff=9728,
    rope_theta=1e6,
    max_positions=40_960,
    dtype="bfloat16",
    remat="layer",
    scan_layers=True,
)
PARAMETERS_4B = 4_022_468_096


def published(**settings) -> Config:
    sizes = {"rollout.prompt_tokens": 6144, "rollout.reply_tokens": 2048, "rollout.max_calls": 32}
    sizes |= {"episodes.chunks": 10, "grpo.episodes": 32, "grpo.group": 8, "grpo.block_rows": 8}
    sizes |= {"rollout.rows": 32, "grpo.logprob_slice": 128, "rollout.template": "qwen_agent"}
    return config(QWEN3_4B, **{**sizes, **{k.replace("__", "."): v for k, v in settings.items()}})


def peak(function, *shapes, donated=None) -> int:
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return peak_bytes(jax.make_jaxpr(function)(*arguments).jaxpr, donated)


KIB = 1024
SQUARE = (16, 16)  # one KiB


class TestLiveness:
    """Small functions whose peaks can be counted by hand, in KiB of 16 x 16 floats."""

    def test_elementwise_work_takes_no_memory_until_somebody_reads_it(self):
        assert peak(lambda x: jnp.sin(x) * 2 + 1, SQUARE) == KIB
        assert peak(lambda x, y: (x + 1) @ y, SQUARE, SQUARE) == 2 * KIB

    def test_what_several_read_is_kept(self):
        once = peak(lambda x: jnp.sum(jnp.exp(x)), SQUARE)
        twice = peak(lambda x: jnp.sum(jnp.exp(x) / jnp.sum(jnp.exp(x))), SQUARE)
        shared = peak(lambda x: (lambda y: jnp.sum(y / jnp.sum(y)))(jnp.exp(x)), SQUARE)
        assert once == 4
        assert twice < KIB < shared

    def test_a_chain_of_products_holds_two_at_a_time(self):
        def chain(x):
            for _ in range(5):
                x = x @ x
            return x

        assert peak(chain, SQUARE) == 2 * KIB

    def test_a_loop_carries_in_place_and_stacks_whole(self):
        def loop(x, stacked):
            return jax.lax.scan(lambda c, _: (c @ c, c @ c) if stacked else (c @ c, None), x, None, length=7)

        alone, together = (peak(lambda x, s=s: loop(x, s), SQUARE) for s in (False, True))
        assert 2 * KIB <= alone <= 3 * KIB
        assert together >= alone + 7 * KIB - KIB

    def test_what_a_loop_stacks_is_not_held_beside_the_stack(self):
        def loop(x, stacked):
            def turn(c, _):
                first = c @ c
                return ((first @ c) @ c) @ c, first if stacked else None

            return jax.lax.scan(turn, x, None, length=7)

        alone, together = (peak(lambda x, s=s: loop(x, s), SQUARE) for s in (False, True))
        assert together == alone + 7 * KIB

    def test_half_precision_is_multiplied_in_single_where_there_is_no_other(self):
        half = jax.ShapeDtypeStruct(SQUARE, jnp.bfloat16)
        jaxpr = jax.make_jaxpr(lambda x, y: x @ y)(half, half).jaxpr
        assert peak_bytes(jaxpr) == KIB / 2
        assert peak_bytes(jaxpr, widened=True) == 3 * KIB  # both operands and the result before it is rounded

    def test_what_no_turn_changes_is_converted_once_for_all(self):
        weights, x = (jax.ShapeDtypeStruct((n, *SQUARE), jnp.bfloat16) for n in (8, 1))

        def loop(weights, x):
            turn = lambda x: (x @ weights[0]) @ weights[5]
            return jax.lax.while_loop(lambda x: x[0, 0, 0] > 0, turn, x)

        jaxpr = jax.make_jaxpr(loop)(weights, x).jaxpr
        again = jax.make_jaxpr(lambda w, x: loop(w, loop(w, x)))(weights, x).jaxpr
        assert 2 * KIB <= peak_bytes(jaxpr, widened=True) - peak_bytes(jaxpr) <= 6 * KIB
        assert peak_bytes(again, widened=True) <= peak_bytes(jaxpr, widened=True) + KIB

    def test_donated_memory_is_used_again(self):
        step = lambda x, g: x - 0.1 * g
        assert peak(step, SQUARE, SQUARE) == KIB
        assert peak(step, SQUARE, SQUARE, donated=[True, False]) == 0

    def test_nobody_pays_for_what_nobody_reads(self):
        assert peak(lambda x: (lambda a, b: a)(x @ x, jnp.ones((512, 512)) @ jnp.ones((512, 512))), SQUARE) == KIB

    def test_of_two_branches_the_larger_counts(self):
        wide = lambda x: jnp.sum(x @ jnp.ones((16, 160))) * x
        branch = lambda x: jax.lax.cond(x[0, 0] > 0, wide, lambda x: x, x)
        assert peak(branch, SQUARE) >= peak(wide, SQUARE) > 10 * KIB

    def test_recomputing_saves_memory(self):
        def loss(w, x, wrap):
            block = wrap(lambda x, w: jnp.tanh(jnp.tanh(jnp.tanh(x @ w) @ w) @ w))
            return jnp.sum(jax.lax.scan(lambda x, w: (block(x, w), None), x, w)[0])

        shapes = (8, 16, 16), (256, 16)
        plain, again = (peak(jax.grad(lambda w, x, f=f: loss(w, x, f)), *shapes) for f in (lambda f: f, jax.checkpoint))
        assert again < 0.6 * plain


def test_parameters_are_sliced_by_the_rules():
    whole = Estimator(config(SMALL), SMALL, machine(1, 1)).phase(UPDATE).parts
    sliced = Estimator(config(SMALL, mesh__fsdp=2, mesh__tensor=2), SMALL, machine(4, 1)).phase(UPDATE).parts
    for name in ("weights", "optimizer"):
        assert whole[name] / 4 == pytest.approx(sliced[name], rel=0.02)  # norms are small and stay whole
    # The layer that is in use counts as gathered where it has to be put together.
    layer = (whole["weights"] - 512 * 64 * 4) / 2
    assert sliced["gathered weights"] == pytest.approx(layer / 2, rel=0.02)
    assert sliced["gradients"] == pytest.approx((whole["gradients"] - layer) / 4, rel=0.05)


class TestQwen3:
    """The published sizes. Nothing is allocated."""

    @pytest.fixture(scope="class")
    def plan(self):
        return make_plan(published(), QWEN3_4B, topology("1xh200"))

    def test_all_parameters_of_qwen3_4b_train_on_one_h200(self, plan):
        rolled, updated = (v.phase.parts for v in plan.verdicts)
        assert rolled["weights"] == 4 * PARAMETERS_4B
        assert rolled["optimizer"] == pytest.approx(8 * PARAMETERS_4B, rel=1e-6)
        assert rolled["compute copy"] == 2 * PARAMETERS_4B
        assert rolled["KV cache"] == 32 * 2 * 36 * 8 * 128 * 8192 * 2
        assert updated["gradients"] >= 6 * PARAMETERS_4B
        assert plan.fits
        assert "does not fit" not in table(plan)

    def test_the_largest_batch_is_the_largest(self, plan):
        estimator = Estimator(published(), QWEN3_4B, plan.topology)
        for verdict in plan.verdicts:
            usable, rows = plan.topology.usable_bytes, verdict.largest_rows
            assert verdict.phase.rows <= rows < 256
            assert estimator.phase(verdict.phase.name, rows).total <= usable
            assert estimator.phase(verdict.phase.name, rows + 1).total > usable

    def test_one_h100_is_too_small_and_adapters_are_the_way_out(self):
        small, few = topology("1xh100"), published(rollout__rows=8, grpo__block_rows=1)
        made = make_plan(few, QWEN3_4B, small)
        update = made.verdicts[1]
        assert not made.fits
        assert "--config.policy.lora.rank=16 makes it fit" in update.advice
        assert "The update does not fit: it needs" in table(made)
        adapted = dataclasses.replace(QWEN3_4B, lora=LoraConfig(rank=16))
        followed = Estimator(dataclasses.replace(few, policy=adapted), adapted, small)
        assert followed.phase(UPDATE).total <= small.usable_bytes

    def test_a_rollout_of_all_trajectories_at_once_is_told_how_many_fit(self):
        made = make_plan(published(rollout__rows=0), QWEN3_4B, topology("1xh200"))
        assert not made.verdicts[0].fits
        assert "--config.rollout.rows=32 makes it fit" in made.verdicts[0].advice
        assert "the most by KV cache, 288.0 GiB at 256 rows (rollout.rows" in table(made)


def test_json_has_the_bytes_of_the_table():
    run = config(SMALL)
    made = make_plan(run, SMALL, machine(1, 16), notes=("said so",))
    values = json.loads(json.dumps(as_dict(made)))
    assert [phase["name"] for phase in values["phases"]] == [ROLLOUT, UPDATE]
    for phase in values["phases"]:
        parts = dict(phase["from_shapes"])
        assert parts.pop("total") == sum(parts.values()) == phase["total"]
    rows = [line for line in table(made).splitlines() if line.startswith(("weights", "sum", "a device has"))]
    assert len({line.rindex("  ") for line in rows}) == 1  # aligned
    assert "- said so" in table(made)


@pytest.mark.parametrize(
    ("name", "devices", "gib"),
    [
        ("1xh200", 1, 140.4),
        ("8xH100", 8, 79.6),
        ("t4", 1, 15),
        ("v5p-8", 4, 95.7),
        ("v5p-32", 16, 95.7),
        ("v6e-8", 8, 31.2),
    ],
)
def test_machines_by_name(name, devices, gib):
    found = topology(name)
    assert found.devices == devices
    assert found.device_bytes == int(gib * GIB)
    assert found.usable_bytes <= found.device_bytes


@pytest.mark.parametrize("name", ["h300", "0xh200", "65xt4", "v5p-7", "v6e-3", "", "8x8xh100"])
def test_an_unknown_machine_is_told_the_known_ones(name):
    with pytest.raises(UserError, match=r"no such machine.*h200.*v5p-32.*v6e-8.*cpu"):
        topology(name)


BAD_LAYOUTS = [
    ({"mesh.fsdp": 3}, "do not fit 8 device"),
    ({"mesh.data": 4}, "do not fit 8 device"),
    ({"grpo.episodes": 3}, "grpo.episodes x grpo.group is 6, which 8 shards do not divide"),
    ({}, "grpo.block_rows is 4, which 8 shards do not divide"),
    ({"grpo.block_rows": 8, "rollout.rows": 4}, "rollout.rows is 4, which 8 shards do not divide"),
]


@pytest.mark.parametrize(("settings", "words"), BAD_LAYOUTS)
def test_what_does_not_divide_is_told_before_anything_is_traced(settings, words):
    block = {} if "grpo.episodes" not in settings else {"grpo.block_rows": 6}
    with pytest.raises(UserError) as error:
        layout(config(SMALL, **{**block, **settings}), 8)
    assert words in str(error.value)


def test_the_vocabulary_is_the_folders_or_the_configs(tmp_path):
    elsewhere = dataclasses.replace(SMALL, path="/on/another/machine")
    found, why = resolved_policy(config(elsewhere))
    assert found.vocab_size == 512
    assert "no /on/another/machine here" in why
    named = dataclasses.replace(SMALL, path=str(tmp_path))
    with pytest.raises(UserError, match=r"neither a Hugging Face model .* nor a checkpoint"):
        resolved_policy(config(named))
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    assert resolved_policy(config(named))[0].vocab_size == 512
    unknown = dataclasses.replace(named, vocab_size=0)
    with pytest.raises(UserError, match=r"no config\.json.*policy\.vocab_size"):
        resolved_policy(config(unknown))
    (tmp_path / "config.json").write_text(json.dumps(config_json(QWEN3_4B, "bfloat16")))
    found, why = resolved_policy(config(unknown))
    assert (found.vocab_size, found.width, found.layers) == (151_936, 2560, 36)
    assert found.remat == unknown.remat
    assert str(tmp_path) in why
    fresh = dataclasses.replace(unknown, path="")
    assert resolved_policy(config(fresh))[0].vocab_size == Config().warmstart.tokenizer_pieces


def test_the_command_prints_a_table_and_writes_json(tmp_path):
    target = tmp_path / "plan.json"
    out = mini.succeeded(mini.run("plan", *mini.options(), "--topology=2xt4", f"--json={target}"))
    assert "The rollout fits" in out
    assert "The update fits" in out
    assert json.loads(target.read_text())["mesh"] == {"data": 2, "fsdp": 1, "tensor": 1}


def test_the_command_refuses_in_one_sentence():
    mini.refused(mini.run_here("plan", *mini.options(), "--topology=3xh200"), "3 shards do not divide")
