"""One policy on streams of 1k to 1M tokens: accuracy, memory, and what a chunk costs; 12 to 30 minutes on two cores.

python -m memalpha_jax.evaluate --config=experiments/eval_length.py --workdir=runs/length --config.policy.path=runs/tiny

Expected of the policy that `make demo` trains: a chunk takes as long at 1M tokens as at 16k.
"""

from memalpha_jax.leaderboard.length import default_config


def get_config():
    config = default_config()
    config.lengths = (1_000, 4_000, 16_000, 64_000, 256_000, 1_000_000)
    # Shorter streams have fewer questions.
    config.episodes = (16, 8, 4, 2, 1, 1)
    config.reference = 16_000
    return config
