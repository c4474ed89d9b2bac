"""Qwen3-0.6B with LoRA on one GPU of 16 GB, such as Colab's T4: real text, a real model, everything smaller.

    python -m memalpha_jax.train --config=experiments/grpo_0_6b_lora.py --workdir=runs/lora \\
        --config.policy.path=/path/to/Qwen3-0.6B --config.episodes.path=/path/to/dev-v1.1.json

Hardware: one GPU of 16 GB. By arithmetic 1.2 GB are weights in bfloat16, 3.8 GB the cache of 16 trajectories of 2,048
tokens, up to 5 GB the attention scores of their prompts, 0.2 GB adapters with their gradient and optimizer.
Expected time: 3 hours on a T4, by arithmetic and not measured: 64 replies a step of 1,500 prompt and 300 reply tokens
(assumed) at 4 TFLOP/s, half of its float32 peak (it has no bfloat16), and half of its memory bandwidth, give 4 minutes
a step. No published score: the paper has no run of this size.
"""

from memalpha_jax.experiment import sibling_config


def get_config():
    config = sibling_config(__file__, "grpo.py")

    config.episodes.path = "data/dev-v1.1.json"
    config.episodes.chunks = 4
    config.episodes.chunk_tokens = 400
    config.episodes.min_questions = 8
    config.episodes.num_eval = 16

    config.policy.path = "Qwen/Qwen3-0.6B"
    config.policy.width = 1024
    config.policy.layers = 28
    config.policy.heads = 16
    config.policy.ff = 3072
    config.policy.lora.rank = 16
    config.policy.lora.alpha = 32.0
    config.policy.attention = "xla"  # the fused kernel needs a GPU newer than a T4; on those, "auto" is faster

    config.memory.core_tokens = 128
    config.rollout.prompt_tokens = 1536
    config.rollout.reply_tokens = 512
    config.rollout.max_calls = 16
    config.rollout.rows = 0  # all 16 of a step at once

    # Adapters start at zero and take larger steps than weights.
    config.grpo.episodes = 2
    config.grpo.steps = 50
    config.grpo.optimizer.lr = 2e-5
    config.grpo.block_rows = 1

    config.run.save_every = 5
    config.run.evaluate_every = 10
    config.run.evaluate_episodes = 8
    return config
