"""The tiny run under the published reward: what happens where its holes stay open.

    python -m memalpha_jax.train    --config=experiments/tiny_published.py --workdir=runs/published \\
        --config.policy.path=runs/tiny/warm_start
    python -m memalpha_jax.evaluate --workdir=runs/tiny --also=published_reward=runs/published

Differs from tiny.py in the reward alone: r2 has weight 1, duplicates are paid, and the reader answers with everything
it retrieved, so that a stale value beside its correction still scores. About four minutes on two CPU cores.
"""

import importlib.util
import pathlib


def get_config():
    path = pathlib.Path(__file__).with_name("tiny.py")
    spec = importlib.util.spec_from_file_location("tiny", path)
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    config = tiny.get_config()
    config.rewards.r2_weight = 1.0
    config.rewards.beta = 0.05
    config.rewards.gamma = 0.1
    config.rewards.pay_duplicates = True
    config.rewards.one_value = False
    config.rewards.published_scores = True
    return config
