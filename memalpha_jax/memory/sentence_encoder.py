"""Embeddings of sentences by a local folder in the format of sentence-transformers: e5, bge, MiniLM and their like.

The folder holds config.json, *.safetensors and tokenizer files of a BERT encoder, and what `embedding_format` reads.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

from memalpha_jax.errors import UserError
from memalpha_jax.memory.bert import BertConfig, Params, encode, load_bert, read_bert_config
from memalpha_jax.memory.embedding_format import EmbeddingFormat, Pooling, read_format
from memalpha_jax.padded_sizes import power_of_two
from memalpha_jax.policy.lora import fingerprint

BATCH = 32
"""Texts embedded at once, at most."""
SHORTEST = 16
"""Tokens; lengths are padded to powers of two from here on, so that few shapes are compiled."""


class SentenceEncoder:
    """Texts to vectors of length 1.

    Attributes:
      identity: tells its vectors from those of another model or format. width: D, of a vector.
    """

    def __init__(self, params: Params, config: BertConfig, tokenizer: tokenizers.Tokenizer, format: EmbeddingFormat):
        self._params, self._config, self._format = params, config, format
        self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.encode_special_tokens = True  # a text that says [SEP] is three pieces of text
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(format.max_tokens)
        self.width = config.width
        digest = hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()[:16]
        self.identity = f"{fingerprint(params)} {digest} {config} {format}"
        self._query = functools.lru_cache(maxsize=1024)(self._embed_query)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [number of texts, D], each of length 1."""
        return self._embed([self._format.text_prompt + text for text in texts])

    def query(self, query: str) -> np.ndarray:
        """float32 [D], of length 1."""
        return self._query(query)

    def _embed_query(self, query: str) -> np.ndarray:
        return self._embed([self._format.query_prompt + query])[0]

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        clean = [text.encode("utf-8", "replace").decode() for text in texts]  # lone surrogates are not text
        if self._format.lower_case:
            clean = [text.lower() for text in clean]
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(clean)]
        vectors = np.zeros((len(texts), self.width), np.float32)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            vectors[chosen] = self._embed_batch([ids[i] for i in chosen])
        return vectors

    def _embed_batch(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        N = power_of_two(len(ids))
        T = min(power_of_two(max(map(len, ids)), SHORTEST), self._format.max_tokens)
        token_NT, length_N = np.zeros((N, T), np.int32), np.ones(N, np.int32)
        for n, own in enumerate(ids):
            token_NT[n, : len(own)], length_N[n] = own, len(own)
        return np.asarray(_embed(self._params, self._config, self._format.pooling, token_NT, length_N))[: len(ids)]


@functools.partial(jax.jit, static_argnames=("config", "pooling"))
def _embed(params: Params, config: BertConfig, pooling: Pooling, token_NT: jax.Array, length_N: jax.Array) -> jax.Array:
    """float32 [N, D], each of length 1."""
    hidden_NTD = encode(params, config, token_NT, length_N)
    if pooling == "cls":
        pooled_ND = hidden_NTD[:, 0]
    else:
        real_NT1 = (jnp.arange(token_NT.shape[1]) < length_N[:, None])[..., None]
        pooled_ND = (hidden_NTD * real_NT1).sum(1) / length_N[:, None]
    return pooled_ND / jnp.maximum(jnp.linalg.norm(pooled_ND, axis=-1, keepdims=True), 1e-12)


def load_encoder(folder: str | Path, query_prompt: str = "", text_prompt: str = "") -> SentenceEncoder:
    """The model in `folder`.

    Args:
      query_prompt, text_prompt: instead of those that the folder names, where they are not empty.

    Raises:
      UserError: no such folder, a file is missing or damaged, or the model is of another kind (which kind it is).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} with a sentence-embedding model")
    config = read_bert_config(folder)
    format = read_format(folder, config.positions)
    format = dataclasses.replace(
        format, query_prompt=query_prompt or format.query_prompt, text_prompt=text_prompt or format.text_prompt
    )
    tokenizer = _read_tokenizer(folder)
    if tokenizer.get_vocab_size() > config.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.get_vocab_size()} pieces, and config.json names "
            f"{config.vocab_size}; download both again, they belong to different models"
        )
    return SentenceEncoder(load_bert(folder, config), config, tokenizer, format)


def _read_tokenizer(folder: Path) -> tokenizers.Tokenizer:
    import transformers  # takes a second, and BM25 needs it nowhere

    try:
        wrapped = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever its parsers meet in a broken file
        first_line = str(error).strip().split("\n")[0]
        raise UserError(f"transformers cannot read the tokenizer in {folder}: {first_line}") from error
    if not getattr(wrapped, "is_fast", False):
        raise UserError(f"the tokenizer in {folder} has no `tokenizers` form: add its tokenizer.json")
    return wrapped.backend_tokenizer
