"""The published data sets as they are: parquet files of episodes that others have built.

- `memalpha` (training): `YuWangX/Memalpha` on the Hugging Face hub, or `YuWangX/Memalpha-full`: 562 (4,139) episodes of
  the training sources, already chunked.
- `memalpha_test` (evaluation): `YuWangX/Memalpha-Memoryagentbench`: 112 episodes of MemoryAgentBench, already chunked.
  Columns of both: instance_id, prompt, chunks, questions_and_answers, data_source, metadata, num_chunks,
  num_questions; chunks, questions_and_answers and metadata are JSON text.
- `memoryagentbench` (evaluation): `ai-hyz/MemoryAgentBench`, MIT: one parquet file for each of four competences, with
  the columns context (text), questions (list of texts), answers (list of lists of texts) and metadata (struct with
  `source`; some sources also have keypoints, question_types and others). Contexts are whole: they are cut here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from memalpha_jax.episodes.chunkers import Chunker, CountTokens, Unit, sample_chunker, sentence_chunker
from memalpha_jax.episodes.episode import Episode, Question, validate
from memalpha_jax.episodes.memory_agent_bench import ALL_COLUMNS, BenchmarkRow, read_rows
from memalpha_jax.episodes.official import field, typed
from memalpha_jax.episodes.parquet import read_parquet
from memalpha_jax.episodes.source import EVALUATION, TRAINING, BuildOptions, Paths, Published, Source
from memalpha_jax.episodes.wrapping import DOCUMENTS, READING, SAMPLES, Style, Wrapper
from memalpha_jax.errors import UserError

HUB_IDS = {
    "memalpha": "YuWangX/Memalpha",
    "memalpha_test": "YuWangX/Memalpha-Memoryagentbench",
    "memoryagentbench": "ai-hyz/MemoryAgentBench",
}
"""Where the published sets are on the Hugging Face hub, by the name of the source."""
_MEMALPHA_COLUMNS = ("instance_id", "chunks", "questions_and_answers", "data_source", "metadata")
_CHUNK_TOKENS = 2048
_SAMPLE_CHUNK_TOKENS = 1024


def load_memalpha(path: Path) -> Iterator[Episode]:
    """The episodes of a file of `YuWangX/Memalpha*`, chunks as they are. UserError names file, row and field."""
    for row, where in read_parquet(path, _MEMALPHA_COLUMNS):
        chunks = _decoded(row, "chunks", list, where)
        questions = _decoded(row, "questions_and_answers", list, where)
        # Ids are numbers in some of the files and start anew in each source.
        source = field(row, "data_source", str, where)
        episode = Episode(
            instance_id=f"{source}-{_text_or_number(row['instance_id'], f'{where}, column instance_id')}",
            data_source=source,
            chunks=tuple(typed(chunk, str, f"{where}, field 'chunks[{i}]'") for i, chunk in enumerate(chunks)),
            questions=tuple(
                _question(record, f"{where}, field 'questions_and_answers[{i}]'") for i, record in enumerate(questions)
            ),
            metadata=_metadata(row, where),
        )
        yield validate(episode, where)


def _decoded(row: Mapping[str, Any], column: str, kind: type, where: str) -> Any:
    """The value of a column that holds JSON text."""
    text = field(row, column, str, where)
    try:
        return typed(json.loads(text), kind, f"{where}, field '{column}'")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}, field '{column}': not valid JSON ({error})") from None


def _metadata(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {} if row["metadata"] in (None, "", "null") else _decoded(row, "metadata", dict, where)


def _question(record: Any, where: str) -> Question:
    answer = typed(record, dict, where).get("answer")
    if isinstance(answer, list):
        golds: str | tuple[str, ...] = tuple(
            _text_or_number(one, f"{where}.answer[{i}]") for i, one in enumerate(answer)
        )
    else:
        golds = _text_or_number(answer, f"{where}.answer")
    return Question(field(record, "question", str, where), golds)


def _text_or_number(value: Any, where: str) -> str:
    return str(value) if type(value) in (int, float) else typed(value, str, where)


def load_memory_agent_bench(path: Path, options: BuildOptions) -> Iterator[Episode]:
    """The episodes of one file of `ai-hyz/MemoryAgentBench`, cut and wrapped as the sources themselves are.

    Text is cut by sentences into chunks of 2,048 tokens, labelled samples (sources `icl_*`: paragraphs, or lines where
    there are no paragraphs) stay whole in chunks of 1,024. The gold of a summary is its list of key points where there
    is one. UserError names file, row and field.
    """
    for number, row in enumerate(read_rows(path, columns=ALL_COLUMNS), 1):
        episode = Episode(
            instance_id=f"{path.name.split('-')[0]}-{number}",
            data_source=row.source,
            chunks=_bench_chunks(row.context, row.source, options, number),
            questions=tuple(_bench_questions(row)),
        )
        yield validate(episode, row.where)


def _bench_chunks(context: str, source: str, options: BuildOptions, number: int) -> tuple[str, ...]:
    if source.startswith("longmemeval"):  # a dialogue already
        limit = options.chunk_tokens or _CHUNK_TOKENS
        return tuple(chunk.text for chunk in sentence_chunker(limit, options.count_tokens)([Unit(context)]))
    samples = source.startswith("icl_")
    wrapper = Wrapper(_style(source), options.count_tokens)
    limit = options.chunk_tokens or (_SAMPLE_CHUNK_TOKENS if samples else _CHUNK_TOKENS)
    cut: Callable[[int, CountTokens], Chunker] = sample_chunker if samples else sentence_chunker
    parts = [context]
    if samples:
        parts = re.split(r"\n[^\S\n]*\n", context)
        parts = parts if len(parts) > 1 else context.splitlines()
    chunks = cut(limit, wrapper.count_tokens)([Unit(part) for part in parts])
    rng = np.random.default_rng([options.seed, number])
    return tuple(wrapped.text for wrapped in wrapper.wrap([chunk.text for chunk in chunks], rng))


def _style(source: str) -> Style:
    if source.startswith("icl_"):
        return SAMPLES
    return READING if source.startswith(("infbench", "eventqa")) else DOCUMENTS


def _bench_questions(row: BenchmarkRow) -> Iterator[Question]:
    kinds = row.metadata.get("question_types") or []
    keypoints = tuple(row.metadata.get("keypoints") or ()) if row.source.startswith("infbench_sum") else ()
    for i, (question, golds) in enumerate(row.questions):
        kind = kinds[i] if len(kinds) == len(row.questions) and isinstance(kinds[i], str) else "qa"
        yield Question(question, tuple(dict.fromkeys(keypoints)) or golds, kind)


def _load_memalpha(paths: Paths, options: BuildOptions) -> Iterator[Episode]:
    del options  # the episodes are finished
    for path in paths.values():
        yield from load_memalpha(path)


def _load_memory_agent_bench(paths: Paths, options: BuildOptions) -> Iterator[Episode]:
    for path in paths.values():
        yield from load_memory_agent_bench(path, options)


_BENCH_FILES = ("Accurate_Retrieval", "Test_Time_Learning", "Long_Range_Understanding", "Conflict_Resolution")
SOURCES = (
    Source(
        name="memalpha",
        role=TRAINING,
        competence="accurate retrieval",
        files={"episodes": ("train/*.parquet", "train*.parquet")},
        where="https://huggingface.co/datasets/YuWangX/Memalpha",
        licence="none stated; those of its sources",
        load=_load_memalpha,
        published=Published(episodes=562),
    ),
    Source(
        name="memalpha_test",
        role=EVALUATION,
        competence="accurate retrieval",
        files={"episodes": ("test/*.parquet", "test*.parquet", "Memalpha-Memoryagentbench*.parquet")},
        where="https://huggingface.co/datasets/YuWangX/Memalpha-Memoryagentbench",
        licence="none stated; those of its sources",
        load=_load_memalpha,
        published=Published(episodes=112),
    ),
    Source(
        name="memoryagentbench",
        role=EVALUATION,
        competence="accurate retrieval",
        files={name.lower(): (f"{name}-*.parquet", f"{name}.parquet") for name in _BENCH_FILES},
        where="https://huggingface.co/datasets/ai-hyz/MemoryAgentBench",
        licence="MIT; those of its sources",
        load=_load_memory_agent_bench,
        published=Published(episodes=146),
        optional=frozenset(name.lower() for name in _BENCH_FILES),
    ),
)
