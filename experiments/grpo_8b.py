"""The published run with Qwen3-8B, which the paper does not have: there is no score to compare with.

    python -m memalpha_jax.train --config=experiments/grpo_8b.py --workdir=runs/grpo_8b \\
        --config.policy.path=/path/to/Qwen3-8B --config.episodes.path=/path/to/train-v1.1.json

Hardware: eight GPUs of 141 GB (--config.mesh.fsdp=8) or a v5p-32 slice, for 147 GB of weights, optimizer and gradient
beside 309 GB of cache, the same as that of Qwen3-4B.
Expected time: three days on eight H200, by the arithmetic of grpo.py with twice the parameters; not measured.
"""

from memalpha_jax.experiment import sibling_config


def get_config():
    config = sibling_config(__file__, "grpo.py")
    config.policy.path = "Qwen/Qwen3-8B"
    config.policy.width = 4096
    config.policy.ff = 12_288
    config.policy.tied_embeddings = False
    return config
