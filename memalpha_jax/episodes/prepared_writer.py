"""Writing prepared episodes: a TFDS builder over given records, in array_record files, without TensorFlow."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core.utils import shard_utils

from memalpha_jax.episodes import prepared

NAME = "memalpha"
MIB = 1 << 20
Rows = Iterable[tuple[str, str]]
"""The episodes of a split: a key that is unique there, and the text made by `prepared.to_record`."""


class MemalphaBuilder(tfds.core.GeneratorBasedBuilder):
    """Memory-construction episodes, in the order of a hash of their keys: the files depend on the episodes alone."""

    VERSION = tfds.core.Version(prepared.VERSION)
    RELEASE_NOTES = {prepared.VERSION: "episodes with the token count of each chunk"}  # noqa: RUF012  read by TFDS as it is
    name = NAME

    def __init__(self, splits: Mapping[str, Rows], **kwargs):
        self._rows = splits
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, description=self.__class__.__doc__, features=prepared.features())

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(rows) for split, rows in self._rows.items()}

    def _generate_examples(self, rows: Rows) -> Iterator[tuple[str, dict[str, str]]]:
        return ((key, {prepared.FIELD: record}) for key, record in rows)


@dataclasses.dataclass(eq=True, frozen=True)
class _Sharding(shard_utils.ShardConfig):
    """As many shards as are needed for `shard_bytes` each. TFDS itself does not heed a size that it is given."""

    shard_bytes: int = 0

    def get_number_shards(self, total_size: int, num_examples: int, uses_precise_sharding: bool = True) -> int:
        del uses_precise_sharding  # there is always exactly this number
        return min(num_examples, -(-total_size // self.shard_bytes))


@dataclasses.dataclass
class _Config(tfds.download.DownloadConfig):
    shard_bytes: int = 0

    def get_shard_config(self) -> shard_utils.ShardConfig:
        return _Sharding(shard_bytes=self.shard_bytes)


def write_prepared(folder: Path, splits: Mapping[str, Rows], shard_mb: int) -> None:
    """Writes `folder` anew: array_record shards of at most about `shard_mb` MiB per split, and TFDS' descriptions.

    `folder` must not be a final name: it is there before it is complete.

    Raises:
      OSError: the disk is full, not writable and the like; the writer of array_record raises RuntimeError.
    """
    made = folder.with_name(f"{folder.name}.tfds")
    for old in (folder, made):
        shutil.rmtree(old, ignore_errors=True)
    builder = MemalphaBuilder(splits, data_dir=made)
    config = _Config(shard_bytes=shard_mb * MIB, try_download_gcs=False)
    # Without a terminal the bars would fill pages. What TFDS says names a folder that is moved afterwards.
    (tfds.enable_progress_bar if sys.stderr.isatty() else tfds.disable_progress_bar)()
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_dir=made / "downloads", download_config=config)
    finally:
        logging.set_verbosity(verbosity)
    Path(builder.data_dir).rename(folder)
    shutil.rmtree(made)
