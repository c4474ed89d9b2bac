"""Prefill and decode of random prompts, all of the same length, greedy and without an end token."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from memalpha_jax.benchmarks.peer import CACHES, Peer
from memalpha_jax.benchmarks.report import OURS, PEER, Measured, Result
from memalpha_jax.benchmarks.timing import Device, alternate
from memalpha_jax.benchmarks.work import decode_work, prefill_work
from memalpha_jax.policy.config import PolicyConfig
from memalpha_jax.policy.generate import generate, prefill
from memalpha_jax.policy.model import Params
from memalpha_jax.policy.sampling import SamplingConfig


def random_prompts(config: PolicyConfig, rows: int, prompt: int) -> np.ndarray:
    """[N, P] int32."""
    return np.random.default_rng(0).integers(1, config.vocab_size, (rows, prompt)).astype(np.int32)


def generator(config: PolicyConfig, params: Params, prompt_NP: np.ndarray, new: int) -> Callable[[], jax.Array]:
    """A compiled function that gives replies [N, new]."""
    N, P = prompt_NP.shape
    sampling = SamplingConfig(new, temperature=0.0, eos_id=-1)

    @jax.jit
    def run(params, prompt_NP):
        keys = jax.random.split(jax.random.key(0), N)  # of no use to greedy replies
        lengths = jnp.full((N,), P, jnp.int32)
        return generate(config, params, prompt_NP, lengths, keys, jnp.ones((N,), bool), sampling).tokens_NR

    return functools.partial(run, params, jax.device_put(prompt_NP))


def bench_decode(
    config: PolicyConfig,
    params: Params,
    peer: Peer | None,
    device: Device,
    rows: int,
    prompt: int,
    new: int,
    repeats: int,
) -> Result:
    """Whole generation, and what of it is not the first token."""
    prompt_NP, item = random_prompts(config, rows, prompt), jnp.dtype(config.dtype).itemsize
    runs: dict[tuple[str, str], Callable] = {
        ("first token", OURS): generator(config, params, prompt_NP, 1),
        ("all", OURS): generator(config, params, prompt_NP, new),
    }
    checks = {}
    logging.info("our generation is compiled")
    ours_NR = np.asarray(runs["all", OURS]())
    runs["first token", OURS]()
    if peer is not None:
        runs["first token", PEER] = lambda: peer.generate(prompt_NP, 1)
        runs["all", PEER] = lambda: peer.generate(prompt_NP, new)
        peer.choose(lambda: peer.generate(prompt_NP, peer.trial_tokens(new)), CACHES)
        checks = {"transformers ran with": peer.settings, "tokens alike": alike(ours_NR, runs["all", PEER]())}
    timings = alternate({f"{part}/{by}": run for (part, by), run in runs.items()}, repeats, device.sample)
    first, rest = prefill_work(config, rows, prompt, item), decode_work(config, rows, prompt, new, item)
    measured = []
    for by in dict.fromkeys(by for _, by in runs):
        start, whole = timings[f"first token/{by}"], timings[f"all/{by}"]
        measured += [
            Measured("prefill", by, start, first),
            Measured("decode", by, whole - start, rest),
            Measured("both", by, whole, first + rest),
        ]
    return Result(measured, checks)


def bench_prefill(
    config: PolicyConfig, params: Params, peer: Peer | None, device: Device, rows: int, prompt: int, repeats: int
) -> Result:
    """Prompts to next-token logits and a cache without further room."""
    prompt_NP, item = random_prompts(config, rows, prompt), jnp.dtype(config.dtype).itemsize

    @jax.jit
    def run(params, prompt_NP):
        logits, cache = prefill(config, params, prompt_NP, jnp.full((rows,), prompt, jnp.int32), 0)
        return jnp.argmax(logits, axis=-1), cache

    runs: dict[str, Callable] = {OURS: functools.partial(run, params, jax.device_put(prompt_NP))}
    ours_N, checks = np.asarray(runs[OURS]()[0]), {}
    if peer is not None:
        runs[PEER] = lambda: peer.prefill(prompt_NP)
        peer.choose(runs[PEER])
        checks = {"transformers ran with": peer.settings, "tokens alike": alike(ours_N, runs[PEER]())}
    work = prefill_work(config, rows, prompt, item)
    timings = alternate(runs, repeats, device.sample)
    return Result([Measured("prefill", by, timing, work) for by, timing in timings.items()], checks)


def alike(ours: np.ndarray, theirs: np.ndarray) -> str:
    """How many tokens are the same, in words."""
    return f"{int((ours == theirs).sum())} of {ours.size}"
