"""How an answer is scored: one rule per data source, reached through `score`."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

from memalpha_jax.errors import UserError

Gold = str | int | float | Sequence[str]

_BOXED = re.compile(r"\\boxed\s*\{([^{}]*)\}")
_DIGITS = re.compile(r"[0-9]+")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_QUOTES_AND_SPACES = "\"'`\u2018\u2019\u201c\u201d \t\r\n"


def strip_thinking(answer: str) -> str:
    """The text after the last `</think>`; a `<think>` that never closes leaves no answer at all."""
    visible = answer.rpartition("</think>")[2]
    return "" if "<think>" in visible else visible


@lru_cache(maxsize=65536)
def normalise(text: str) -> str:
    """Lower case, no ASCII punctuation, no a/an/the, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def boxed(text: str) -> str | None:
    r"""The content of the first `\boxed{..}`, without surrounding spaces; None where there is none."""
    match = _BOXED.search(text)
    return match.group(1).strip() if match else None


def golds(gold: Gold) -> list[str]:
    """A gold answer as a list of acceptable strings; an empty one, or one that is no text, raises `UserError`."""
    values = list(gold) if isinstance(gold, (list, tuple)) else [gold]
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise UserError(
                f"the gold answer {gold!r} holds {value!r}, a {type(value).__name__}; it must be a string, a number, "
                "or a list of such"
            )
    texts = [str(value) for value in values if str(value).strip()]
    if not texts:
        raise UserError(f"the gold answer {gold!r} is empty, so nothing can be scored against it; drop that question")
    return texts


def keywords(gold: Gold) -> list[str]:
    """Keyword golds, a list or one comma-separated string, lower-cased."""
    parts = gold.split(",") if isinstance(gold, str) else golds(gold)
    return golds([part.strip().lower() for part in parts])


def _first_gold_inside(answer: str, gold: Gold, published: bool) -> float:
    """squad, hotpotqa: the lower-cased gold is a substring of the lower-cased answer."""
    return float(golds(gold)[0].strip().lower() in answer.lower())


def _normalised_gold_inside(answer: str, gold: Gold, published: bool) -> float:
    """ruler_*, factconsolidation: a normalised gold inside the normalised answer, the best of all golds."""
    return float(gold_inside(answer, golds(gold)))


def gold_inside(answer: str, gold_texts: Sequence[str]) -> bool:
    """Whether one of the golds, normalised, is a substring of the normalised answer."""
    inside = normalise(answer)
    # A gold made only of articles or punctuation normalises to "", which every string contains.
    return any((normalise(one) or one.strip().lower()) in inside for one in gold_texts)


def _parts_found(answer: str, gold: Gold, published: bool) -> float:
    """perltqa: share of the gold's ";"-separated parts that occur; published leaves the answer unlowered."""
    parts = golds([part.strip().lower() for part in golds(gold)[0].split(";")])
    place = answer if published else answer.lower()
    return sum(part in place for part in parts) / len(parts)


def _boxed_integer(answer: str, gold: Gold, published: bool) -> float:
    r"""Classification: the first `\boxed{..}`, else the whole answer, must be digits and equal the gold."""
    wanted, label = _label(golds(gold)[0]), _label(answer)
    return float(_DIGITS.fullmatch(label) is not None and label == wanted)


def _label(text: str) -> str:
    content = boxed(text)
    return (text if content is None else content).strip(_QUOTES_AND_SPACES)


def _keywords_found(answer: str, gold: Gold, published: bool) -> float:
    """booksum, infbench_sum, squality: share of the gold keywords that occur in the lower-cased answer."""
    place, wanted = answer.lower(), keywords(gold)
    return sum(word in place for word in wanted) / len(wanted)


def _token_f1(answer: str, gold: Gold, published: bool) -> float:
    """locomo, musique: F1 of the normalised words, the best of all golds."""
    return max(_f1(normalise(answer).split(), normalise(one).split()) for one in golds(gold))


def _f1(answer: list[str], gold: list[str]) -> float:
    common = (Counter(answer) & Counter(gold)).total()
    return 2 * common / (len(answer) + len(gold)) if common else 0.0


def _all_golds_inside(answer: str, gold: Gold, published: bool) -> float:
    """eventqa: every lower-cased gold is a substring of the lower-cased answer."""
    place = answer.lower()
    return float(all(one.strip().lower() in place for one in golds(gold)))


