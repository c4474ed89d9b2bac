"""The tiny run under the published reward: what happens where its holes stay open.

    python -m memalpha_jax.train    --config=experiments/tiny_published.py --workdir=runs/published \\
        --config.policy.path=runs/tiny/warm_start
    python -m memalpha_jax.evaluate --workdir=runs/tiny --also=published_reward=runs/published

Differs from tiny.py in the reward and in how it is paid: every chunk is paid for all answers, r2 has weight 1 and gamma
is 0.1, duplicates are paid and cost nothing, and the reader answers with everything it retrieved, so that a stale value
beside its correction still scores. Advantages are scaled group by group and averaged call by call.
"""

from memalpha_jax.experiment import sibling_config


def get_config():
    config = sibling_config(__file__, "tiny.py")
    config.rewards.credit = "episode"
    config.rewards.r2_weight = 1.0
    config.rewards.beta = 0.05
    config.rewards.gamma = 0.1
    config.rewards.pay_duplicates = True
    config.rewards.pay_stale = True
    config.rewards.repeat_cost = 0.0
    config.rewards.one_value = False
    config.rewards.published_scores = True
    config.grpo.scale = "group"
    config.grpo.objective.averaging = "subaction"
    return config
