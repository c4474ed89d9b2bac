"""InfiniteBench's En.Sum: whole novels with changed names, each read over many days and then summarised.

Official file: `longbook_sum_eng.jsonl` of huggingface.co/datasets/xinrongzhang2022/InfiniteBench (arXiv 2402.13718),
licence Apache-2.0. A line is one of 103 books of about 170,000 tokens: `id`, `context`, `input` (empty), `answer` (a
list with the summary) and `options` (empty). One episode per book, with one question for the keywords of the summary.
"""

from __future__ import annotations

from collections.abc import Iterator

from memalpha_jax.episodes.episode import Episode
from memalpha_jax.episodes.official import field, read_jsonl, typed
from memalpha_jax.episodes.reading import WHOLE_TEXT, Asked, reading_episode
from memalpha_jax.episodes.source import EVALUATION, BuildOptions, Paths, Published, Source
from memalpha_jax.errors import UserError


def load_infbench_sum(paths: Paths, options: BuildOptions) -> Iterator[Episode]:
    """One episode per book of `paths["books"]`; `UserError` names file, line and field of a fault."""
    for record, where in read_jsonl(paths["books"]):
        answers = [typed(a, str, f"{where}, answer[{i}]") for i, a in enumerate(field(record, "answer", list, where))]
        asked = [Asked(WHOLE_TEXT, "\n".join(answers))]
        name = f"infbench_sum-{record.get('id')}"
        episode = reading_episode(name, "infbench_sum", field(record, "context", str, where), asked, options)
        if episode is None:
            raise UserError(f"{where}: field 'answer' shares no word with field 'context', so nothing can be asked")
        yield episode


SOURCES = (
    Source(
        name="infbench_sum",
        role=EVALUATION,
        competence="long-range understanding",
        files={"books": ("longbook_sum_eng.jsonl",)},
        where="huggingface.co/datasets/xinrongzhang2022/InfiniteBench",
        licence="Apache-2.0",
        load=load_infbench_sum,
        published=Published(episodes=100, chunks=88.9, chunk_tokens=2034.1, questions=1.0),
    ),
)
