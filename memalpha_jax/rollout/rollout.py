"""Rollout: the policy reads an episode chunk by chunk and writes its memory, for N trajectories at once.

    chunk_step:  render ▸ prefill ▸ decode ▸ parse (host) ▸ apply_calls        rollout = lax.scan(chunk_step, chunks)

Randomness is folded from (seed, step, episode, trajectory, chunk), so a trajectory does not depend on what else is in
its batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from memalpha_jax.errors import UserError
from memalpha_jax.memory.ops import apply_calls
from memalpha_jax.memory.render import RenderTables, render_prompt
from memalpha_jax.memory.state import MemoryConfig, MemoryState, memory_tokens
from memalpha_jax.policy.config import PolicyConfig
from memalpha_jax.policy.generate import generate
from memalpha_jax.policy.prefix import PromptLayout
from memalpha_jax.policy.sampling import SamplingConfig
from memalpha_jax.policy.sharding import ROWS, in_force, row_shards
from memalpha_jax.rollout.trajectory import Trajectory
from memalpha_jax.tools.calls import CallBatch, call_batch_spec

Parser = Callable[[jax.Array, jax.Array], tuple[CallBatch, jax.Array]]
"""Host function: (reply_NR, length_N) to (CallBatch [N, ...], subaction_NR)."""


LEAST_PREFIX = 8
"""A common prefix is worth a run of its own from this part of a prompt on."""


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """Attributes:
    prompt_tokens: P, budget of a rendered prompt. reply_tokens: R. max_calls: K, calls kept of one reply.
    temperature, top_k, top_p, min_p: of sampling while training; see `SamplingConfig`. Without the last three the
        sampler draws from what the loss computes.
    rows: trajectories that are rolled out at once, the others after them, since each needs a cache of its own; 0 takes
        all of a step. Must divide them, into whole groups. No reply depends on it.
    share_prefix: run the fixed text that every prompt begins with once for all rows, where that is at least an eighth
        of a prompt. share_group: run what the rows of a group have in common once; they must lie on one device.
    prompt_buckets: so many prompt widths are compiled, and each chunk is run at the smallest that holds its prompts. No
        reply depends on these three, either.
    wire: "qwen_agent" or "hermes". template: name or path of the prompt template.
    thinking: whether the prompt lets the reply begin with thinking, which counts towards R; the template must provide
        for it. thinking_budget: a reply still thinking after so many tokens is made to stop, and what it is made to
        write teaches nothing; 0 lets it think.
    stop: control strings that end a reply like the tokenizer's end token does, such as "<|endoftext|>".
    """

    prompt_tokens: int = 6144
    reply_tokens: int = 2048
    max_calls: int = 32
    temperature: float = 1.0
    wire: str = "qwen_agent"
    template: str = "qwen_agent"
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    rows: int = 0
    share_prefix: bool = True
    share_group: bool = False
    prompt_buckets: int = 1
    thinking: bool = False
    thinking_budget: int = 0
    stop: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Engine:
    """Everything static that a rollout needs, besides the parameters; jitted functions close over it."""

    policy: PolicyConfig
    memory: MemoryConfig
    rollout: RolloutConfig
    sampling: SamplingConfig
    tables: RenderTables
    parser: Parser
    mesh: Mesh | None = None

    def with_parser(self, parser: Parser) -> Engine:
        """The same engine with another parser."""
        return dataclasses.replace(self, parser=parser)


def room_for(memory: MemoryConfig, rollout: RolloutConfig, steps: int) -> MemoryConfig:
    """The memory sizes that hold whatever `steps` replies can write."""
    return dataclasses.replace(
        memory,
        items=max(memory.items, steps * rollout.max_calls),
        arena_tokens=max(memory.arena_tokens, steps * rollout.reply_tokens),
    )


def trajectory_keys(seed: int, step: jax.Array | int, episode_N: jax.Array, member_N: jax.Array) -> jax.Array:
    """One key per trajectory from (seed, step, episode identity, index within the group)."""
    base = jax.random.fold_in(jax.random.key(seed), step)
    fold = jax.vmap(lambda e, g: jax.random.fold_in(jax.random.fold_in(base, e), g))
    return fold(episode_N, member_N)


def parse_on_host(engine: Engine, reply_NR: jax.Array, length_N: jax.Array) -> tuple[CallBatch, jax.Array]:
    """The parser as a callback; on a mesh each shard asks the host for its own rows only."""
    R, K = engine.rollout.reply_tokens, engine.rollout.max_calls

    def call(reply, length):
        n = reply.shape[0]
        spec = (call_batch_spec(K, R, (n,)), jax.ShapeDtypeStruct((n, R), jnp.int32))
        return jax.pure_callback(engine.parser, spec, reply, length)

    if engine.mesh is None or engine.mesh.size == 1:
        return call(reply_NR, length_N)
    sharded = jax.shard_map(call, mesh=engine.mesh, in_specs=(ROWS, ROWS), out_specs=ROWS, check_vma=False)
    return sharded(reply_NR, length_N)


def render_batch(
    engine: Engine,
    memory: MemoryState,
    chunk_NC: jax.Array,
    chunk_len_N: jax.Array,
    likest_Nk: jax.Array | None = None,
):
    """Prompts [N, P] and their lengths, for N memories and N chunks; `likest_Nk` as in `render_prompt`."""
    P = engine.rollout.prompt_tokens

    def one(state, chunk_C, length, likest_k):
        return render_prompt(state, chunk_C, length, engine.tables, engine.memory, P, likest_k)

    return jax.vmap(one)(memory, chunk_NC, chunk_len_N, likest_Nk)


def apply_batch(engine: Engine, memory: MemoryState, calls: CallBatch, step: jax.Array):
    """`apply_calls` for N memories."""
    one = lambda m, c: apply_calls(m, c, step, engine.memory)
    if len(memory.core_len) == 1:  # without vmap, which turns conditions into selections, a branch costs only if taken
        alone = one(*jax.tree.map(lambda x: x[0], (memory, calls)))
        return jax.tree.map(lambda x: x[None], alone)
    return jax.vmap(one)(memory, calls)


def prompt_layout(engine: Engine, group: int = 1) -> PromptLayout:
    """What the prompts of N trajectories, `group` neighbours of one episode each, have in common."""
    config, first = engine.rollout, engine.tables.parts[0]
    # A row keeps a token of its own even where everything behind the fixed text is empty.
    fixed = min(first.length, config.prompt_tokens) - 1 if first.name == "" else 0
    if not config.share_prefix or fixed * LEAST_PREFIX < config.prompt_tokens:
        fixed = 0
    return PromptLayout(fixed, group if config.share_group else 1, config.prompt_buckets)


def check_group(engine: Engine, rows: int, group: int) -> None:
    """UserError where what a group has in common would have to be on several devices."""
    if not engine.rollout.share_group or engine.mesh is None:
        return
    shards = row_shards(engine.mesh)
    if rows % (shards * group):
        raise UserError(
            f"rollout.share_group needs whole groups of {group} on each device, and {rows} trajectories over "
            f"mesh.data x mesh.fsdp = {shards} devices are not; change the mesh or grpo.episodes, or turn it off"
        )


def chunk_step(
    engine: Engine, params, memory: MemoryState, key_N, step, chunk_NC, chunk_len_N, active_N, group: int = 1
):
    """One chunk for N trajectories: returns the new memories and this step's slice of the Trajectory."""
    P = engine.rollout.prompt_tokens
    prompt_NP, prompt_len_N = render_batch(engine, memory, chunk_NC, chunk_len_N)
    fits_N = prompt_len_N <= P
    key_N = jax.vmap(jax.random.fold_in, (0, None))(key_N, step)
    replies = generate(
        engine.policy,
        params,
        prompt_NP,
        jnp.minimum(prompt_len_N, P),
        key_N,
        active_N & fits_N,
        engine.sampling,
        prompt_layout(engine, group),
    )
    calls, subaction_NR = parse_on_host(engine, replies.tokens_NR, replies.length_N)
    subaction_NR = jnp.where(replies.forced_NR, -1, subaction_NR)  # no choice of the policy's, so nothing to learn
    memory, statuses_NK = apply_batch(engine, memory, calls, step)
    record = {
        "prompt_NTP": prompt_NP,
        "prompt_len_NT": prompt_len_N,
        "reply_NTR": replies.tokens_NR,
        "reply_len_NT": replies.length_N,
        "finished_NT": replies.finished_N,
        "logprobs_NTR": replies.logprobs_NR,
        "subaction_NTR": subaction_NR,
        "calls": calls,
        "statuses_NTK": statuses_NK,
        "active_NT": active_N,
        "memory_tokens_NT": jax.vmap(memory_tokens)(memory),
    }
    return memory, record


