"""Builds training and evaluation episodes from the official files of each source, and shows what was built.

    python -m memalpha_jax.prepare --list
    python -m memalpha_jax.prepare --sources=squad,nlu --raw=RAW --output=EPISODES --tokenizer=Qwen/Qwen3-4B
    python -m memalpha_jax.prepare --show=EPISODES --n=3
    python -m memalpha_jax.prepare --stats=EPISODES

The files of a source lie below RAW/NAME, or RAW, as --list names them, plain or gzipped. EPISODES gets array_record
files of the splits train, eval (kept back of training sources) and test (evaluation sources), and a manifest.json. It
is there once it is complete; the same command goes on where it was interrupted, with the same result. A build fails
where training and held-out episodes share text, and prints it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging

from memalpha_jax.episodes import registry
from memalpha_jax.episodes.building import BuildConfig, build
from memalpha_jax.episodes.prepared import load_prepared, read_manifest, splits_of
from memalpha_jax.errors import UserError, run_main
from memalpha_jax.policy import hub
from memalpha_jax.policy.tokenizer_files import EXPECTED
from memalpha_jax.report.episodes import draw_statistics, readable
from memalpha_jax.workdir import atomic_write

FLAGS = flags.FLAGS
MODES = ("list", "sources", "show", "stats")


def tokenizer_folder(name: str) -> str:
    """The folder of a tokenizer: `name` itself, or that of the hub's model of this name."""
    if not name:
        raise UserError(
            f"--tokenizer is required to build: a folder with {EXPECTED}, or a model on the Hugging Face hub"
        )
    if Path(name).is_dir() or not hub.is_hub_id(name):
        return name
    return str(hub.fetch_files(name, hub.TOKENIZER_FILES, "the tokenizer"))


def show(folder: str, split: str, n: int) -> str:
    """The first `n` episodes of each split, or of one, as text."""
    manifest = read_manifest(folder)
    shown = []
    for name in [split] if split else splits_of(manifest):
        episodes = load_prepared(folder, name)
        shown.append(f"##### split {name}: {min(n, len(episodes))} of {len(episodes)} episodes\n")
        shown += [readable(episodes[i], episodes.chunk_tokens(i).tolist()) for i in range(min(n, len(episodes)))]
    return "\n".join(shown)


def draw(folder: str, split: str) -> list[Path]:
    """Writes FOLDER/stats-SPLIT.png for each split, or one."""
    written = []
    for name in [split] if split else splits_of(read_manifest(folder)):
        episodes = load_prepared(folder, name)
        tokens: dict[str, list[list[int]]] = {}
        kinds: dict[str, list[list[str]]] = {}
        for i, episode in enumerate(episodes):
            tokens.setdefault(episode.data_source, []).append(episodes.chunk_tokens(i).tolist())
            kinds.setdefault(episode.data_source, []).append([question.kind for question in episode.questions])
        title = f"{len(episodes)} episodes of split {name}"
        order = sorted(tokens)
        png = draw_statistics({s: tokens[s] for s in order}, {s: kinds[s] for s in order}, title)
        written.append(atomic_write(Path(folder) / f"stats-{name}.png", png))
    return written


def table(manifest: dict[str, Any]) -> str:
    """What was built, one line for each source and split, published figures below."""
    head = f"{'source':<34}{'split':<8}{'episodes':>9}{'chunks/ep.':>12}{'tokens/chunk':>14}{'questions/ep.':>15}"
    lines = [head]
    for name, source in manifest["sources"].items():
        for split in splits_of(manifest):
            if split in source:
                lines.append(_row(name, split, source[split]))
        figures = source["published"]
        if any(figures.values()):
            lines.append(
                _row(
                    "",
                    "publ.",
                    {
                        **figures,
                        "chunks_per_episode": figures["chunks"],
                        "tokens_per_chunk": figures["chunk_tokens"],
                        "questions_per_episode": figures["questions"],
                    },
                )
            )
    return "\n".join(lines)


