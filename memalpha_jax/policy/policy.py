"""A policy with everything needed to use it, as read from a checkpoint or a Hugging Face folder."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding

from memalpha_jax.checkpoints import load_params
from memalpha_jax.config import build
from memalpha_jax.errors import UserError
from memalpha_jax.memory.state import MemoryConfig
from memalpha_jax.padded_sizes import power_of_two
from memalpha_jax.policy import hugging_face
from memalpha_jax.policy.config import ARCHITECTURE, PolicyConfig
from memalpha_jax.policy.hub import fetch, is_hub_id
from memalpha_jax.policy.hugging_face_config import read_config, read_json
from memalpha_jax.policy.lora import fingerprint, merge_lora
from memalpha_jax.policy.model import WHOLE, Qwen3, init_params
from memalpha_jax.policy.sharding import tree_shardings
from memalpha_jax.policy.tokenizer import StoredTokenizer, Tokenizer
from memalpha_jax.policy.tokenizer_files import load_tokenizer, tokenizer_from_files
from memalpha_jax.rollout.rollout import RolloutConfig

DEFAULT_CHUNK_TOKENS = 2048
RUN_CONFIG = "training_config.json"
"""In our exports: the config of the run, for the settings that a Hugging Face config.json has no place for."""
TOKENIZER_MARKS = ("frames.json", "tokenizer.json", "vocab.json")
"""Without one of these a folder has no tokenizer; with one, an incomplete or unknown tokenizer is an error."""


@dataclasses.dataclass(frozen=True, eq=False)
class Policy:
    """A policy and the settings it was trained with.

    Attributes:
      config: sizes of the network; `vocab_size` counts the rows of the embedding, of which the tokenizer may use fewer.
      params: parameter tree of `Qwen3`, layers stacked.
      tokenizer_or_reason: what turns text into its tokens, or why there is none; see `tokenizer`.
      memory, rollout: memory sizes, prompt and reply budgets, wire format and template.
      chunk_tokens: longest chunk it was trained on.
      step: of the checkpoint. path: where it was read from, "" for a policy made in memory.
      run_config: the whole config of the run that made it, empty where that is not known.
    """

    config: PolicyConfig
    params: Any
    tokenizer_or_reason: StoredTokenizer | str
    memory: MemoryConfig
    rollout: RolloutConfig
    chunk_tokens: int = DEFAULT_CHUNK_TOKENS
    step: int = 0
    path: str = ""
    run_config: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def tokenizer(self) -> StoredTokenizer:
        """What turns text into its tokens; UserError where the policy came without."""
        if isinstance(self.tokenizer_or_reason, str):
            raise UserError(self.tokenizer_or_reason)
        return self.tokenizer_or_reason

    def logits(self, token_ids: Sequence[int]) -> np.ndarray:
        """Next-token logits [T, V] float32 after each of the T tokens of one text.

        Raises:
          UserError: no tokens, or an id outside the vocabulary.
        """
        tokens_T = np.asarray(token_ids, np.int32).reshape(-1)
        T, V = len(tokens_T), self.config.vocab_size
        if T == 0:
            raise UserError("logits of no tokens were asked for; give at least one token id")
        low, high = int(np.min(tokens_T)), int(np.max(tokens_T))
        if low < 0 or high >= V:
            raise UserError(f"token ids run from 0 to {V - 1}, got {low} to {high}")
        padded = np.zeros((1, power_of_two(T)), np.int32)  # few lengths, few compilations
        padded[0, :T] = tokens_T
        logits = _forward(self.config)(self.params, padded)
        return np.asarray(logits[0, :T], np.float32)


@functools.lru_cache(maxsize=8)
def _forward(config: PolicyConfig) -> Callable[..., jax.Array]:
    """The jitted forward pass of one architecture."""
    model = Qwen3(config)
    return jax.jit(lambda params, tokens_NT: model.apply({"params": params}, tokens_NT))


def load_policy(path: str | Path, *, dtype: str | None = None, mesh: Mesh | None = None) -> Policy:
    """Reads the newest undamaged checkpoint of a policy, or a model in Hugging Face's format.

    Args:
      path: a workdir, a directory of checkpoints (such as `WORKDIR/warm_start`), or that of one step; or a Hugging
        Face folder (`config.json` beside `*.safetensors`), or the name of a model on their hub. Such a model comes
        with default memory and rollout settings, unless it is one of our exports.
      dtype: of the parameters and of computing with them, "float32" or "bfloat16"; None takes what a checkpoint has
        and float32 for a Hugging Face model.
      mesh: the parameters are put in their shards on it (`sharding.RULES`); None puts them on the first device.

    Raises:
      UserError: nothing there, damaged, made by another version, or a folder of another kind.
    """
    folder = resolve(path)
    if hugging_face.holds_model(folder):
        return _load_hugging_face(folder, dtype or "float32", mesh)
    return _load_checkpoint(folder, dtype, mesh)


def resolve(path: str | Path) -> Path:
    """The folder that `path` means: itself, or the downloaded model where it is a name on the Hugging Face hub."""
    return fetch(path) if isinstance(path, str) and is_hub_id(path) else Path(path)


def _load_checkpoint(path: Path, dtype: str | None, mesh: Mesh | None) -> Policy:
    """A policy that train or warmstart saved; one of adapters is put on the base it was trained on."""
    restored = load_params(path, functools.partial(_targets, dtype=dtype, mesh=mesh))
    where = f"the checkpoint in {path}"
    meta, params = restored.meta, restored.state
    for key in ("config", "tokenizer"):
        if not isinstance(meta.get(key), Mapping):
            raise UserError(f"{where} holds no {key}; it was not made by train or warmstart")
    tokenizer = tokenizer_from_files(meta["tokenizer"])
    sections = meta["config"]
    config = policy_config(sections, tokenizer)
    if config.lora.rank and not any(name in params for name in WHOLE):
        base = _base_params(config, path, dtype, mesh)
        if "base" in meta and meta["base"] != fingerprint(base):
            raise UserError(
                f"{where} holds adapters of another model than is now in {config.path or 'its warm_start'}; put "
                "back the weights that they were trained on"
            )
        params = {**base, **params}
    config = _with_vocabulary(config, params, tokenizer, where)
    _check_params(params, config, where)
    return Policy(
        config=config if dtype is None else dataclasses.replace(config, dtype=dtype),
        params=params,
        tokenizer_or_reason=tokenizer,
        step=restored.step,
        path=str(path),
        **_settings(sections),
    )


def _targets(saved: Any, *, dtype: str | None, mesh: Mesh | None) -> Any:
    """Where and as what to restore parameters of which the checkpoint's metadata is `saved`."""
    shapes = jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, dtype or m.dtype), saved)
    first = SingleDeviceSharding(jax.local_devices()[0])
    places = tree_shardings(shapes, mesh) if mesh else jax.tree.map(lambda _: first, shapes)
    return jax.tree.map(lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), shapes, places)


