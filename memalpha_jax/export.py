"""Writes a policy as a Hugging Face folder, which transformers and the servers built on it load.

    python -m memalpha_jax.export --checkpoint=runs/mine --output=exported
    python -m memalpha_jax.export --checkpoint=runs/mine/checkpoints/120 --output=exported --dtype=bfloat16
    python -m memalpha_jax.export --checkpoint=runs/lora --output=adapter --nomerge_lora

The folder holds config.json, safetensors, the tokenizer's files, generation_config.json, training_config.json (the
config of the run) and README.md, a model card with that config and the run's last metrics. Adapters are merged into
the weights, or with --nomerge_lora written alone, as PEFT has them. The folder appears when it is whole; an existing
one that is not empty is left as it is. `load_policy` reads it back.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from absl import flags

from memalpha_jax.command_line import define_flags
from memalpha_jax.errors import UserError, run_main
from memalpha_jax.metrics_log import read_metrics
from memalpha_jax.policy.config import DTYPES, LoraConfig
from memalpha_jax.policy.hugging_face import holds_model, stored_dtype
from memalpha_jax.policy.hugging_face_config import config_json
from memalpha_jax.policy.hugging_face_export import write_adapter, write_weights
from memalpha_jax.policy.lora import merge_lora
from memalpha_jax.policy.policy import RUN_CONFIG, Policy, load_policy, resolve
from memalpha_jax.policy.tokenizer import SentencePieceTokenizer, Tokenizer
from memalpha_jax.workdir import Workdir, disk_errors

GENERATION = "generation_config.json"
GIGABYTE = 10**9


def export(policy: Policy, output: Path, *, merge: bool, dtype: str | None, file_bytes: int) -> None:
    """Writes `policy` to the new folder `output`.

    Args:
      merge: whether adapters, where the policy has them, go into the weights; otherwise they are written alone.
      dtype: of the files; None takes that of the parameters.
      file_bytes: most bytes of one weight file.

    Raises:
      UserError: `output` is not empty, the policy has no adapters to write alone, or the disk is full.
    """
    dtype = dtype or str(jax.tree.leaves(policy.params)[0].dtype)
    with new_folder(output) as folder:
        if merge:
            merged = merge_lora(policy.params, policy.config.lora)
            plain = dataclasses.replace(policy.config, lora=LoraConfig())
            _write_json(folder / "config.json", config_json(plain, dtype))
            write_weights(folder, plain, merged, dtype=dtype, file_bytes=file_bytes)
            _write_generation_config(folder, policy)
        else:
            lora, base = policy.config.lora, policy.config.path
            write_adapter(folder, lora, policy.params, dtype=dtype, base=base)
        if not isinstance(policy.tokenizer_or_reason, str):
            policy.tokenizer.save(folder)
        if policy.run_config:
            _write_json(folder / RUN_CONFIG, policy.run_config)
        card = model_card(policy, final_metrics(policy), merged=merge)
        (folder / "README.md").write_text(card, encoding="utf-8")


def check_free(output: Path) -> None:
    """UserError when there is something at `output` already."""
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(f"--output={output} exists already and is not empty; name a new folder, or remove it first")


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A folder beside `output` that gets its name at the end, and is removed when something fails."""
    check_free(output)
    temporary = output.absolute().with_name(f".{output.name}.{os.getpid()}.tmp")
    with disk_errors(f"cannot write {output}"):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            os.replace(temporary, output)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _write_json(file: Path, values: Any) -> None:
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _write_generation_config(folder: Path, policy: Policy) -> None:
    """The one that came with the model, or one with the end token and the temperature of training."""
    original = Path(policy.path) / GENERATION
    if policy.path and original.is_file():
        shutil.copyfile(original, folder / GENERATION)
        return
    values: dict[str, Any] = {"do_sample": policy.rollout.temperature > 0}
    if policy.rollout.temperature > 0:
        values["temperature"] = policy.rollout.temperature
    if not isinstance(policy.tokenizer_or_reason, str):
        end = policy.tokenizer.eos_id
        values |= {"eos_token_id": end, "pad_token_id": end}
    _write_json(folder / GENERATION, values)


