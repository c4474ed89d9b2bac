"""Checkpoints: what goes in comes out, damage is noticed and passed over, a full disk costs one save."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from memalpha_jax import integrity
from memalpha_jax.checkpoints import Checkpoints, Restored, abstract, load_params
from memalpha_jax.errors import UserError

ROOT = str(Path(__file__).parents[1])
META = {"config": {"lr": 0.1, "names": ["a"]}, "iterator": {"next": 7}, "tokenizer": {"model": b"\x00\xff\n"}}


class State(NamedTuple):
    params: Any
    opt_state: Any
    key: jax.Array
    step: jax.Array


def make_state(seed: int, width: int = 24) -> State:
    rng = np.random.default_rng(seed)
    params = {
        "layers": {"kernel_LDD": jnp.asarray(rng.normal(size=(2, width, width)), jnp.float32)},
        "scale_D": jnp.asarray(rng.normal(size=width), jnp.bfloat16),
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    return State(params, optimizer.init(params), jax.random.key(seed), jnp.int32(seed))


def assert_same(a: Any, b: Any) -> None:
    def bits(x):
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x)

    jax.tree.map(lambda x, y: None, a, b)  # the same structure
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(bits(x), bits(y))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A workdir with checkpoints of the steps 1 (dropped by keep=2), 2 and 3; copy it to change it."""
    root = tmp_path_factory.mktemp("saved")
    with Checkpoints(root / "checkpoints", keep=2) as checkpoints:
        for step in (1, 2, 3):
            assert checkpoints.save(step, make_state(step), {**META, "step": step})
    return root


@pytest.fixture
def copied(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "run"))


def restore(root: Path, step: int | None = None, width: int = 24) -> Restored | None:
    with Checkpoints(root / "checkpoints", keep=2) as checkpoints:
        return checkpoints.restore(abstract(make_state(0, width)), step)


def test_round_trip_keeps_types_and_the_last_two(saved):
    for wanted, step in ((None, 3), (2, 2)):
        restored = restore(saved, wanted)
        assert restored is not None
        assert restored.step == step
        assert restored.meta == {**META, "step": step}
        assert_same(restored.state, make_state(step))
    assert not (saved / "checkpoints/1").exists()
    with pytest.raises(UserError, match=r"cannot use checkpoint 1 .*does not exist"):
        restore(saved, 1)


def test_no_checkpoint_is_none(tmp_path):
    assert restore(tmp_path) is None
    with pytest.raises(UserError, match="no checkpoint in"):
        load_params(tmp_path)
    with pytest.raises(UserError, match="there is no directory"):
        load_params(tmp_path / "absent")


def test_state_may_be_donated_at_once(tmp_path):
    state = {"x": jnp.asarray(np.random.default_rng(0).normal(size=(512, 1024)), jnp.float32)}
    before = {"x": jnp.array(np.array(state["x"]))}
    clear = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0, tree), donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        cleared = jax.block_until_ready(clear(clear(state)))
        restored = checkpoints.restore(abstract(cleared))
        assert restored is not None
        assert_same(restored.state, before)
        assert not checkpoints.save(1, cleared, {})


def test_load_params_without_the_optimizer(saved):
    for path, step in ((saved, 3), (saved / "checkpoints", 3), (saved / "checkpoints/2", 2)):
        loaded = load_params(path)
        assert (loaded.step, loaded.meta) == (step, {**META, "step": step})
        assert_same(loaded.state, make_state(step).params)
    assert_same(load_params(saved, lambda _: abstract(make_state(0).params)).state, make_state(3).params)


def sealed_files(step_dir: Path) -> list[str]:
    return sorted(json.loads((step_dir / integrity.SEAL).read_text()))


