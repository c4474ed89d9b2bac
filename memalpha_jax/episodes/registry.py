"""Every data source there is, by name, and finding its files below a folder."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from memalpha_jax.episodes import (
    banking77,
    booksum,
    clinic150,
    eventqa,
    factconsolidation,
    hotpotqa,
    infbench_sum,
    locomo,
    longmemeval,
    msc,
    musique,
    nlu,
    perltqa,
    published,
    pubmed_rct,
    ruler_qa1,
    ruler_qa2,
    squad,
    squality,
    trec,
)
from memalpha_jax.episodes.source import EVALUATION, TRAINING, Published, Source
from memalpha_jax.errors import UserError

ROLES = (TRAINING, EVALUATION)


_MODULES = (
    banking77,
    booksum,
    clinic150,
    eventqa,
    factconsolidation,
    hotpotqa,
    infbench_sum,
    locomo,
    longmemeval,
    msc,
    musique,
    nlu,
    perltqa,
    published,
    pubmed_rct,
    ruler_qa1,
    ruler_qa2,
    squad,
    squality,
    trec,
)
"""Every module with `SOURCES`."""


def all_sources() -> tuple[Source, ...]:
    """Every source, training sources first, by name; no two have both name and role in common."""
    listed = [source for module in _MODULES for source in module.SOURCES]
    return tuple(sorted(listed, key=lambda source: (ROLES.index(source.role), source.name)))


def key(source: Source) -> str:
    """NAME:ROLE, as it is given on the command line and stands in a manifest."""
    return f"{source.name}:{source.role}"


def select(names: Sequence[str]) -> tuple[Source, ...]:
    """The sources of the given names (in every role they have) and NAME:ROLEs, in the order of `all_sources`.

    UserError for a name that is unknown, with those that are known.
    """
    chosen: set[str] = set()
    for name in names:
        found = [source for source in all_sources() if name in (source.name, key(source))]
        if not found:
            known = ", ".join(dict.fromkeys(source.name for source in all_sources()))
            raise UserError(
                f"there is no source {name!r}; known are {known}, each also as NAME:{TRAINING} or NAME:{EVALUATION}"
            )
        chosen.update(map(key, found))
    return tuple(source for source in all_sources() if key(source) in chosen)


def find_files(source: Source, raw: str | os.PathLike[str]) -> dict[str, Path]:
    """The file for each of `source.files`: below RAW/NAME if there is such a folder, else below RAW.

    Of the patterns of a file the first that matches counts, of its matches the first by name. Optional files that are
    not there are left out. UserError says what was looked for and where.
    """
    raw = Path(raw)
    if not raw.is_dir():
        raise UserError(f"--raw={raw} is not a folder; give the one that holds the official files; --list names them")
    folder = raw / source.name if (raw / source.name).is_dir() else raw
    present = _files_below(folder)
    found: dict[str, Path] = {}
    # Where every file is optional, each is enough by itself; then at least one has to be there.
    needed = set(source.files) - source.optional
    for name, patterns in source.files.items():
        matches = [path for pattern in patterns for path in _matching(present, pattern)]
        if matches:
            found[name] = folder / matches[0]
        elif name in needed:
            raise UserError(
                f"source {source.name!r} needs its file {name!r}, and there is no {' or '.join(patterns)} (or the same "
                f"with .gz) below {folder}; it is published at {source.where}"
            )
    if not found:
        wanted = " or ".join(pattern for patterns in source.files.values() for pattern in patterns)
        raise UserError(
            f"source {source.name!r} needs a file, and there is no {wanted} (or the same with .gz) below {folder}; it "
            f"is published at {source.where}"
        )
    return found


def _files_below(folder: Path) -> list[str]:
    try:
        return sorted(
            os.path.relpath(os.path.join(place, name), folder)
            for place, _, names in os.walk(folder, followlinks=True)
            for name in names
        )
    except OSError as error:
        raise UserError(f"cannot look for files below {folder}: {error.strerror}") from error


def _matching(present: Sequence[str], pattern: str) -> list[str]:
    """Relative paths that match in full, or by their last parts; nearest to the folder first, plain before gzip."""

    def matches(path: str) -> bool:
        return any(
            fnmatch.fnmatchcase(path, p) or fnmatch.fnmatchcase(path, f"*/{p}") for p in (pattern, f"{pattern}.gz")
        )

    return sorted(filter(matches, present), key=lambda path: (path.count(os.sep), path.endswith(".gz"), path))


def describe(sources: Sequence[Source]) -> str:
    """What `--list` prints: of each source its role, files, origin, licence and published figures."""
    return "\n\n".join("\n".join(_described(source)) for source in sources)


def _described(source: Source) -> Iterator[str]:
    yield f"{source.name}  ({source.role}: {source.competence})"
    for name, patterns in source.files.items():
        optional = ", optional" if name in source.optional else ""
        yield f"  {'file':<10} {name}{optional}: {' or '.join(patterns)}"
    yield f"  {'from':<10} {source.where}"
    yield f"  {'licence':<10} {source.licence}"
    figures = _figures(source.published)
    if figures:
        yield f"  {'published':<10} {figures}"


def _figures(figures: Published) -> str:
    shown: Mapping[str, float] = {
        "episodes": figures.episodes,
        "chunks per episode": figures.chunks,
        "tokens per chunk": figures.chunk_tokens,
        "questions per episode": figures.questions,
    }
    return ", ".join(f"{value:,g} {what}" for what, value in shown.items() if value)