def final_metrics(policy: Policy) -> dict[str, float]:
    """The numbers that the run logged last, up to the policy's step; none where there is no log beside it."""
    place = Path(policy.path).absolute()
    for root in (place, *place.parents[:2]):
        file = Workdir(root).metrics_file
        if file.is_file():
            merged: dict[str, Any] = {}
            for line in read_metrics(file):
                if line["step"] <= policy.step:
                    merged |= line  # some are logged every so many steps
            return {k: v for k, v in merged.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    return {}


def model_card(policy: Policy, metrics: Mapping[str, float], *, merged: bool) -> str:
    """README.md: what this is, how to load it, how it was trained, and how well it did."""
    base = policy.config.path
    front = {"library_name": "transformers" if merged else "peft", "pipeline_tag": "text-generation"}
    parts = [
        "---\n" + "".join(f"{key}: {value}\n" for key, value in front.items()) + "tags: [memory, grpo]\n---",
        "# A policy that writes memory\n\nTrained with memalpha_jax to choose, by tool calls, what to store of a text "
        "that it reads in chunks.",
        _loading(policy, merged),
        _tokenizer_note(policy.tokenizer_or_reason),
        "## Results\n\n" + _metrics_table(metrics, policy.step),
        "## Training\n\n" + (f"Started from {_code(base)}. " if base else "") + _config_block(policy.run_config),
    ]
    return "\n\n".join(parts) + "\n"


def _loading(policy: Policy, merged: bool) -> str:
    if not merged:
        lora = policy.config.lora
        return (
            f"This is a LoRA adapter alone (rank {lora.rank}, alpha {lora.alpha:g}) of "
            f"{_code(policy.config.path) if policy.config.path else 'an unnamed model'}. Load that model with "
            "transformers, then `PeftModel.from_pretrained(model, FOLDER)`."
        )
    return (
        "`transformers.AutoModelForCausalLM.from_pretrained(FOLDER)` loads the weights, and "
        '`memalpha_jax.load_policy("FOLDER")` the policy with its memory settings and prompt template.'
    )


def _tokenizer_note(tokenizer: Tokenizer | str) -> str:
    if isinstance(tokenizer, str):
        return "The folder has no tokenizer: the model that was exported came without one."
    if isinstance(tokenizer, SentencePieceTokenizer):
        return (
            "The tokenizer is a SentencePiece model (`tokenizer.model`) with frames, which are single tokens for "
            "markup (`frames.json`, numbered after the pieces). `AutoTokenizer` cannot read it; `load_policy` does."
        )
    return "The tokenizer is that of the base model."


def _metrics_table(metrics: Mapping[str, float], step: int) -> str:
    if not metrics:
        return "No metrics were found beside the checkpoint."
    rows = [f"| {_code(name)} | {value:.6g} |" for name, value in sorted(metrics.items()) if name != "step"]
    return f"At step {step}, or when last measured before it:\n\n| metric | value |\n| --- | ---: |\n" + "\n".join(rows)


def _config_block(run_config: Mapping[str, Any]) -> str:
    if not run_config:
        return "The config of the run is not known."
    return f"The config of the run (also in `{RUN_CONFIG}`):\n\n```json\n{json.dumps(run_config, indent=2)}\n```"


def _code(text: str) -> str:
    """Text as inline code, whatever it contains."""
    return "`" + " ".join(text.replace("`", "'").split()) + "`"


def main(argv: Sequence[str]) -> None:
    del argv
    args = flags.FLAGS
    output = Path(args.output)
    if args.max_file_gb <= 0 or not math.isfinite(args.max_file_gb):
        raise UserError(f"--max_file_gb={args.max_file_gb}: expected a number above 0")
    check_free(output)  # before a minute of reading
    place = resolve(args.checkpoint)
    stored = stored_dtype(place) if holds_model(place) else None  # a checkpoint is read as it is anyway
    policy = load_policy(place, dtype=stored)
    export(policy, output, merge=args.merge_lora, dtype=args.dtype, file_bytes=math.ceil(args.max_file_gb * GIGABYTE))
    print(f"exported step {policy.step} of {args.checkpoint} to {output}")


if __name__ == "__main__":
    define_flags(config=False, workdir=False)
    flags.DEFINE_string(
        "checkpoint", None, "Policy: a workdir, its checkpoints, one step of them, or a Hugging Face folder."
    )
    flags.DEFINE_string("output", None, "Folder to write; it must not exist, or be empty.")
    flags.DEFINE_bool("merge_lora", True, "Merge adapters into the weights; --nomerge_lora writes them alone.")
    flags.DEFINE_enum("dtype", None, DTYPES, "Type of the weights (default: as the checkpoint has them).")
    flags.DEFINE_float("max_file_gb", 5.0, "Most gigabytes (1e9 bytes) of one weight file.")
    flags.mark_flags_as_required(["checkpoint", "output"])
    run_main(main)
