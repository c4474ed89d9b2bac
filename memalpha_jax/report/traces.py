"""Trajectories as readable records: what the policy saw, said and did, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from memalpha_jax.episodes.episode import Episode
from memalpha_jax.memory.state import memory_core, memory_items, unstack
from memalpha_jax.policy.tokenizer import Tokenizer
from memalpha_jax.rewards.reward import Rewards
from memalpha_jax.rollout.trajectory import Trajectory
from memalpha_jax.tools.calls import Status


def trace_records(
    trajectory: Trajectory,
    episodes_N: Sequence[Episode],
    rewards: Rewards,
    answers: Sequence[Sequence[str | None]],
    tokenizer: Tokenizer,
    every: int,
) -> list[dict[str, Any]]:
    """One JSON-able record for each `every`-th trajectory: its chunks with prompt, reply and statuses, its final
    memory, and its questions with answers."""
    t = jax.device_get(trajectory)
    states = unstack(t.memory)
    return [
        {
            "instance_id": episodes_N[n].instance_id,
            "r1": float(rewards.r1_N[n]),
            "r3": float(rewards.r3_N[n]),
            "chunks": [_chunk(t, n, i, rewards, tokenizer) for i in range(len(episodes_N[n].chunks))],
            "core": tokenizer.decode(memory_core(states[n])),
            "items": [
                {"id": item.id, "type": item.type.name.lower(), "text": tokenizer.decode(item.tokens)}
                for item in memory_items(states[n])
            ],
            "questions": [
                {"kind": q.kind, "question": q.question, "gold": q.answer, "answer": answer}
                for q, answer in zip(episodes_N[n].questions, answers[n], strict=True)
            ],
        }
        for n in range(0, len(episodes_N), every)
    ]


def _chunk(t: Trajectory, n: int, i: int, rewards: Rewards, tokenizer: Tokenizer) -> dict[str, Any]:
    statuses = [Status(s).name.lower() for s in t.statuses_NTK[n, i].tolist() if s != Status.NO_CALL]
    return {
        "prompt": tokenizer.decode(t.prompt_NTP[n, i, : t.prompt_len_NT[n, i]].tolist()),
        "reply": tokenizer.decode(t.reply_NTR[n, i, : t.reply_len_NT[n, i]].tolist()),
        "statuses": statuses,
        "r2": float(rewards.r2_NT[n, i]),
        "r4": float(rewards.r4_NT[n, i]),
        "total": float(rewards.total_NT[n, i]),
    }
