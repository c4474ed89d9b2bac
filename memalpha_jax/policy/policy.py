"""A trained policy with everything needed to use it, as read from a checkpoint."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from memalpha_jax.checkpoints import load_params
from memalpha_jax.config import build
from memalpha_jax.errors import UserError
from memalpha_jax.memory.state import MemoryConfig
from memalpha_jax.policy.config import PolicyConfig
from memalpha_jax.policy.model import Qwen3, init_params
from memalpha_jax.policy.tokenizer import SentencePieceTokenizer, Tokenizer
from memalpha_jax.rollout.rollout import RolloutConfig

DEFAULT_CHUNK_TOKENS = 2048


@dataclasses.dataclass(frozen=True, eq=False)
class Policy:
    """A policy and the settings it was trained with.

    Attributes:
      config: sizes of the network; `vocab_size` is that of the tokenizer.
      params: parameter tree of `Qwen3`, layers stacked.
      tokenizer: what turns text into its tokens.
      memory, rollout: memory sizes, prompt and reply budgets, wire format and template.
      chunk_tokens: longest chunk it was trained on.
      step: of the checkpoint. path: where it was read from, "" for a policy made in memory.
    """

    config: PolicyConfig
    params: Any
    tokenizer: Tokenizer
    memory: MemoryConfig
    rollout: RolloutConfig
    chunk_tokens: int = DEFAULT_CHUNK_TOKENS
    step: int = 0
    path: str = ""

    def logits(self, token_ids: Sequence[int]) -> np.ndarray:
        """Next-token logits [T, V] float32 after each of the T tokens of one text.

        Raises:
          UserError: no tokens, or an id outside the vocabulary.
        """
        tokens_T = np.asarray(token_ids, np.int32).reshape(-1)
        T, V = len(tokens_T), self.config.vocab_size
        if T == 0:
            raise UserError("logits of no tokens were asked for; give at least one token id")
        if tokens_T.min() < 0 or tokens_T.max() >= V:
            raise UserError(f"token ids run from 0 to {V - 1}, got {tokens_T.min()} to {tokens_T.max()}")
        padded = np.zeros((1, 1 << (T - 1).bit_length()), np.int32)  # few lengths, few compilations
        padded[0, :T] = tokens_T
        logits = _forward(self.config)(self.params, padded)
        return np.asarray(logits[0, :T], np.float32)


@functools.lru_cache(maxsize=8)
def _forward(config: PolicyConfig) -> Callable[..., jax.Array]:
    """The jitted forward pass of one architecture."""
    model = Qwen3(config)
    return jax.jit(lambda params, tokens_NT: model.apply({"params": params}, tokens_NT))


def load_policy(path: str | Path) -> Policy:
    """Reads the newest undamaged checkpoint of a policy.

    Args:
      path: a workdir, a directory of checkpoints (such as `WORKDIR/warm_start`), or that of one step.

    Raises:
      UserError: nothing there, damaged, made by another version, or a folder of another kind.
    """
    _refuse_hugging_face(Path(path))
    restored = load_params(path)
    where = f"the checkpoint in {path}"
    meta = restored.meta
    for key in ("config", "tokenizer"):
        if not isinstance(meta.get(key), Mapping):
            raise UserError(f"{where} holds no {key}; it was not made by train or warmstart")
    tokenizer = SentencePieceTokenizer.from_files(meta["tokenizer"])
    config = policy_config(meta["config"], tokenizer)
    _check_params(restored.state, config, where)
    sections = meta["config"]
    return Policy(
        config=config,
        params=restored.state,
        tokenizer=tokenizer,
        memory=build(MemoryConfig, sections["memory"], "config.memory"),
        rollout=build(RolloutConfig, sections["rollout"], "config.rollout"),
        chunk_tokens=int(sections.get("episodes", {}).get("chunk_tokens", DEFAULT_CHUNK_TOKENS)),
        step=restored.step,
        path=str(path),
    )


def policy_config(sections: Mapping[str, Any], tokenizer: Tokenizer) -> PolicyConfig:
    """The policy's sizes from a run's config, the vocabulary filled in; UserError names a missing section."""
    for name in ("policy", "memory", "rollout"):
        if name not in sections:
            raise UserError(f"the checkpoint's config has no section {name!r}; it was made by another version")
    config = build(PolicyConfig, sections["policy"], "config.policy")
    return dataclasses.replace(config, vocab_size=tokenizer.vocab_size)


def _refuse_hugging_face(path: Path) -> None:
    # The place where a reader of such folders would hook in.
    if (path / "config.json").is_file() and any(path.glob("*.safetensors")):
        raise UserError(
            f"{path} is a Hugging Face folder (config.json beside *.safetensors); such folders cannot be "
            "read: give a workdir made by warmstart or train"
        )


def _check_params(params: Any, config: PolicyConfig, where: str) -> None:
    """UserError unless the parameters have the shapes that `config` calls for."""
    wanted = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    names = [_named_shapes(tree) for tree in (wanted, params)]
    for name in sorted(names[0].keys() | names[1].keys()):
        expected, found = names[0].get(name), names[1].get(name)
        if expected != found:
            raise UserError(f"{where} does not fit its own config: {name} has shape {found}, expected {expected}")


def _named_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape) for path, leaf in leaves}
