"""self_param: no memory but the weights: an adapter is fitted to the chunks, and answers from itself.

Named after SELF-PARAM (arXiv 2410.00487), which takes a context into the parameters of a model and keeps no text. For
every chunk `steps` AdamW steps on the mean next-token loss move a LoRA adapter (arXiv 2106.09685) of all projections
of our policy; a question is answered, greedy, by the policy with the adapter, which sees nothing but the question.

What was simplified: the original minimises the divergence between the model that sees the context and the one that
does not, over questions and sentences generated from it; here the text itself is learned, which costs no model calls
and is the usual baseline. It keeps no text, so its memory is 0 tokens: the size of the adapter is not counted in
tokens.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from memalpha_jax.chat.local import LocalChat
from memalpha_jax.chat.model import ask
from memalpha_jax.chat.seats import or_raise
from memalpha_jax.methods.context import shorten
from memalpha_jax.methods.method import Context, Entry, Operation, WriteRecord
from memalpha_jax.methods.session import MARKUP_TOKENS, reply_room
from memalpha_jax.padded_sizes import power_of_two
from memalpha_jax.policy.config import LoraConfig, PolicyConfig
from memalpha_jax.policy.logprobs import reply_logprobs
from memalpha_jax.policy.lora import fingerprint, is_adapter, merge_lora
from memalpha_jax.policy.model import Params, parameter_shapes
from memalpha_jax.policy.optimizer import OptimizerConfig, make_optimizer
from memalpha_jax.policy.policy import Policy

WINDOW = 1024
"""Longest piece of a chunk that is learned as one text, in tokens; the policy's own context, if that is shorter."""
SMALLEST_WINDOW = 128
LOGITS_SLICE = 256
CONTEXT_TOKENS = 8192
"""Of an answer and its question, unless the policy's own limit is lower."""


class SelfParam:
    """A LoRA of `rank`, `steps` steps of rate `lr` for each window of a chunk, answers of at most `reply_tokens`."""

    name = "self_param"

    def __init__(self, policy: Policy, rank: int, steps: int, lr: float, reply_tokens: int):
        lora = LoraConfig(rank=rank)
        base = merge_lora(policy.params, policy.config.lora)
        config = dataclasses.replace(policy.config, lora=lora)
        self.policy = dataclasses.replace(policy, config=config, params=base)
        self.steps, self.lr, self.reply_tokens = steps, lr, reply_tokens
        self.one_at_a_time = threading.Lock()  # threads that come together would each compile the same program

    @property
    def about(self) -> str:
        rank = self.policy.config.lora.rank
        return f"no text: a LoRA of rank {rank}, fitted to the chunks, answers; its size is not counted in tokens"

    @functools.cached_property
    def identity(self) -> str:
        p = self.policy
        settings = f"steps={self.steps} lr={self.lr} reply_tokens={self.reply_tokens} {p.config}"
        return f"self_param {fingerprint(p.params)} {settings}"

    def open(self, n: int) -> list[FittedWeights]:
        return [FittedWeights(self) for _ in range(n)]


class FittedWeights:
    """The memory of `SelfParam`."""

    def __init__(self, method: SelfParam):
        self._method = method
        adapter = new_adapter(method.policy.config)
        # Placed like the policy from the start: the second step would be compiled anew for another placement.
        place = method.policy.params["norm"].sharding
        self.adapter, self._moments = jax.device_put((adapter, _optimizer(method.lr).init(adapter)), place)
        self._chat: LocalChat | None = None

    def write(self, chunk: str) -> WriteRecord:
        method, self._chat = self._method, None
        policy = method.policy
        window = min(WINDOW, policy.config.max_positions or WINDOW)
        tokens = policy.tokenizer.encode(chunk)
        losses = []
        for start in range(0, len(tokens) - 1, window - 1):  # a window begins with the last token of the one before
            text = _padded(tokens[start : start + window])
            with method.one_at_a_time:
                self.adapter, self._moments, loss = _fit(
                    policy.config, method.lr, method.steps, policy.params, self.adapter, self._moments, *text
                )
            losses.append(f"{float(loss):.3f}")
        if not losses:
            return WriteRecord(operations=(Operation("fit", "adapter", status="too short"),))
        return WriteRecord(operations=(Operation("fit", "adapter", text="loss " + ", ".join(losses)),))

    def read(self, question: str) -> Context:
        policy = self._method.policy
        if self._chat is None:
            adapted = dataclasses.replace(policy, params={**policy.params, **self.adapter})
            self._chat = LocalChat(adapted, CONTEXT_TOKENS, batch_tokens=1)
        answer_tokens = reply_room(self._chat.context_tokens, self._method.reply_tokens)
        room = self._chat.context_tokens - answer_tokens - MARKUP_TOKENS
        request = ask(shorten(question, room, self._chat.count_tokens), answer_tokens)
        with self._method.one_at_a_time:
            completion = self._chat.complete([request])[0]
        return Context(answer=or_raise(completion).text, calls=1)

    def entries(self) -> Sequence[Entry]:
        return ()

    @property
    def memory_tokens(self) -> int:
        return 0

    def close(self) -> None:
        pass


def new_adapter(config: PolicyConfig) -> Params:
    """A fresh adapter of `config.lora`: A random, the same for every memory, and B zero, so it changes nothing."""
    shapes = {name: made for name, made in parameter_shapes(config).items() if is_adapter(name)}
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return {name: init(key, shape) for key, (name, (shape, init)) in zip(keys, shapes.items(), strict=True)}


def _optimizer(lr: float) -> optax.GradientTransformation:
    return make_optimizer(OptimizerConfig(lr=lr, warmup=0.0, final_lr_share=1.0, weight_decay=0.0), total_steps=1)


def _padded(tokens: Sequence[int]) -> tuple[np.ndarray, np.int32]:
    """A text as [1, W + 1], W a power of two that holds it, and how many tokens there are to predict."""
    width = power_of_two(len(tokens), SMALLEST_WINDOW)
    padded = np.zeros((1, width + 1), np.int32)
    padded[0, : len(tokens)] = tokens
    return padded, np.int32(len(tokens) - 1)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _fit(
    config: PolicyConfig,
    lr: float,
    steps: int,
    base: Params,
    adapter: Params,
    moments: optax.OptState,
    tokens_1T: jax.Array,
    predicted: jax.Array,
) -> tuple[Params, optax.OptState, jax.Array]:
    """The adapter after `steps` steps on one text, the optimizer's state, and the mean loss before the last step.

    tokens_1T: int32 [1, W + 1]. predicted: tokens behind the first that are real, fewer than W.
    """
    width = tokens_1T.shape[1] - 1
    one = jnp.ones(1, jnp.int32)

    def loss_of(adapter: Params) -> jax.Array:
        text = tokens_1T[:, :1], one, tokens_1T[:, 1:], one * predicted
        logprobs_1W, _ = reply_logprobs(
            config, {**base, **adapter}, *text, slice_tokens=min(LOGITS_SLICE, width), width=width
        )
        return -jnp.sum(jnp.where(jnp.arange(width) < predicted, logprobs_1W[0], 0.0)) / predicted

    def step(state, _):
        adapter, moments = state
        loss, gradient = jax.value_and_grad(loss_of)(adapter)
        updates, moments = _optimizer(lr).update(gradient, moments, adapter)
        return (optax.apply_updates(adapter, updates), moments), loss

    (adapter, moments), losses = jax.lax.scan(step, (adapter, moments), length=steps)
    return adapter, moments, losses[-1]