def _base_params(config: PolicyConfig, path: Path, dtype: str | None, mesh: Mesh | None) -> dict[str, jax.Array]:
    """The model that the adapters in `path` were trained on: policy.path, or the warm start of their workdir."""
    beside = [root / "warm_start" for root in (path, *path.absolute().parents[:2])]
    base = config.path or next((str(place) for place in beside if place.is_dir()), "")
    if not base:
        raise UserError(
            f"the checkpoint in {path} holds adapters only, and neither its config.policy.path nor a warm_start "
            "beside it says of which model"
        )
    try:
        policy = load_policy(base, dtype=dtype, mesh=mesh)
    except UserError as error:
        raise UserError(f"the checkpoint in {path} holds adapters of {base}, which cannot be read: {error}") from error
    for name in ARCHITECTURE:
        then, now = getattr(config, name), getattr(policy.config, name)
        if then != now:
            raise UserError(
                f"the checkpoint in {path} holds adapters of {base}, which is another model now: its {name} is {now} "
                f"and was {then}; put the model back that they were trained on"
            )
    return merge_lora(policy.params, policy.config.lora)  # training with adapters starts by merging older ones


def _with_vocabulary(config: PolicyConfig, params: Any, tokenizer: Tokenizer, where: str) -> PolicyConfig:
    """The vocabulary is what the embedding has rows for; released models have more than their tokenizer needs."""
    rows = params["embed"].shape[0] if "embed" in params else tokenizer.vocab_size
    _check_vocabulary(rows, tokenizer, where)
    return dataclasses.replace(config, vocab_size=rows)


def _check_vocabulary(rows: int, tokenizer: Tokenizer, where: str) -> None:
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"{where}: the tokenizer has {tokenizer.vocab_size} ids, but the embedding only {rows} rows; they belong "
            "to different models: give it the tokenizer files that came with the weights"
        )


def _settings(sections: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a Policy that come from the config of its run."""
    return {
        "memory": build(MemoryConfig, sections["memory"], "config.memory"),
        "rollout": build(RolloutConfig, sections["rollout"], "config.rollout"),
        "chunk_tokens": int(sections.get("episodes", {}).get("chunk_tokens", DEFAULT_CHUNK_TOKENS)),
        "run_config": sections,
    }


def _load_hugging_face(folder: Path, dtype: str, mesh: Mesh | None) -> Policy:
    config = read_config(folder, dtype)
    tokenizer = _tokenizer_in(folder)
    if not isinstance(tokenizer, str):
        _check_vocabulary(config.vocab_size, tokenizer, str(folder))
    shapes = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in hugging_face.base_shapes(config).items()}
    shardings = None if mesh is None else tree_shardings(shapes, mesh)
    ours = folder / RUN_CONFIG
    settings = (
        _settings(_checked_sections(read_json(ours), str(ours)))
        if ours.is_file()
        else {"memory": MemoryConfig(), "rollout": RolloutConfig()}
    )
    params = hugging_face.load_params(folder, config, dtype=dtype, shardings=shardings)
    return Policy(config, params, tokenizer, path=str(folder), **settings)


def _tokenizer_in(folder: Path) -> StoredTokenizer | str:
    """The tokenizer of a Hugging Face folder, or the sentence that says why there is none."""
    if not any((folder / name).is_file() for name in TOKENIZER_MARKS):
        return f"{folder} has no tokenizer (no tokenizer.json); put the tokenizer files of the model there"
    return load_tokenizer(folder)


def policy_config(sections: Mapping[str, Any], tokenizer: Tokenizer) -> PolicyConfig:
    """The policy's sizes from a run's config, the vocabulary filled in; UserError names a missing section."""
    config = build(PolicyConfig, _checked_sections(sections, "the checkpoint's config")["policy"], "config.policy")
    return dataclasses.replace(config, vocab_size=tokenizer.vocab_size)


def _checked_sections(sections: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    for name in ("policy", "memory", "rollout"):
        if name not in sections:
            raise UserError(f"{what} has no section {name!r}; it was made by another version")
    return sections


def _check_params(params: Any, config: PolicyConfig, where: str) -> None:
    """UserError unless the parameters have the shapes that `config` calls for."""
    wanted = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    names = [_named_shapes(tree) for tree in (wanted, params)]
    for name in sorted(names[0].keys() | names[1].keys()):
        expected, found = names[0].get(name), names[1].get(name)
        if expected != found:
            raise UserError(
                f"{where} does not fit its own config: {name} has shape {found}, expected {expected}; take another one"
            )


def _named_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape) for path, leaf in leaves}
