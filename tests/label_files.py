"""Small files in the official layouts of the classification sources, and their sources by name and role."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

from memalpha_jax.episodes import banking77, clinic150, nlu, pubmed_rct, trec
from memalpha_jax.episodes.labelled import Sample
from memalpha_jax.episodes.source import EVALUATION, TRAINING, BuildOptions

SOURCES = {
    (source.name, source.role): source
    for module in (nlu, trec, banking77, clinic150, pubmed_rct)
    for source in module.SOURCES
}
TRAINED = [(name, role) for name, role in SOURCES if role == TRAINING]
EVALUATED = [(name, role) for name, role in SOURCES if role == EVALUATION]
TREC_LABELS = ("ABBR:exp", "DESC:def", "DESC:reason", "ENTY:food", "HUM:ind", "LOC:city", "NUM:count", "NUM:date")
COLOURS = ("amber", "beige", "brown", "coral", "ivory", "lemon", "lilac", "ochre", "olive", "peach", "plum", "ruby")
THINGS = (
    "anvil",
    "bell",
    "cart",
    "drum",
    "fork",
    "gate",
    "hoop",
    "jar",
    "kite",
    "lamp",
    "oar",
    "quilt",
    "rope",
    "sled",
)
SIZES = ("tiny", "small", "wide", "tall", "big", "huge")
SAMPLES = len(COLOURS) * len(THINGS) * len(SIZES)


def rows(labels: tuple[str, ...], split: str) -> list[Sample]:
    """`SAMPLES` distinct texts, the labels in turn; texts of different splits differ."""
    texts = (
        f"{split} asks for the {size} {colour} {thing}" for size in SIZES for colour in COLOURS for thing in THINGS
    )
    return [Sample(text, label) for text, label in zip(texts, itertools.cycle(labels), strict=False)]


def write_csv(path: Path, samples: list[Sample], columns: tuple[str, str] = ("text", "label")) -> Path:
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow((*columns, "scenario"))
        table.writerows((*one, "any") for one in samples)
    return path


def write_trec(path: Path, samples: list[Sample]) -> Path:
    path.write_text("".join(f"{one.label} {one.text}\n" for one in samples), encoding="latin-1")
    return path


def write_pubmed(path: Path, samples: list[Sample], per_abstract: int = 10) -> Path:
    starts = range(0, len(samples), per_abstract)
    abstracts = (
        f"###{i}\n" + "".join(f"{one.label}\t{one.text}\n" for one in samples[i : i + per_abstract]) + "\n"
        for i in starts
    )
    path.write_text("".join(abstracts))
    return path


def write_files(folder: Path, name: str) -> dict[str, Path]:
    """The files of a source, by its names for them."""
    intents = tuple(f"intent_{i}" for i in range(8))
    if name == "nlu":
        return {split: write_csv(folder / f"{split}.csv", rows(intents, split)) for split in ("train", "test")}
    if name.startswith("trec"):
        return {split: write_trec(folder / f"{split}.label", rows(TREC_LABELS, split)) for split in ("train", "test")}
    if name == "banking77":
        columns = ("text", "category")
        files = {s: write_csv(folder / f"{s}.csv", rows(intents, s), columns) for s in ("train", "test")}
        (folder / "categories.json").write_text(json.dumps(intents))
        return {**files, "categories": folder / "categories.json"}
    if name == "clinic150":
        splits = {split: list(map(list, rows(intents, split))) for split in ("train", "val", "test")}
        path = folder / "data_full.json"
        path.write_text(json.dumps({**splits, "oos_train": [["no such thing", "oos"]]}))
        return {"data": path}
    sections = ("BACKGROUND", "OBJECTIVE", "METHODS", "RESULTS", "CONCLUSIONS")
    return {split: write_pubmed(folder / f"{split}.txt", rows(sections, split)) for split in ("train", "dev")}


def options(**changes) -> BuildOptions:
    """Tokens are characters here: exact, and quick to count."""
    return BuildOptions(len, **changes)
