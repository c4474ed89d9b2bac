"""Every method on every benchmark, offline, with the policy that `make demo` trains: a quarter of an hour on two cores.

python -m memalpha_jax.evaluate --config=experiments/eval.py --workdir=runs/eval --config.policy.path=runs/tiny

Without files it runs on generated episodes; with a folder of official files (as `memalpha_jax.prepare --list` names
them) also on those, by `--config.episodes.data=DATA` and `--config.sources`. A policy of half a million parameters
cannot read English and cannot follow the prompts of the other methods: what its numbers show is that all of them run,
and what retrieval alone is worth. With a model that can, set `--config.policy.path=Qwen/Qwen3-4B` or
`--config.chat.kind=openai --config.chat.base_url=... --config.chat.model=...`, and leave out the budgets below.
"""

from memalpha_jax.leaderboard.config import default_config

GENERATED = ("generated", *(f"generated_{kind}" for kind in ("retrieval", "conflict", "rules", "totals", "summary")))


def get_config():
    config = default_config()
    config.sources = GENERATED
    config.episodes.episodes = 4
    config.episodes.chunks = 12
    config.episodes.questions = 20

    # Chunks of half the published length in tokens of a small vocabulary, and a policy that makes room for them.
    config.episodes.chunk_tokens = 1024
    config.policy.prompt_tokens = 1280
    config.policy.reply_tokens = 160

    # What a model of that size can be asked for in the time.
    config.chat.context_tokens = 2048
    config.method.reply_tokens = 64
    config.method.long_context_tokens = 4096
    config.method.lora_steps = 2
    config.reader.budget = 8192
    return config
