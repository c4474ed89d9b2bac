"""A seal on a directory: its files with sizes and checksums, by which damage shows before it is read."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

from memalpha_jax.workdir import atomic_write

SEAL = "files.json"
_BLOCK_BYTES = 1 << 20


def seal(directory: Path, parts: Sequence[str]) -> None:
    """Writes the seal over the subdirectories `parts` of `directory`, which then counts as complete."""
    paths = {name: path for name, path in _files(directory).items() if name.split("/")[0] in parts}
    files = {name: [path.stat().st_size, _crc32(path)] for name, path in paths.items()}
    atomic_write(directory / SEAL, json.dumps(files, indent=1))


def fault(directory: Path) -> str | None:
    """What is wrong with a sealed directory in a few words, None when every file is as it was sealed."""
    try:
        sealed = json.loads((directory / SEAL).read_bytes())
    except FileNotFoundError:
        return "it was never finished"
    except (OSError, ValueError):
        return f"{SEAL} cannot be read"
    if not isinstance(sealed, dict):
        return f"{SEAL} cannot be read"
    present = _files(directory)
    for name, record in sealed.items():
        if name not in present:
            return f"{name} is missing"
        try:
            if [present[name].stat().st_size, _crc32(present[name])] != record:
                return f"{name} has changed"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return None


def _files(directory: Path) -> dict[str, Path]:
    found = (path for path in directory.rglob("*") if path.is_file() and path.name != SEAL)
    return {path.relative_to(directory).as_posix(): path for path in sorted(found)}


def _crc32(path: Path) -> int:
    crc = 0
    with open(path, "rb") as handle:
        while block := handle.read(_BLOCK_BYTES):
            crc = zlib.crc32(block, crc)
    return crc
