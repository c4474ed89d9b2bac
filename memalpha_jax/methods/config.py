"""The settings of the methods, under `config.method` of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from memalpha_jax.errors import UserError
from memalpha_jax.tools.wire import check_wire


@dataclass(frozen=True)
class MethodConfig:
    """Sizes, in tokens of the run's tokenizer, and counts; the defaults are those of the papers.

    Attributes:
      top_k: entries of each kind that retrieval hands over.
      long_context_tokens: the last so many tokens of the stream are kept.
      rag_chunks: chunks that bm25_rag hands over.
      memagent_tokens: longest text memory of memagent. mem1_tokens: longest internal state of mem1.
      core_tokens: longest core block of memgpt and mirix.
      similar: entries that mem0, memory_r1 and mirix look up beside a new fact.
      reply_tokens: longest reply of a method's model; at most a quarter of its context is used.
      writer: of memalpha: "policy", or "chat" for the language model that the other methods use (`wire`: how that
        one is asked to write its calls, "qwen_agent" or "hermes").
      lora_rank, lora_steps, lora_lr: the adapter that self_param fits to each chunk, and how.
    """

    top_k: int = 20
    long_context_tokens: int = 32768
    rag_chunks: int = 2
    memagent_tokens: int = 1024
    mem1_tokens: int = 1024
    core_tokens: int = 2000
    similar: int = 10
    reply_tokens: int = 2048
    writer: Literal["policy", "chat"] = "policy"
    wire: str = "qwen_agent"
    lora_rank: int = 8
    lora_steps: int = 8
    lora_lr: float = 1e-3

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, str) and value <= 0:
                raise UserError(f"method: {name} is {value}; it must be more than 0")
        if self.writer not in ("policy", "chat"):
            raise UserError(f"method: writer is {self.writer!r}; choose policy or chat")
        check_wire(self.wire)