def _one_value(answer: str, gold: Gold, published: bool) -> float:
    """generated: the normalised answer equals a gold, so a second value beside it is wrong.

    Published scoring is lenient: the gold's words need only occur in the answer, whatever stands beside them.
    """
    content = boxed(answer)
    given = normalise(answer if content is None else content)
    for one in golds(gold):
        wanted = normalise(one if boxed(one) is None else boxed(one) or "")
        inside = published and content is None and f" {wanted} " in f" {given} "
        if wanted and (given == wanted or inside):
            return 1.0
    return 0.0


def read_verdict(reply: str, published: bool = False) -> float:
    """An LLM judge's yes/no, from the first word of its reply.

    Published takes "yes" anywhere with no "no" anywhere, so that "Yes, it acknowledges .." counts as a no.
    """
    text = strip_thinking(reply).lower()
    if published:
        return float("yes" in text and "no" not in text)
    word = re.search(r"[a-z]+", text)
    return float(word is not None and word.group() == "yes")


_Rule = Callable[[str, Gold, bool], float]
_RULES: dict[str, _Rule | None] = {  # None: graded by an LLM judge
    "squad": _first_gold_inside,
    "hotpotqa": _first_gold_inside,
    "ruler": _normalised_gold_inside,
    "factconsolidation": _normalised_gold_inside,
    "perltqa": _parts_found,
    # Before "generated", which stands for every other generated_*.
    "generated_rules": _boxed_integer,
    "generated_summary": _keywords_found,
    "generated_totals": _one_value,
    "pubmed_rct": _boxed_integer,
    "nlu": _boxed_integer,
    "trec_coarse": _boxed_integer,
    "trec_fine": _boxed_integer,
    "banking77": _boxed_integer,
    "clinic150": _boxed_integer,
    "booksum": _keywords_found,
    "infbench_sum": _keywords_found,
    "squality": _keywords_found,  # it stands in for the two above; its own papers report ROUGE
    "longmemeval": None,
    "lme_train": None,
    "locomo": _token_f1,
    # The answer F1 of the official scorer (StonyBrookNLP/musique), the best of the answer and its aliases.
    "musique": _token_f1,
    # "eventqa_recall" of MemoryAgentBench's scorer (HUST-AI-HYZ/MemoryAgentBench, utils/eval_other_utils.py).
    "eventqa": _all_golds_inside,
    "msc": None,  # MemGPT's deep memory retrieval, arXiv 2310.08560, section 3.1: accuracy by an LLM judge
    "generated": _one_value,
}
KNOWN_SOURCES = tuple(_RULES)


@lru_cache(maxsize=1024)
def find_source(data_source: str) -> str | None:
    """The source behind a name, e.g. `banking77` for `icl_banking77_5900shot_balance`; None if unknown."""
    name = data_source.strip().lower().replace("-", "_").removeprefix("memoryagentbench_").removeprefix("icl_")
    matches = (known for known in _RULES if re.fullmatch(rf"{known}(?:[^a-z0-9].*)?", name, re.DOTALL))
    return next(matches, None)


def canonical_source(data_source: str) -> str:
    """As `find_source`, but an unknown name raises `UserError` listing the known ones."""
    known = find_source(data_source)
    if known is not None:
        return known
    raise UserError(
        f"no scoring rule for data source {data_source!r}; name it after one of {', '.join(KNOWN_SOURCES)} "
        "(what follows the name after an underscore is free)"
    )


def is_classification(data_source: str) -> bool:
    r"""True where the answer is a `\boxed{n}` label."""
    return _RULES.get(find_source(data_source) or "") is _boxed_integer


def needs_grader(data_source: str) -> bool:
    """True where an LLM judge grades the answer; its reply is then handed to `score` or `read_verdict`."""
    return _RULES[canonical_source(data_source)] is None


def score(data_source: str, answer: str, gold: Gold, published: bool = False, verdict: str | None = None) -> float:
    """The score in [0, 1] of one answer under its source's rule.

    Args:
      data_source: a known source or an alias of one (`canonical_source`).
      answer: the reader's answer; thinking is removed first.
      gold: a string or a list; keyword sources take a list or a comma-separated string.
      published: reproduce the released scoring where it differs (perltqa, LLM-judged sources, generated).
      verdict: the reply of the LLM judge, for the sources `needs_grader` names; ignored elsewhere.

    Raises:
      UserError: unknown source, empty gold, or no verdict where one is needed.
    """
    rule = _RULES[canonical_source(data_source)]
    if rule is not None:
        return rule(strip_thinking(answer), gold, published)
    if verdict is None:
        raise UserError(
            f"data source {data_source!r} is graded by an LLM judge, but no judge's reply was given; "
            "configure a grader or leave this source out"
        )
    return read_verdict(verdict, published)
