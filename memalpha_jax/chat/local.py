"""Our own policy as a language model to talk to, in this process."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from memalpha_jax.chat.model import ChatRequest, Completion, Seat
from memalpha_jax.chat.prompts import ChatPrompts
from memalpha_jax.chat.seats import seats_in_step
from memalpha_jax.padded_sizes import power_of_two
from memalpha_jax.policy.config import PolicyConfig
from memalpha_jax.policy.generate import Replies, generate
from memalpha_jax.policy.lora import fingerprint
from memalpha_jax.policy.policy import Policy
from memalpha_jax.policy.sampling import SamplingConfig

SMALLEST_PROMPT = 64
SMALLEST_REPLY = 16
END_OF_TEXT = "<|endoftext|>"
"""Ends a reply of a Qwen model, besides the end of a turn."""


class LocalChat:
    """A `ChatModel` over a policy.

    Prompts, replies and batches are padded to powers of two, so that few programs are compiled. What else is in its
    batch changes a reply by no more than the rounding of sums.
    """

    def __init__(self, policy: Policy, context_tokens: int, batch_tokens: int, seed: int = 0):
        """
        Args:
          context_tokens: prompt and reply together; the policy's own limit holds where it is lower.
          batch_tokens: slots of one batch, prompts and replies together, unless a single row needs more.
          seed: of sampled replies. The same request always gets the same reply.
        """
        limit = policy.config.max_positions
        self._context = min(context_tokens, limit) if limit else context_tokens
        # What is padded may be longer than the context, what is not never is.
        self._config = dataclasses.replace(policy.config, max_positions=0)
        self._policy, self._batch_tokens, self._seed = policy, batch_tokens, seed
        self._prompts = ChatPrompts(policy.tokenizer)
        end = policy.tokenizer.encode_trusted(END_OF_TEXT)
        self._stop_ids = tuple(end) if len(end) == 1 else ()

    @functools.cached_property
    def identity(self) -> str:
        """Weights, sizes and seed."""
        p = self._policy
        return f"local {fingerprint(p.params)} {p.config} context={self._context} seed={self._seed}"

    @property
    def context_tokens(self) -> int:
        return self._context

    def count_tokens(self, text: str) -> int:
        return len(self._policy.tokenizer.encode(text))

    def seats(self, n: int) -> list[Seat]:
        """Seats whose requests share batches: a batch runs when every seat waits or has left."""
        return seats_in_step(self.complete, n)

    def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        """As `ChatModel`; a request longer than the context is the only one that fails."""
        prompts = [self._prompts.encode(request.messages) for request in requests]
        found: dict[int, Completion] = {}
        groups: dict[tuple[int, float], list[int]] = {}
        for i, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
            if len(prompt) + request.max_tokens > self._context:
                found[i] = Completion("", _too_long(len(prompt), request.max_tokens, self._context), len(prompt))
                continue
            slots = power_of_two(request.max_tokens, SMALLEST_REPLY)
            groups.setdefault((slots, request.temperature), []).append(i)
        for (slots, temperature), members in groups.items():
            for chosen in self._batches(members, [len(prompt) for prompt in prompts], slots):
                batch = [prompts[i] for i in chosen], [requests[i] for i in chosen]
                found.update(zip(chosen, self._replies(*batch, slots, temperature), strict=True))
        return [found[i] for i in range(len(requests))]

    def _batches(self, members: Sequence[int], lengths: Sequence[int], slots: int) -> Iterator[list[int]]:
        """The longest prompts first; one with less than a quarter of the longest in its batch waits for another."""
        left = sorted(members, key=lambda i: -lengths[i])
        while left:
            P = power_of_two(lengths[left[0]], SMALLEST_PROMPT)
            rows = _rows_at_once(self._batch_tokens, P + slots)
            chosen = [i for i in left[:rows] if P <= SMALLEST_PROMPT or 4 * lengths[i] > P]
            yield chosen
            left = left[len(chosen) :]

    def _replies(
        self, prompts: Sequence[Sequence[int]], requests: Sequence[ChatRequest], slots: int, temperature: float
    ) -> list[Completion]:
        """One batch, with so many slots for replies."""
        N, P = power_of_two(len(prompts)), power_of_two(max(map(len, prompts)), SMALLEST_PROMPT)
        prompt_NP, length_N = np.zeros((N, P), np.int32), np.ones(N, np.int32)
        digest_N = np.zeros(N, np.uint32)
        for n, (prompt, request) in enumerate(zip(prompts, requests, strict=True)):
            prompt_NP[n, : len(prompt)], length_N[n], digest_N[n] = prompt, len(prompt), _digest(request)
        tokenizer = self._policy.tokenizer
        sampling = SamplingConfig(slots, temperature, tokenizer.eos_id, self._stop_ids)
        active_N = np.arange(N) < len(prompts)
        arguments = self._policy.params, prompt_NP, length_N, digest_N, active_N, np.uint32(self._seed)
        written = jax.device_get(_generate(self._config, sampling, *arguments))
        completions = []
        for n, request in enumerate(requests):
            tokens = written.tokens_NR[n, : min(written.length_N[n], request.max_tokens)].tolist()
            ended = tokens[-1:] and tokens[-1] in (tokenizer.eos_id, *self._stop_ids)
            text = tokenizer.decode(tokens[:-1] if ended else tokens)
            completions.append(Completion(text, "", int(length_N[n]), len(tokens)))
        return completions


@functools.partial(jax.jit, static_argnums=(0, 1))
def _generate(
    config: PolicyConfig, sampling: SamplingConfig, params, prompt_NP, length_N, digest_N, active_N, seed
) -> Replies:
    """Every row has a key of its own, made of the seed and its request."""
    key_N = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), digest_N)
    return generate(config, params, prompt_NP, length_N, key_N, active_N, sampling)


def _digest(request: ChatRequest) -> int:
    """32 bits that depend on every part of the request."""
    text = json.dumps([request.messages, request.max_tokens, request.temperature])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])


def _rows_at_once(batch_tokens: int, row_tokens: int) -> int:
    """A power of two of rows that fit together, at least one."""
    return 1 << max(0, (batch_tokens // row_tokens).bit_length() - 1)


def _too_long(prompt: int, reply: int, context: int) -> str:
    return (
        f"a prompt of {prompt} tokens and a reply of up to {reply} do not fit the model's context of {context}; "
        "shorten what it reads or writes, or raise chat.context_tokens as far as the model goes"
    )
