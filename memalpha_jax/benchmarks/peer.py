"""transformers' torch implementation of the same network with the same weights, as something to be measured against."""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from memalpha_jax.benchmarks.timing import alternate
from memalpha_jax.benchmarks.training import Batch, TrainSettings
from memalpha_jax.errors import UserError
from memalpha_jax.policy.config import PolicyConfig
from memalpha_jax.policy.hugging_face_config import config_json
from memalpha_jax.policy.hugging_face_export import write_weights
from memalpha_jax.policy.model import Params

CACHES = ("dynamic", "static")
TRIAL_TOKENS, TRIALS = 16, 2
FILE_BYTES = 4 << 30


def load_torch() -> tuple[Any, Any]:
    """torch and transformers.

    Raises:
      UserError: one of them is absent, or torch does not see the GPU that JAX uses.
    """
    try:
        torch, transformers = importlib.import_module("torch"), importlib.import_module("transformers")
    except ImportError as error:
        raise UserError(
            f"--peer=hf runs transformers on torch, and {error.name} is not installed here: "
            "pip install 'memalpha_jax[test]', or leave --peer out"
        ) from error
    if jax.default_backend() == "gpu" and not torch.cuda.is_available():
        raise UserError(
            "--peer=hf would compare a GPU with a CPU: JAX has a GPU here and torch does not see it; install torch "
            "with CUDA, or measure both on the CPU with JAX_PLATFORMS=cpu"
        )
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return torch, transformers


class Peer:
    """transformers' model on the same device, with scaled-dot-product attention.

    Attributes:
      settings: what it runs with; `choose` takes the fastest.
    """

    def __init__(self, config: PolicyConfig, params: Params, dtype: str):
        """`dtype`: of the weights. The weights travel through the files of an export, so there is one mapping."""
        self.torch, transformers = load_torch()
        self.config = config
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            write_weights(place, config, params, dtype=dtype, file_bytes=FILE_BYTES)
            (place / "config.json").write_text(json.dumps(config_json(config, dtype)), encoding="utf-8")
            kind = transformers.AutoModelForCausalLM
            self.model = kind.from_pretrained(
                place, dtype=getattr(self.torch, dtype), attn_implementation="sdpa", local_files_only=True
            )
        self.device = "cuda" if jax.default_backend() == "gpu" else "cpu"
        self.model = self.model.to(self.device).eval()
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = 0
        self.settings: dict[str, Any] = {"cache": CACHES[0]}

    def _tokens(self, tokens: np.ndarray) -> Any:
        return self.torch.tensor(np.asarray(tokens), dtype=self.torch.long, device=self.device)

    def _done(self) -> None:
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def generate(self, prompt_NP: np.ndarray, new: int) -> np.ndarray:
        """Greedy replies [N, new]; there is no token that ends them."""
        tokens = self._tokens(prompt_NP)
        options = {"cache_implementation": "static"} if self.settings["cache"] == "static" else {}
        with self.torch.inference_mode():
            out = self.model.generate(
                tokens,
                attention_mask=self.torch.ones_like(tokens),
                do_sample=False,
                max_new_tokens=new,
                use_cache=True,
                **options,
            )
        return out[:, prompt_NP.shape[1] :].cpu().numpy()

    def trial_tokens(self, new: int) -> int:
        """Tokens to choose the settings by: few on a CPU, which is slow; on a GPU another number compiles anew."""
        return min(new, TRIAL_TOKENS) if self.device == "cpu" else new

    def prefill(self, prompt_NP: np.ndarray) -> np.ndarray:
        """The most likely next token [N], with a cache made on the way."""
        with self.torch.inference_mode():
            out = self.model(self._tokens(prompt_NP), use_cache=True, logits_to_keep=1)
        return out.logits[:, -1].argmax(-1).cpu().numpy()

    def choose(self, run: Callable[[], Any], caches: tuple[str, ...] = CACHES[:1]) -> None:
        """Takes the cache and, on a CPU, the number of threads with which `run` is the fastest."""
        threads = sorted({1, os.cpu_count() or 1}) if self.device == "cpu" else [None]

        def trial(cache: str, count: int | None) -> None:
            self._set(cache, count)
            run()

        options = list(itertools.product(caches, threads))
        for option in options:
            logging.info("transformers is tried with cache, threads = %s", option)
            trial(*option)  # warm
        timings = alternate({str(option): functools.partial(trial, *option) for option in options}, TRIALS)
        self._set(*min(options, key=lambda option: timings[str(option)].min))

    def _set(self, cache: str, threads: int | None) -> None:
        self.settings["cache"] = cache
        if threads is not None:
            self.torch.set_num_threads(threads)
            self.settings["threads"] = threads

    def trainer(self, batch: Batch, settings: TrainSettings, dtype: str) -> Callable[[], float]:
        """A function that does one update on `batch` and returns the norm of its gradient, before clipping."""
        torch, model = self.torch, self.model.train()
        if settings.remat != "none":
            model.gradient_checkpointing_enable()
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.optimizer.lr, weight_decay=settings.optimizer.weight_decay, fused=True
        )
        tokens = self._tokens(np.concatenate([batch.prompt_NP, batch.reply_NR], axis=1))
        old, advantage = (torch.tensor(np.array(x), device=self.device) for x in (batch.logprobs_NR, batch.advantage_N))
        N, R = batch.reply_NR.shape
        rows = settings.block_rows or N
        half = torch.autocast(self.device, torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext()

        def loss_of(block: slice) -> Any:
            with half:
                logits = model(tokens[block], use_cache=False, logits_to_keep=R + 1).logits[:, :-1]
            chosen = tokens[block, -R:, None]
            logprobs = torch.log_softmax(logits.float(), dim=-1).gather(-1, chosen)[..., 0]
            ratio = torch.exp(logprobs - old[block])
            objective = settings.objective
            clipped = ratio.clamp(1 - objective.clip_low, 1 + objective.clip_high)
            weighted = advantage[block, None] * torch.stack([ratio, clipped])
            return -weighted.min(dim=0).values.sum() / (N * R)

        def update() -> float:
            optimizer.zero_grad(set_to_none=True)
            for block in _blocks(N, rows):
                loss_of(block).backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.optimizer.clip_norm)
            optimizer.step()
            self._done()
            return float(norm)

        return update


def _blocks(rows: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, rows, size))
