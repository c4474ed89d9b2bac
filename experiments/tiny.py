"""The embedded default: the whole system at a size for two CPU cores, on a generated world, from nothing.

python -m memalpha_jax.warmstart --config=experiments/tiny.py --workdir=runs/tiny
python -m memalpha_jax.train     --config=experiments/tiny.py --workdir=runs/tiny
python -m memalpha_jax.evaluate  --config=experiments/tiny.py --workdir=runs/tiny
"""

from memalpha_jax.experiment import default_config


def get_config():
    config = default_config()

    # The world: three of five sentences are chatter; corrections are frequent enough to learn from; the harder, late
    # sentences are fewer.
    config.episodes.world.chatter_rate = 0.6
    config.episodes.world.correction_rate = 0.3
    config.episodes.world.late_rate = 0.3
    config.episodes.world.sentences_min = 4
    config.episodes.world.sentences_max = 6
    config.episodes.world.people = 5
    config.episodes.world.statements_per_person = 2.0
    config.episodes.chunk_tokens = 64
    config.episodes.chunks = 3

    # Policy: about half a million parameters.
    config.policy.width = 128
    config.policy.layers = 3
    config.policy.heads = 4
    config.policy.kv_heads = 2
    config.policy.head_dim = 32
    config.policy.ff = 384
    config.policy.init = "copying"
    config.policy.qk_norm_init = 1.3

    # Memory and prompt: what a small model can look at.
    config.memory.core_tokens = 32
    config.memory.items = 32
    config.memory.arena_tokens = 512
    config.memory.shown_items = 0
    config.memory.similar_items = 8
    config.rollout.prompt_tokens = 144
    config.rollout.reply_tokens = 38
    config.rollout.max_calls = 4
    config.rollout.template = "compact"
    config.rollout.temperature = 0.7

    # Reward: the published sum with its holes closed (see README, "The reward, and its holes").
    config.rewards.credit = "gain"
    config.rewards.r2_weight = 0.3
    config.rewards.pay_duplicates = False
    config.rewards.pay_stale = False
    config.rewards.repeat_cost = 6.0
    config.rewards.gamma = 0.6
    config.rewards.one_value = True

    # Learning.
    config.grpo.episodes = 16
    config.grpo.group = 8
    config.grpo.steps = 70
    config.grpo.grouping = "chunk"
    config.grpo.scale = "batch"
    config.grpo.objective.averaging = "constant"
    config.grpo.minibatches = 2
    config.grpo.block_rows = 8
    config.grpo.buckets = 4
    config.grpo.optimizer.lr = 6e-4
    config.grpo.optimizer.decay = 0.7
    config.grpo.optimizer.final_lr_share = 0.1
    config.grpo.optimizer.weight_decay = 0.0
    config.grpo.optimizer.b2 = 0.98

    # The table is made of other held-out episodes than the curve, on which settings were chosen.
    config.evaluation.first = 8000
    # Short episodes hold few questions and cost little; what is lost with length is a difference to them.
    config.evaluation.lengths = (1, 3, 13)
    config.evaluation.episodes = (256, 128, 64)
    return config
