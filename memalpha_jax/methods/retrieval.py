"""How methods find the entries that bear on a question: the settings, and what is made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from memalpha_jax.errors import UserError
from memalpha_jax.memory.dense import DenseIndex, FusionIndex
from memalpha_jax.memory.retrieval import Bm25Index, TextIndex
from memalpha_jax.memory.sentence_encoder import SentenceEncoder, load_encoder
from memalpha_jax.methods.ranking import Ranking


@dataclass(frozen=True)
class RetrievalConfig:
    """Attributes:
    method: "bm25", "dense" (cosine of embeddings), or "fusion" of both by reciprocal ranks.
    embeddings: folder of a BERT-type model in the format of sentence-transformers, for "dense" and "fusion".
    query_prompt, text_prompt: what the model wants before questions and before texts, such as "query: " and
      "passage: " of e5; "" takes what the folder says.
    archive: the reader is given, after the entries, the raw chunks that last wrote them.
    """

    method: Literal["bm25", "dense", "fusion"] = "bm25"
    embeddings: str = ""
    query_prompt: str = ""
    text_prompt: str = ""
    archive: bool = False

    def __post_init__(self) -> None:
        if self.method != "bm25" and not self.embeddings:
            raise UserError(f"retrieval.method={self.method} needs retrieval.embeddings, a folder with a model")
        if self.method == "bm25" and (self.embeddings or self.query_prompt or self.text_prompt):
            raise UserError(
                "retrieval.method=bm25 embeds nothing: set it to dense or fusion, or leave embeddings and prompts out"
            )


@dataclass(frozen=True)
class Retrieval:
    """Ranks the entries of memories.

    Attributes:
      method, archive: see `RetrievalConfig`. encoder: of "dense" and "fusion".
    """

    method: Literal["bm25", "dense", "fusion"] = "bm25"
    encoder: SentenceEncoder | None = None
    archive: bool = False

    @property
    def about(self) -> str:
        """In a few words, for tables."""
        return {"bm25": "BM25", "dense": "dense retrieval", "fusion": "BM25 and dense retrieval fused"}[self.method]

    @property
    def identity(self) -> str:
        """Tells its rankings from others'."""
        return f"{self.method} {self.encoder.identity}" if self.encoder else self.method

    def open(self) -> Ranking:
        """For one memory."""
        return Ranking(self._index)

    def _index(self) -> TextIndex[str]:
        if self.method == "bm25":
            return Bm25Index()
        if self.encoder is None:
            raise ValueError(f"{self.method} needs an encoder")
        return DenseIndex(self.encoder) if self.method == "dense" else FusionIndex(self.encoder)


def make_retrieval(config: RetrievalConfig) -> Retrieval:
    """Loads the model where one is needed. UserError where it cannot be."""
    if config.method == "bm25":
        return Retrieval(archive=config.archive)
    encoder = load_encoder(config.embeddings, config.query_prompt, config.text_prompt)
    return Retrieval(config.method, encoder, config.archive)