def _row(name: str, split: str, figures: dict[str, Any]) -> str:
    columns = (("episodes", 9), ("chunks_per_episode", 12), ("tokens_per_chunk", 14), ("questions_per_episode", 15))
    cells = "".join(f"{figures[key] or '-':>{width},}" if figures[key] else f"{'-':>{width}}" for key, width in columns)
    return f"{name:<34}{split:<8}{cells}"


def main(argv: Sequence[str]) -> None:
    del argv
    logging.set_verbosity(logging.INFO)
    chosen = [mode for mode in MODES if getattr(FLAGS, mode)]
    if len(chosen) != 1:
        given = ", ".join(f"--{mode}" for mode in chosen) or "none of them"
        raise UserError(f"give one of --list, --sources=NAME,.., --show=FOLDER and --stats=FOLDER; this has {given}")
    if FLAGS.list:
        print(registry.describe(registry.all_sources()))
    elif FLAGS.show:
        print(show(FLAGS.show, FLAGS.split, FLAGS.n))
    elif FLAGS.stats:
        print(*draw(FLAGS.stats, FLAGS.split), sep="\n")
    else:
        options: dict[str, Any] = {field.name: getattr(FLAGS, field.name) for field in dataclasses.fields(BuildConfig)}
        options |= {"sources": tuple(FLAGS.sources), "tokenizer": tokenizer_folder(FLAGS.tokenizer)}
        print(table(build(BuildConfig(**options))))


def define_flags() -> None:
    """The options; those of a build bear the names of the fields of `BuildConfig`."""
    flags.DEFINE_boolean("list", False, "Print the sources: their files, where these are published, licence, figures.")
    flags.DEFINE_list("sources", [], "Build from these sources, each NAME or NAME:ROLE, separated by commas.")
    flags.DEFINE_string("raw", "", "Folder with the official files: RAW/NAME/... or RAW/....")
    flags.DEFINE_string("output", "", "Folder to be built.")
    flags.DEFINE_string("tokenizer", "", "Folder of a tokenizer, or model on the hub; limits are in its tokens.")
    flags.DEFINE_integer("seed", 42, "Of every random choice.", lower_bound=0)
    flags.DEFINE_integer("max_per_source", 100, "Most training episodes of one data source; 0: all.", lower_bound=0)
    flags.DEFINE_float("eval_share", 0.1, "Share of a training source's episodes that is kept back.")
    flags.DEFINE_integer("chunk_tokens", 0, "Longest chunk, in tokens; 0: as published.", lower_bound=0)
    flags.DEFINE_integer(
        "chunks", 0, "Chunks per episode, where a source is free in it; 0: as published.", lower_bound=0
    )
    flags.DEFINE_integer("stream_tokens", 0, "Length of ruler_* episodes; 0: as published.", lower_bound=0)
    flags.DEFINE_integer("shard_mb", 64, "Largest array_record file, in MiB.", lower_bound=1)
    flags.DEFINE_integer("workers", os.cpu_count() or 1, "Processes that read sources.", lower_bound=1)
    flags.DEFINE_string(
        "closed_book_reader",
        "",
        "MODULE:FUNCTION, which returns a reader (memalpha_jax/rewards/reader.py); the squad and hotpotqa questions "
        "that it answers without the text are left out. Without it none are.",
    )
    flags.DEFINE_string(
        "keyword_extractor",
        "",
        "MODULE:FUNCTION, (summary, text, limit) -> keywords: another one for the gold of summaries than "
        "memalpha_jax/episodes/keywords.py, which needs no model.",
    )
    flags.DEFINE_boolean(
        "hub", False, "Take published parquet sets that are not below --raw from the Hugging Face hub."
    )
    flags.DEFINE_boolean(
        "allow_leaks",
        False,
        "Split at random and build though training and held-out episodes share text (as the published NLU and TREC-C "
        "do); the manifest records what they share.",
    )
    flags.DEFINE_string("show", "", "Print episodes of this built folder.")
    flags.DEFINE_string("stats", "", "Draw histograms of this built folder, into it.")
    flags.DEFINE_integer("n", 3, "Episodes to print, of each split.", lower_bound=1)
    flags.DEFINE_string("split", "", "Show or draw this split alone: train, eval or test.")


if __name__ == "__main__":
    define_flags()
    run_main(main)
