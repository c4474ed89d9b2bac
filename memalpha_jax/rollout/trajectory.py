"""What a rollout leaves behind."""

from __future__ import annotations

import flax.struct
import jax

from memalpha_jax.memory.state import MemoryState
from memalpha_jax.tools.calls import CallBatch


@flax.struct.dataclass
class Trajectory:
    """N trajectories of T chunk steps. Padding is known from lengths, never from token ids.

    Attributes:
      prompt_NTP: int32, right-padded; prompt_len_NT: int32.
      reply_NTR: int32 exactly as sampled; reply_len_NT: int32 (end token included); finished_NT: bool, False where
        the reply ran out of tokens.
      logprobs_NTR: float32, of the sampler's weights under the whole softmax at its temperature: the old log-probs of
        the ratio, which the loss computes anew and finds to be 1 before an update. Where top_k, top_p or min_p leave
        tokens out, those left were drawn with more than this probability: see `Replies.sampling_logprobs_NR`.
      subaction_NTR: int32 index of the call each token belongs to; tokens outside calls share the next free index;
        -1 beyond the reply and where a thinking budget chose the token.
      calls: CallBatch with leading [N, T]; status is what the parser said.
      statuses_NTK: int32, what became of each call when applied.
      active_NT: bool, False where the episode has no chunk t.
      memory_tokens_NT: int32, length of the memory after step t.
      memory: the final MemoryState, leading [N].
    """

    prompt_NTP: jax.Array
    prompt_len_NT: jax.Array
    reply_NTR: jax.Array
    reply_len_NT: jax.Array
    finished_NT: jax.Array
    logprobs_NTR: jax.Array
    subaction_NTR: jax.Array
    calls: CallBatch
    statuses_NTK: jax.Array
    active_NT: jax.Array
    memory_tokens_NT: jax.Array
    memory: MemoryState
