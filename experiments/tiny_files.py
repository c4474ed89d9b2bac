"""The tiny policy on English files, SQuAD or LoCoMo in their official JSON, or our own JSONL records.

    python -m memalpha_jax.train --config=experiments/tiny_files.py --workdir=runs/squad \\
        --config.policy.path=runs/tiny/warm_start \\
        --config.episodes.source=squad --config.episodes.path=dev-v1.1.json

A policy of this size, with a tokenizer made for another text, cannot read English; what this shows is that every part
of the machinery can. Chunks and replies are four to five times as long as in tiny.py, since a word takes
three or four tokens.
"""

from memalpha_jax.experiment import sibling_config


def get_config():
    config = sibling_config(__file__, "tiny.py")
    config.episodes.chunks = 3
    config.episodes.chunk_tokens = 320
    config.rollout.prompt_tokens = 448
    config.rollout.reply_tokens = 160
    config.rewards.credit = "episode"  # "gain" would read the memory of a book-length episode after each of its chunks
    # Four long trajectories take as long as 64 short ones.
    config.grpo.episodes = 2
    config.grpo.group = 2
    config.grpo.block_rows = 2
    config.grpo.steps = 50
    config.evaluation.lengths = (1,)
    config.evaluation.episodes = (16,)
    config.run.save_every = 10
    config.run.trace_every = 10
    config.run.evaluate_every = 25
    config.run.evaluate_episodes = 4
    return config
