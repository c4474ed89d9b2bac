"""The files in experiments/: each builds, the commands in its docstring are accepted, and what it says is true."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import runpy

import jax
import mini
import pytest
from typed_commands import commands, given_to

from memalpha_jax.config import build, flatten, to_dict
from memalpha_jax.experiment import Config
from memalpha_jax.policy.model import init_params

# Those of runs; evaluations (eval*.py) have configs of their own.
FILES = sorted(path for path in (mini.ROOT / "experiments").glob("*.py") if not path.stem.startswith("eval"))

# arXiv 2509.25911, table 4: average as printed, mean of the seven printed cells, thousands of tokens of memory;
# table 9: average as printed.
PUBLISHED = {
    (0.05, 0.0): (0.543, 0.543, 7.5, 0.445),
    (0.0, 0.1): (0.630, 0.620, 7.9, 0.580),
    (0.05, 0.1): (0.642, 0.619, 7.9, 0.592),
    (0.2, 0.1): (0.525, 0.515, 4.7, 0.351),
    (0.4, 0.1): (0.509, 0.510, 3.6, 0.375),
}
CELLS = {
    (0.05, 0.0): (0.701, 0.802, 0.652, 0.423, 0.542, 0.501, 0.183),
    (0.0, 0.1): (0.817, 0.853, 0.678, 0.605, 0.629, 0.572, 0.183),
    (0.05, 0.1): (0.786, 0.832, 0.659, 0.666, 0.658, 0.545, 0.187),
    (0.2, 0.1): (0.822, 0.838, 0.615, 0.558, 0.176, 0.401, 0.193),
    (0.4, 0.1): (0.691, 0.810, 0.533, 0.475, 0.405, 0.455, 0.201),
}
# The same paper, its appendix and its script.
PUBLISHED_SETTINGS = {
    "grpo.episodes": 32,
    "grpo.group": 8,
    "grpo.steps": 205,
    "grpo.grouping": "episode",
    "grpo.scale": "group",
    "grpo.objective.averaging": "subaction",
    "grpo.objective.kl_coef": 0.0,
    "grpo.optimizer.name": "adamw",
    "grpo.optimizer.lr": 1e-6,
    "grpo.optimizer.b1": 0.9,
    "grpo.optimizer.b2": 0.999,
    "grpo.optimizer.weight_decay": 0.01,
    "grpo.optimizer.clip_norm": 1.0,
    "grpo.optimizer.warmup": 0.05,
    "grpo.optimizer.decay": 0.0,
    "rollout.temperature": 1.0,
    "rollout.prompt_tokens": 6144,
    "rollout.reply_tokens": 2048,
    "rollout.wire": "qwen_agent",
    "memory.core_tokens": 512,
    "memory.shown_items": 5,
    "memory.similar_items": 0,
    "policy.dtype": "bfloat16",
    "rewards.reader.budget": 30_000,
    "rewards.reader.reply_tokens": 2048,
    "rewards.reader.temperature": 0.7,
    "rewards.judge.reply_tokens": 512,
    "rewards.judge.temperature": 0.1,
}


@functools.cache
def config_of(stem: str) -> Config:
    return build(Config, runpy.run_path(str(mini.ROOT / "experiments" / f"{stem}.py"))["get_config"]())


def docstring(stem: str) -> str:
    return runpy.run_path(str(mini.ROOT / "experiments" / f"{stem}.py"))["__doc__"]


@pytest.mark.parametrize("stem", [path.stem for path in FILES])
def test_every_file_builds_and_opens_with_a_command_that_runs_it(stem, monkeypatch):
    monkeypatch.chdir(mini.ROOT)
    own = [words for words in commands(docstring(stem)) if f"--config=experiments/{stem}.py" in words]
    assert own
    for words in own:
        assert (mini.ROOT / words[2].replace(".", "/")).with_suffix(".py").is_file()
        assert any(word.startswith("--workdir=runs/") for word in words)
        # What the command changes is only where files lie and what they are.
        given, written = flatten(to_dict(given_to(words, monkeypatch)[0])), flatten(to_dict(config_of(stem)))
        changed = {key for key in written if given[key] != written[key]}
        assert changed <= {"policy.path", "episodes.path", "episodes.source"}


@pytest.mark.parametrize("stem", [path.stem for path in FILES])
def test_the_options_that_a_docstring_proposes_exist(stem):
    known = flatten(to_dict(Config()))
    for option in re.findall(r"--config\.([\w.]+)=", docstring(stem)):
        assert option in known


@pytest.mark.parametrize("stem", [path.stem for path in FILES if not path.stem.startswith("tiny")])
def test_hardware_and_time_are_said_and_how_the_time_is_known(stem):
    text = " ".join(docstring(stem).split())
    assert re.search(r"Hardware(: | and expected time: )\w", text)
    assert re.search(r"[Ee]xpected time: .*\d|[Ee]xpected time: .*(two|three) days", text)
    assert "not measured" in text


def ablation(beta: float, gamma: float) -> str:
    words = ["ablation", "beta", f"{beta:g}", "gamma", f"{gamma:g}"]
    return "_".join(words).replace(".", "_")


def test_there_is_one_ablation_for_every_published_row():
    assert {path.stem for path in FILES if path.stem.startswith("ablation")} == {ablation(*row) for row in PUBLISHED}


@pytest.mark.parametrize(("beta", "gamma"), PUBLISHED)
def test_an_ablation_differs_from_the_published_run_in_beta_and_gamma_alone(beta, gamma):
    ours, published = (flatten(to_dict(config_of(stem))) for stem in (ablation(beta, gamma), "grpo"))
    assert (ours["rewards.beta"], ours["rewards.gamma"]) == (beta, gamma)
    differing = {key for key in published if ours[key] != published[key]}
    assert differing <= {"rewards.beta", "rewards.gamma"}
    assert differing or (beta, gamma) == (0.05, 0.1)


@pytest.mark.parametrize(("beta", "gamma"), PUBLISHED)
def test_the_scores_in_the_docstrings_are_the_published_ones(beta, gamma):
    printed, mean, memory, benchmark = PUBLISHED[beta, gamma]
    assert math.isclose(sum(CELLS[beta, gamma]) / 7, mean, abs_tol=5.1e-4)
    number = r"(\d+\.\d+)"
    found = re.search(
        rf"Published score: {number} on validation \(printed; the mean of its seven cells is {number}\) "
        rf"with {number} thousand tokens of memory, {number} on MemoryAgentBench",
        " ".join(docstring(ablation(beta, gamma)).split()),
    )
    assert found is not None
    assert tuple(map(float, found.groups())) == (printed, mean, memory, benchmark)
    if (beta, gamma) == (0.05, 0.1):
        head = f"Published score: {printed} on validation (printed; the mean of its seven cells is {mean}), {benchmark}"
        assert head in " ".join(docstring("grpo").split())


def test_the_published_run_has_the_published_settings():
    ours = flatten(to_dict(config_of("grpo")))
    assert {key: ours[key] for key in PUBLISHED_SETTINGS} == PUBLISHED_SETTINGS
    # The published reward is written down once more for the tiny run, whose reader and judge are no language models.
    rewards, tiny = config_of("grpo").rewards, config_of("tiny_published").rewards
    assert dataclasses.replace(rewards, reader=tiny.reader, judge=tiny.judge) == tiny


@pytest.mark.parametrize(
    ("stem", "total", "without_embeddings"),
    # "Number of Parameters" of the model cards, in billions.
    [("grpo", 4.0, 3.6), ("grpo_8b", 8.2, 6.95), ("grpo_0_6b_lora", 0.6, 0.44)],
)
def test_the_sizes_give_the_parameters_of_the_model_card(stem, total, without_embeddings):
    policy = config_of(stem).policy
    sizes = dataclasses.replace(policy, lora=dataclasses.replace(policy.lora, rank=0))
    params = jax.eval_shape(lambda key: init_params(sizes, key), jax.random.key(0))
    count = {name: math.prod(value.shape) / 1e9 for name, value in params.items()}
    embeddings = count["embed"] + count.get("head", 0.0)
    assert sum(count.values()) == pytest.approx(total, rel=0.011)
    assert sum(count.values()) - embeddings == pytest.approx(without_embeddings, rel=0.011)


def test_lora_trains_a_fiftieth_of_the_small_model():
    policy = config_of("grpo_0_6b_lora").policy
    params = jax.eval_shape(lambda key: init_params(policy, key), jax.random.key(0))
    count = {name: math.prod(value.shape) for name, value in params.items()}
    adapters = sum(value for name, value in count.items() if "_lora_" in name)
    assert 0 < adapters < sum(count.values()) / 50
