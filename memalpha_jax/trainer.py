"""The trainer: everything that one run makes once, and one GRPO step.

episodes ▸ rollout ▸ rewards ▸ advantages ▸ update        `Trainer.step` reads in that order
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh

from memalpha_jax.chat.make import ChatModels
from memalpha_jax.checkpoints import Checkpoints, abstract
from memalpha_jax.comparison import greedy_engine
from memalpha_jax.config import to_dict
from memalpha_jax.distributed import gather, is_first, together
from memalpha_jax.episodes.episode import Episode
from memalpha_jax.episodes.feed import Drawn, check_lengths, make_feed
from memalpha_jax.episodes.iterator import EpisodeIterator
from memalpha_jax.episodes.schedule import Head, Schedule, heads_of, parse_weights
from memalpha_jax.episodes.sources import load_episodes
from memalpha_jax.errors import UserError
from memalpha_jax.evaluation import PolicyWriter, accuracy_from_memories
from memalpha_jax.experiment import Config
from memalpha_jax.grpo.advantages import group_advantages, group_ids
from memalpha_jax.grpo.learner import init_state, update
from memalpha_jax.policy.config import ARCHITECTURE, PolicyConfig
from memalpha_jax.policy.generate import check_positions
from memalpha_jax.policy.hugging_face import holds_model
from memalpha_jax.policy.hugging_face_config import read_config
from memalpha_jax.policy.lora import fingerprint, merge_lora
from memalpha_jax.policy.model import Params, cast, init_params
from memalpha_jax.policy.optimizer import make_optimizer
from memalpha_jax.policy.policy import Policy, load_policy, resolve
from memalpha_jax.policy.sharding import check_rows, make_mesh, own_part, own_rows, place, row_shards, tree_shardings
from memalpha_jax.report.traces import trace_records
from memalpha_jax.rewards.make import make_grader, make_judge, make_reader
from memalpha_jax.rewards.metrics import score
from memalpha_jax.rewards.reward import reward_metrics
from memalpha_jax.rewards.scoring import Scorer, of_all_rows
from memalpha_jax.rollout.collect import chunk_room, make_collector
from memalpha_jax.rollout.cost import ClockedParser, time_parts
from memalpha_jax.rollout.engine import make_engine
from memalpha_jax.rollout.statistics import trajectory_metrics
from memalpha_jax.workdir import Workdir, write_traces


def starting_policy(config: Config, workdir: Workdir, mesh: Mesh) -> Policy:
    """The policy that training starts from, in its shards: a run's checkpoint, or a Hugging Face model.

    Its own dtype is float32, or with adapters, which alone are trained, the policy's. `config` of the result has the
    sizes it was made with and the settings that this run gives it.

    Raises:
      UserError: there is none, or a run's is of other sizes than this config; a Hugging Face model decides its own.
    """
    folder = resolve(config.policy.path) if config.policy.path else workdir.root / "warm_start"
    if not folder.exists():
        raise UserError(
            f"no policy to start from: {folder} does not exist; run `python -m memalpha_jax.warmstart` with the same "
            "--config and --workdir first, or set --config.policy.path to a trained one or a Hugging Face model"
        )
    if holds_model(folder):  # before its weights are read
        check_positions(read_config(folder), config.rollout.prompt_tokens, config.rollout.reply_tokens)
    policy = load_policy(folder, dtype=config.policy.dtype if config.policy.lora.rank else "float32", mesh=mesh)
    sizes = {name: getattr(policy.config, name) for name in ARCHITECTURE}
    differing = [
        f"policy.{name} ({size} there, {getattr(config.policy, name)} in this config)"
        for name, size in sizes.items()
        if size != getattr(config.policy, name)
    ]
    if differing and not holds_model(folder):
        raise UserError(
            f"the policy in {folder} is another network: {', '.join(differing)}; set these keys to its values"
        )
    own = dataclasses.replace(config.policy, vocab_size=policy.config.vocab_size, **sizes)
    params = merge_lora(policy.params, policy.config.lora)
    return dataclasses.replace(policy, config=own, params=params)


def split_params(config: PolicyConfig, params: Params, seed: int) -> tuple[Params, Params]:
    """What is trained, and what is not: all parameters and none, or fresh adapters and all."""
    if config.lora.rank == 0:
        return params, {}

    @jax.jit  # which leaves out what is not asked for
    def adapters() -> Params:
        fresh = init_params(config, jax.random.key(seed))
        return {name: value for name, value in fresh.items() if name not in params}

    return adapters(), params


def check_shards(config: Config, mesh: Mesh) -> None:
    """Raises UserError when the trajectories of a step, or of a block, cannot be dealt out evenly to the devices."""
    grpo, shards = config.grpo, row_shards(mesh)
    check_rows(mesh, grpo.episodes, grpo.group)
    N = grpo.episodes * grpo.group
    M = N // grpo.minibatches
    for name, rows in ("grpo.block_rows", min(grpo.block_rows, M) or M), ("rollout.rows", config.rollout.rows or N):
        if rows % shards:
            raise UserError(
                f"{name} is {rows}, which {shards} shards do not divide (mesh.data x mesh.fsdp); change either"
            )


def check_sources(sources: Iterable[str], graded: bool) -> None:
    """Raises UserError for a data source whose answers cannot be scored, before the step that draws it."""
    for source in dict.fromkeys(sources):
        score(source, "", "any", verdict="no" if graded else None)


def _no_path() -> Policy:
    raise UserError(
        "a local reader, judge or grader is a model that training leaves alone: set its chat.path to a checkpoint or a "
        "Hugging Face model"
    )


class Trainer:
    """One run: everything made once, and `step`, which does one GRPO step."""

    def __init__(self, config: Config, workdir: Workdir, start: Policy | None = None):
        """`start`: the policy to start from; None takes what the config names."""
        self.config, self.workdir = config, workdir
        self.mesh = make_mesh(config.mesh)
        check_shards(config, self.mesh)
        start = start or starting_policy(config, workdir, self.mesh)
        self.tokenizer, self.policy = start.tokenizer, start.config
        self.cast = functools.partial(cast, dtype=self.policy.dtype)
        engine = make_engine(self.policy, config.memory, config.rollout, self.tokenizer, mesh=self.mesh)
        self.parser = ClockedParser(engine.parser)
        self.engine = engine.with_parser(self.parser)
        count = lambda text: len(self.tokenizer.encode(text))
        episodes = load_episodes(config.episodes, "train", count)
        self.held_out = list(load_episodes(config.episodes, "eval", count)[: config.run.evaluate_episodes])
        heads = heads_of(episodes)
        self.sources = [head.source for head in heads]
        graded = config.rewards.grader.kind != "none"
        check_sources([*self.sources, *(episode.data_source for episode in self.held_out)], graded)
        self.iterator = self._feed(episodes, heads)
        self.collect = make_collector(self.engine, config.grpo.group, config.seed)
        self.models = ChatModels(_no_path, count)
        reader, _ = make_reader(config.rewards.reader, self.models, config.rewards.one_value)
        self.held_out_reader, _ = make_reader(config.rewards.reader, self.models, one_value=True)
        self.grader, _ = make_grader(config.rewards.grader, self.models)
        judge = make_judge(config.rewards.judge, self.models)
        self.models.check()
        self.scorer = Scorer(engine, self.tokenizer, config.rewards, reader, judge, self.grader)
        self.optimizer = make_optimizer(config.grpo.optimizer, config.grpo.steps * config.grpo.minibatches)
        trained, base = split_params(self.policy, start.params, config.seed)
        state = init_state(trained, self.optimizer)
        shardings = tree_shardings(state, self.mesh)
        self.state = place(state, self.mesh)
        self.base = place(base, self.mesh)
        self.reference = self._reference() if config.grpo.objective.kl_coef != 0 else None
        self.update = jax.jit(
            functools.partial(
                update,
                policy=self.policy,
                config=config.grpo,
                temperature=config.rollout.temperature,
                optimizer=self.optimizer,
                mesh=self.mesh,
            ),
            donate_argnums=0,
            out_shardings=(shardings, None),  # left to itself, XLA would lay out small parameters in another way
        )
        made = dataclasses.replace(config, policy=self.policy)
        self.meta = {"config": to_dict(made), "tokenizer": self.tokenizer.files()}
        if self.base:
            self.meta["base"] = fingerprint(self.base)
        policy_now = Policy(self.policy, None, self.tokenizer, config.memory, config.rollout)
        self.writer = PolicyWriter(greedy_engine(policy_now), self.tokenizer, config.evaluation.batch, config.seed)

    def _feed(self, episodes: Sequence[Episode], heads: Sequence[Head]) -> EpisodeIterator[Drawn]:
        """The episodes of every step, tokenised; UserError for those that do not fit the prompt."""
        config, B, G = self.config, self.config.grpo.episodes, self.config.grpo.group
        curriculum_steps = round(config.episodes.curriculum * config.grpo.steps)
        weights = parse_weights(config.episodes.weights)
        schedule = Schedule(heads, B, config.seed, weights, curriculum_steps)
        room = {"max_chunks": max(head.chunks for head in heads), "chunk_capacity": chunk_room(self.engine)}
        mine = range(jax.process_index(), len(episodes), jax.process_count())
        together(lambda: check_lengths(episodes, self.tokenizer, mine, **room))
        own_B = own_rows(self.mesh, B * G)[::G] // G
        return make_feed(schedule, episodes, self.tokenizer, own_B=own_B, **room)

    def _reference(self) -> Params:
        """The initial policy, held only where the objective asks for it; with adapters it is what they adapt."""
        if self.base:
            return self.base
        # A copy, since the buffers of the state are donated.
        return jax.tree.map(lambda x: jnp.array(x, self.policy.dtype, copy=True), self.state.params)

    def params(self) -> Params:
        """All parameters of the policy as it is now, in the dtype that it is run with."""
        return {**self.base, **self.cast(self.state.params)}

    def restore(self, checkpoints: Checkpoints) -> int | None:
        """Continues from the newest sound checkpoint; returns its step, None at a fresh start."""
        restored = checkpoints.restore(abstract(self.state))
        if restored is None:
            return None
        if "base" in restored.meta and restored.meta["base"] != self.meta.get("base"):
            raise UserError(
                f"step {restored.step} of this run holds adapters of other weights than those now in "
                f"{self.config.policy.path or 'its warm_start'}; put the old ones back or start a new run"
            )
        self.state = restored.state
        self.iterator.set_state(restored.meta["iterator"])
        logging.info("continuing at step %d of %d", restored.step, self.config.grpo.steps)
        return restored.step

    def save(self, checkpoints: Checkpoints, step: int) -> None:
        checkpoints.save(step, self.state, {**self.meta, "iterator": self.iterator.get_state()})

    def step(self, step: int) -> tuple[dict[str, float], dict[str, float]]:
        """Step number `step` (from 1): returns metrics, which the run determines, and timings in seconds."""
        config, clock = self.config, time.monotonic
        begin = clock()
        drawn = next(self.iterator)
        fed = clock()
        self.parser.reset()
        trajectory = jax.block_until_ready(self.collect(self.params(), step, drawn))
        rolled = clock()
        G, indices = config.grpo.group, drawn.index_B.tolist()
        own = drawn.batch.episode_index_B.tolist()
        own_N = [episode for episode in drawn.episodes for _ in range(G)]
        chunk_tokens_N = np.repeat(drawn.batch.chunk_len_BT.sum(axis=1), G)
        scored_by_this_process = lambda: self.scorer.score(trajectory, own_N, chunk_tokens_N, np.repeat(own, G))
        own_rewards, own_calls, answers = together(scored_by_this_process)
        rewards, applied = of_all_rows(own_rewards, own_calls, self.mesh, len(indices) * G)
        episode_N = np.repeat(np.asarray(indices), G)
        sources = [self.sources[i] for i in episode_N]
        _, source_N = np.unique(sources, return_inverse=True)
        group_NT = group_ids(config.grpo.grouping, episode_N, source_N, rewards.total_NT.shape[1])
        advantage_NT = group_advantages(rewards.total_NT, rewards.chunk_mask_NT, group_NT, config.grpo.scale)
        scored = clock()
        self.state, learned = jax.block_until_ready(
            self.update(self.state, self.base, self.reference, trajectory, advantage_NT)
        )
        timings = {
            "feed": fed - begin,
            "rollout": rolled - fed,
            "parse": self.parser.seconds,
            "reward": scored - rolled,
            "update": clock() - scored,
        }
        metrics = reward_metrics(rewards, sources) | trajectory_metrics(trajectory, applied)
        metrics |= {f"update/{name}": float(value) for name, value in learned.items()}
        metrics |= {"update/skipped": int(self.state.skipped)}
        if is_watched(step, config.run.trace_every, config.grpo.steps):
            records = trace_records(own_part(trajectory), own_N, own_rewards, answers, self.tokenizer, every=G)
            record_of = dict(pair for pairs in gather(list(zip(own, records, strict=True))) for pair in pairs)
            if is_first():
                write_traces(self.workdir, step, [record_of[i] for i in indices])
        if step == config.run.cost_step:
            timings |= time_parts(self.engine, self.params(), trajectory, G)
        if int(self.state.skipped_in_a_row) >= config.grpo.max_skipped:
            raise UserError(
                f"step {step}: the gradient was not finite {config.grpo.max_skipped} times in a row; lower "
                "--config.grpo.optimizer.lr, or look at the traces and metrics of this workdir"
            )
        return metrics, timings

    def evaluate(self) -> dict[str, float]:
        """Greedy accuracy on a few held-out episodes, for the curve."""
        memories = self.writer.write(self.params(), self.held_out)
        return {
            "eval/accuracy": accuracy_from_memories(self.held_out, memories, self.held_out_reader, self.grader),
            "eval/memory_tokens": float(np.mean([memory.tokens for memory in memories])),
        }


def is_due(step: int, every: int, last: int) -> bool:
    """Whether something done every so many steps, and at the last, is due; 0 turns it off."""
    return every > 0 and (step % every == 0 or step == last)


def is_watched(step: int, every: int, last: int) -> bool:
    """As `is_due`, and at the first step as well: for what is looked at rather than kept."""
    return every > 0 and (step == 1 or is_due(step, every, last))
