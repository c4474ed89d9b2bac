"""The policy that a comparison or a length study runs, and the world it was trained on."""

from __future__ import annotations

import dataclasses

from memalpha_jax.config import build
from memalpha_jax.episodes.generated import WorldConfig
from memalpha_jax.leaderboard.config import PolicyChoice
from memalpha_jax.policy.policy import Policy, load_policy


def chosen_policy(choice: PolicyChoice) -> Policy:
    """The policy with the budgets that were chosen for it."""
    policy = load_policy(choice.path)
    rollout = dataclasses.replace(
        policy.rollout,
        prompt_tokens=choice.prompt_tokens or policy.rollout.prompt_tokens,
        reply_tokens=choice.reply_tokens or policy.rollout.reply_tokens,
    )
    return dataclasses.replace(policy, rollout=rollout)


def world_of(policy: Policy) -> WorldConfig:
    """The generated world the policy was trained on."""
    return build(WorldConfig, policy.run_config.get("episodes", {}).get("world", {}), "config.episodes.world")
