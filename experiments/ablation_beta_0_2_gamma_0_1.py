"""Reward weights beta 0.2, gamma 0.1: with four times the published reward for a short memory.

    python -m memalpha_jax.train --config=experiments/ablation_beta_0_2_gamma_0_1.py \\
        --workdir=runs/ablation_beta_0_2_gamma_0_1 --config.policy.path=/path/to/Qwen3-4B \\
        --config.episodes.path=/path/to/train-v1.1.json

Hardware and expected time: those of grpo.py, two days on eight H200 by arithmetic, not measured.
Published score: 0.525 on validation (printed; the mean of its seven cells is 0.515) with 4.7 thousand tokens of memory,
0.351 on MemoryAgentBench (arXiv 2509.25911, tables 4 and 9). Data, reader and judge differ as grpo.py says.
"""

from memalpha_jax.experiment import sibling_config


def get_config():
    config = sibling_config(__file__, "grpo.py")
    config.rewards.beta = 0.2
    config.rewards.gamma = 0.1
    return config
