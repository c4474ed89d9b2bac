"""Reading other people's parquet files, row by row, as `official` reads JSON and CSV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from memalpha_jax.errors import UserError

_ROWS_AT_ONCE = 16  # a row of MemoryAgentBench may hold megabytes


def read_parquet(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every row of a parquet file, cut to `columns`, with its place, "FILE, row N", counting from 1.

    A column "a.b" is the field b of the struct a, and alone is read of it.
    UserError for a file that is no parquet or damaged, a missing column, and a file without rows.
    """
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            missing = [name for name in columns if name.split(".")[0] not in file.schema_arrow.names]
            if missing:
                raise UserError(f"{path}: no column {missing[0]!r} in {file.schema_arrow.names}")
            number = 0
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=list(columns)):
                for row in batch.to_pylist():
                    number += 1
                    yield row, f"{path}, row {number}"
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"cannot read {path} as parquet: {str(error).strip().splitlines()[0]}") from None
    if not number:
        raise UserError(f"{path} has columns and no rows")
