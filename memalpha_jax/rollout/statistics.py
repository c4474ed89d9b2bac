"""What a batch of trajectories did, as numbers worth watching."""

from __future__ import annotations

import numpy as np

from memalpha_jax.memory.state import MemoryType
from memalpha_jax.policy.sharding import whole
from memalpha_jax.rewards.reward import AppliedCalls
from memalpha_jax.rollout.trajectory import Trajectory
from memalpha_jax.tools.calls import CallKind, Status


def trajectory_metrics(trajectory: Trajectory, calls: AppliedCalls) -> dict[str, float]:
    """Per chunk: calls, updates, reply tokens; shares of statuses among calls; final memory tokens."""
    active_NT, length_NT, finished_NT, memory_NT, prompt_NT = whole(
        (
            trajectory.active_NT,
            trajectory.reply_len_NT,
            trajectory.finished_NT,
            trajectory.memory_tokens_NT,
            trajectory.prompt_len_NT,
        )
    )
    chunks = max(1, int(active_NT.sum()))
    made_NTK = (calls.status_NTK != Status.NO_CALL) & active_NT[..., None]
    total = max(1, int(made_NTK.sum()))
    metrics = {
        "rollout/calls_per_chunk": float(made_NTK.sum() / chunks),
        "rollout/updates_per_chunk": float((made_NTK & (calls.kind_NTK == CallKind.UPDATE)).sum() / chunks),
        "rollout/episodic_share": float((made_NTK & (calls.memory_type_NTK == MemoryType.EPISODIC)).sum() / total),
        "rollout/reply_tokens": float(length_NT[active_NT].mean()),
        "rollout/unfinished": float((~finished_NT & active_NT).sum() / chunks),
        "rollout/memory_tokens": float(memory_NT[:, -1].mean()),
        # A chunk is not read when the policy's own core paragraph has filled the prompt.
        "rollout/unread": float(((prompt_NT > trajectory.prompt_NTP.shape[-1]) & active_NT).sum() / chunks),
        "rollout/dropped_calls": float(np.where(active_NT, calls.dropped_NT, 0).sum() / chunks),
    }
    for status in Status:
        if status != Status.NO_CALL:
            metrics[f"status/{status.name.lower()}"] = float((made_NTK & (calls.status_NTK == status)).sum() / total)
    return metrics