DAMAGE = {
    "deleted": lambda path: path.unlink(),
    "emptied": lambda path: os.truncate(path, 0),
    "halved": lambda path: os.truncate(path, path.stat().st_size // 2),
    "flipped": lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_to_any_file_is_noticed(copied, damage):
    newest = copied / "checkpoints/3"
    assert integrity.fault(newest) is None
    for name in [*sealed_files(newest), integrity.SEAL]:
        good = (newest / name).read_bytes()
        DAMAGE[damage](newest / name)
        assert integrity.fault(newest), f"{name} {damage}"
        (newest / name).write_bytes(good)
    assert integrity.fault(newest) is None


@pytest.mark.parametrize("damage", DAMAGE)
def test_falls_back_to_the_one_before_and_goes_on(copied, damage, caplog):
    newest = copied / "checkpoints/3"
    biggest = max(sealed_files(newest), key=lambda name: (newest / name).stat().st_size)
    DAMAGE[damage](newest / biggest)
    assert load_params(copied).step == 2
    with Checkpoints(copied / "checkpoints", keep=2) as checkpoints:
        restored = checkpoints.restore(abstract(make_state(0)))
        assert restored is not None
        assert restored.step == 2
        assert_same(restored.state, make_state(2))
        assert checkpoints.save(3, make_state(33), META)
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3]
    assert "checkpoint 3 in" in caplog.text
    assert biggest in caplog.text
    assert_same(load_params(copied).state, make_state(33).params)


def test_every_checkpoint_damaged_is_an_error(copied):
    for step in (2, 3):
        (copied / f"checkpoints/{step}/meta/metadata").unlink()
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged .*meta/metadata is missing"):
        restore(copied)


def test_another_model_is_refused_by_name(saved):
    with pytest.raises(UserError, match=r"layers\.kernel_LDD is \(2, 24, 24\) there, \(2, 8, 8\) in this config"):
        restore(saved, width=8)


def test_restores_onto_another_mesh(saved):
    """The sharding of the target decides, not the one that was saved."""
    code = """
import sys, jax
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from memalpha_jax.checkpoints import load_params
from tests.test_checkpoints import assert_same, make_state
mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
def target(x):
    spec = PartitionSpec(*[None] * (x.ndim - 1), "fsdp")
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))
params = load_params(sys.argv[1], lambda saved: jax.tree.map(target, make_state(0).params)).state
assert len(params["scale_D"].sharding.device_set) == 8
assert_same(params, make_state(3).params)
print("same")
"""
    done = run_python(code, str(saved))
    assert done.stdout == "same\n", done.stderr


def run_python(code: str, *args: str) -> subprocess.CompletedProcess:
    argv = [sys.executable, "-c", code, *args]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=100)


def test_full_disk_while_saving(copied):
    """A limit on the size of files stands in for the full disk; when there is room again, saving goes on."""
    code = """
import resource, sys
from tests.test_checkpoints import META, make_state
from memalpha_jax.checkpoints import Checkpoints
from memalpha_jax.errors import UserError, run_main
def main(argv):
    with Checkpoints(FOLDER, keep=2) as checkpoints:
        no_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        for step in (4, 5):
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, no_limit[1]))
            try:
                checkpoints.save(step, make_state(step), META)
                checkpoints.wait()
            except UserError as error:
                print(error, checkpoints.steps())
        resource.setrlimit(resource.RLIMIT_FSIZE, no_limit)
        checkpoints.save(6, make_state(6), META)
        checkpoints.wait()
        print("then", checkpoints.steps())
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, no_limit[1]))
        checkpoints.save(7, make_state(7), META)
FOLDER = sys.argv.pop()
run_main(main)
"""
    done = run_python(code, str(copied / "checkpoints"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "cannot save checkpoint 7" in done.stderr
    lines = done.stdout.splitlines()
    for line, step in zip(lines[:2], (4, 5), strict=True):
        assert line.startswith(f"cannot save checkpoint {step}")
        assert "File too large" in line
        assert line.endswith("[2, 3]")
    assert lines[2:] == ["then [3, 6]"]
    restored = restore(copied)
    assert restored is not None
    assert restored.step == 6
    assert sorted(path.name for path in (copied / "checkpoints").iterdir()) == ["3", "6"]


def test_killed_while_saving(tmp_path):
    """Whatever the moment, a checkpoint that is there is whole, and the rest is cleaned away."""
    code = """
import sys
from tests.test_checkpoints import make_state
from memalpha_jax.checkpoints import Checkpoints
with Checkpoints(sys.argv[1], keep=2) as checkpoints:
    for step in range(1, 10_000):
        checkpoints.save(step, make_state(step), {"step": step})
        print(step, flush=True)
"""
    argv = [sys.executable, "-c", code, str(tmp_path / "checkpoints")]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(4):
            last = int(process.stdout.readline())
        time.sleep(0.013)
        process.send_signal(signal.SIGKILL)
    restored = restore(tmp_path)
    assert restored is not None
    assert restored.step >= last - 1
    assert restored.meta == {"step": restored.step}
    assert_same(restored.state, make_state(restored.step))
    names = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert all(name.isdigit() for name in names), names
