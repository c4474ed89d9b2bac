"""Every method on every benchmark, offline, with the policy that `make demo` trains: minutes on two CPU cores.

python -m memalpha_jax.evaluate --config=experiments/eval.py --workdir=runs/eval \\
    --config.policy.path=runs/tiny --config.episodes.data=DATA
"""

from memalpha_jax.leaderboard.config import default_config


def get_config():
    config = default_config()
    config.sources = ("generated", "squad", "hotpotqa")
    config.episodes.episodes = 4
    config.episodes.chunk_tokens = 64
    config.episodes.chunks = 10
    config.episodes.questions = 20
    # What the tiny policy can look at.
    config.method.long_context_tokens = 512
    config.reader.budget = 1024
    return config