def rollout(
    engine: Engine,
    params,
    memory: MemoryState,
    key_N: jax.Array,
    chunk_NTC: jax.Array,
    chunk_len_NT: jax.Array,
    num_chunks_N: jax.Array,
    first_chunk: int | jax.Array = 0,
    group: int = 1,
) -> Trajectory:
    """N trajectories over T chunks, as one scan.

    Args:
      memory: MemoryState with leading [N]; its capacity is fixed within one call (grow it between calls).
      key_N: from `trajectory_keys`.
      chunk_NTC, chunk_len_NT: int32 tokens and lengths; num_chunks_N: how many of the T exist.
      first_chunk: number of the first of these chunks within the episode.
      group: G, neighbours that read the same episode; no trajectory depends on it.

    Raises:
      UserError: groups that a mesh tears apart, where they are to share (`check_group`).
    """
    check_group(engine, len(chunk_NTC), group)
    T = chunk_NTC.shape[1]

    def body(memory, xs):
        t, chunk_NC, length_N = xs
        active_N = t < num_chunks_N
        return chunk_step(engine, params, memory, key_N, first_chunk + t, chunk_NC, length_N, active_N, group)

    xs = (jnp.arange(T), chunk_NTC.swapaxes(0, 1), chunk_len_NT.swapaxes(0, 1))
    with in_force(engine.mesh):
        memory, record = jax.lax.scan(body, memory, xs)
    return Trajectory(**jax.tree.map(lambda x: x.swapaxes(0, 1), record), memory=memory)
