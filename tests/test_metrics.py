"""Scores per data source, each row a case of the table they implement."""

import itertools
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memalpha_jax.episodes.episode import Episode, Question
from memalpha_jax.errors import UserError
from memalpha_jax.rewards import metrics
from memalpha_jax.rewards.metrics import score
from memalpha_jax.rewards.rouge import references, rouge_l

TABLE = [
    # source, answer, gold, score, published score
    ("squad", "It was DENVER, of course.", "Denver", 1, 1),
    ("squad", "Den ver", "Denver", 0, 0),
    ("squad", "second", ["first", "second"], 0, 0),  # only the first gold counts
    ("squad", "Super Bowl 50", " 50 ", 1, 1),
    ("squad", "", "50", 0, 0),
    ("hotpotqa", "yes, both", "Yes", 1, 1),
    ("hotpotqa", "The Beatles", "Beatles, The", 0, 0),  # nothing is normalised
    ("ruler_qa1", "the  Broncos!", ["Panthers", "Denver Broncos", "The Broncos."], 1, 1),
    ("ruler_qa2", "Carolina", ["Panthers", "Broncos"], 0, 0),
    ("ruler_qa1", "it is B", ["The"], 0, 0),  # normalises to nothing, which proves nothing
    ("ruler_qa1_197K", "the answer: U.S.A", "a USA", 1, 1),
    ("ruler_qa2_421K", "Panthers", ["None of these", "a Panther"], 1, 1),  # a part of a word is enough
    ("factconsolidation_mh_32k", "Paris; later rome", "Rome", 1, 1),
    ("factconsolidation_sh_6k", "Paris", ["Rome"], 0, 0),
    ("perltqa", "Hiking with Anna", "hiking;anna;Rome;tea", 0.5, 0),
    ("perltqa", "hiking with anna", "Hiking; Anna", 1, 1),
    ("perltqa", "ANNA", ["anna; ;", "not looked at"], 1, 0),
    ("nlu", r"The answer is \boxed{12}.", "12", 1, 1),
    ("nlu", r"\boxed{3} or \boxed{12}", "12", 0, 0),  # the first box
    ("nlu", "12", "12", 1, 1),
    ("nlu", " '12' ", r"\boxed{12}", 1, 1),
    ("trec_coarse", "it is 4", "4", 0, 0),
    ("trec_fine", r'\boxed{" 7 "}', "7", 1, 1),
    ("banking77", r"\boxed{07}", "7", 0, 0),
    ("clinic150", r"\boxed{seven}", "seven", 0, 0),  # must be digits
    ("pubmed_rct", r"\boxed{0}", 0, 1, 1),
    ("booksum", "Ahab hunts the WHALE", "whale, Ahab, Pequod, Ishmael", 0.5, 0.5),
    ("infbench_sum", "Ahab hunts the whale", ["Whale", "Queequeg"], 0.5, 0.5),
    ("banking77", "\u201c 7 \u201d", "7", 1, 1),
    ("clinic150", r"\boxed{}", "7", 0, 0),
    ("clinic150", r"\boxed {7}", "7", 1, 1),
    ("pubmed_rct", r"<think>\boxed{1}</think>\boxed{0}", "0", 1, 1),
    ("trec_fine", r"\boxed{-7}", "-7", 0, 0),
    ("booksum", "", ["whale"], 0, 0),
    ("infbench_sum_eng", "Queequeg, whaler", "WHALE , queequeg ,", 1, 1),  # a part of a word is enough
    ("squality", "a robot and its maker", ["Robot", "moon"], 0.5, 0.5),
    ("generated_summary", "oak and elm", ["oak", "fir"], 0.5, 0.5),
    ("generated_rules", r"it is \boxed{3}", "3", 1, 1),
    ("generated_rules", "it is 3", "3", 0, 0),
    ("generated_totals", "17 crates", "17", 0, 1),
    ("generated", "the Vordale.", "Vordale", 1, 1),
    ("generated", "Vordale or Tavdale", "Vordale", 0, 1),
    ("generated", "Vordalex", "Vordale", 0, 0),
    ("generated", r"\boxed{7}", "7", 1, 1),
    ("generated", "7", "7", 1, 1),
    ("generated", r"\boxed{7, 3}", "7", 0, 0),
    ("generated", "", "7", 0, 0),
    ("musique", "in New York", ["Boston", "New York"], 0.8, 0.8),
    ("eventqa_full", "Next, HE MEETS Anna.", ["he meets Anna"], 1, 1),
    ("eventqa_full", "he meets Anna", ["he meets Anna", "she leaves"], 0, 0),  # all of them
    ("locomo", "7 May 2023", "7 May", 0.8, 0.8),
    ("locomo", "nothing", ["7 May", "a nothing"], 1, 1),
]


@pytest.mark.parametrize(("source", "answer", "gold", "expected", "published"), TABLE)
def test_score_table(source, answer, gold, expected, published):
    assert score(source, answer, gold) == pytest.approx(expected)
    assert score(source, answer, gold, published=True) == pytest.approx(published)


@pytest.mark.parametrize(
    ("reply", "expected", "published"),
    [
        ("Yes", 1, 1),
        ("yes, it acknowledges the date", 1, 0),  # "no" inside "acknowledges"
        ("**Yes.**", 1, 1),
        ("No, although yes would be kind", 0, 0),
        ("The answer is yes", 0, 1),
        ("", 0, 0),
        ("<think>no</think> yes", 1, 1),
        ("<think>yes", 0, 0),
    ],
)
@pytest.mark.parametrize("source", ["longmemeval_s*", "lme_train", "msc"])
def test_judged_sources_read_the_verdict(source, reply, expected, published):
    assert score(source, "an answer", "a gold", verdict=reply) == expected
    assert score(source, "an answer", "a gold", published=True, verdict=reply) == published


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("ruler_qa1_197K", "ruler"),
        ("ruler_qa2_421K", "ruler"),
        ("longmemeval_s*", "longmemeval"),
        ("longmemeval_s_-1_500", "longmemeval"),
        ("icl_banking77_5900shot_balance", "banking77"),
        ("icl_clinic150_7050shot_balance", "clinic150"),
        ("icl_nlu_8296shot_balance", "nlu"),
        ("icl_trec_coarse_6600shot_balance", "trec_coarse"),
        ("icl_trec_fine_6400shot_balance", "trec_fine"),
        ("infbench_sum_eng_shots2", "infbench_sum"),
        ("factconsolidation_sh_262k", "factconsolidation"),
        ("Pubmed-RCT", "pubmed_rct"),
        ("squad", "squad"),
        ("eventqa_65536", "eventqa"),
        ("generated", "generated"),
    ],
)
def test_aliases(name, known):
    assert metrics.canonical_source(name) == known


@pytest.mark.parametrize("name", ["", "squadron", "eventqas", "squa"])
def test_unknown_source_lists_the_known_ones(name):
    with pytest.raises(UserError, match=r"squad, hotpotqa, .*generated"):
        score(name, "a", "b")


def test_judged_source_without_verdict_is_an_error_not_a_zero():
    with pytest.raises(UserError, match="grader"):
        score("longmemeval_s*", "a", "b")


@pytest.mark.parametrize("gold", ["", "  ", [], ["", " "]])
@pytest.mark.parametrize("source", ["squad", "ruler_qa1", "perltqa", "nlu", "booksum", "generated", "locomo"])
def test_empty_gold_is_an_error(source, gold):
    with pytest.raises(UserError, match="empty"):
        score(source, "answer", gold)


def test_every_source_has_a_worked_example():
    shown = {metrics.canonical_source(row[0]) for row in TABLE} | {"longmemeval", "lme_train", "msc"}
    assert shown == set(metrics.KNOWN_SOURCES)


@pytest.mark.parametrize("gold", [None, True, {"a": 1}, {"a"}, ["a", None], [["a"]], b"a"])
@pytest.mark.parametrize("source", ["squad", "ruler_qa1", "perltqa", "nlu", "booksum", "generated", "locomo"])
def test_a_gold_of_the_wrong_type_is_an_error(source, gold):
    with pytest.raises(UserError, match="it must be a string, a number, or a list"):
        score(source, "answer", gold)


def test_thinking_is_not_an_answer():
    assert score("squad", "<think>Denver</think>Paris", "Denver") == 0
    assert score("squad", "<think>Paris</think> Denver", "Denver") == 1
    assert score("squad", "Denver <think> maybe Denver", "Denver") == 0
    assert score("nlu", r"<think>\boxed{3}</think>\boxed{4}", "4") == 1
    assert metrics.strip_thinking("a</think>b</think>c") == "c"


@given(st.text(alphabet="aAtheN nT.,!;'\n-" + "é"))
def test_normalise_against_its_definition(text):
    kept = "".join(character for character in text.lower() if character not in string.punctuation)
    assert metrics.normalise(text) == " ".join(word for word in kept.split() if word not in ("a", "an", "the"))


@given(
    st.sampled_from(metrics.KNOWN_SOURCES),
    st.text(max_size=60),
    st.text(min_size=1, max_size=20),
    st.booleans(),
)
def test_scores_lie_in_the_unit_interval(source, answer, gold, published):
    if not gold.replace(";", "").replace(",", "").strip():
        return
    assert 0 <= score(source, answer, gold, published, verdict=answer) <= 1


@given(st.integers(0, 200), st.integers(0, 200))
def test_boxed_integers(label, gold):
    expected = float(label == gold)
    assert score("nlu", f"I think \\boxed{{ {label} }}", str(gold)) == expected
    assert score("nlu", str(label), gold) == expected


def lcs(one: list[str], other: list[str]) -> int:
    """The longest common subsequence, as it is defined: the longest of all subsequences of the one."""
    subsequences = (s for n in range(len(one) + 1) for s in itertools.combinations(one, n))
    inside = lambda words: all(word in rest for rest in [iter(other)] for word in words)
    return max(len(words) for words in subsequences if inside(words))


LETTERS = st.lists(st.sampled_from(["x1", "y2", "z3"]), max_size=6)


@settings(deadline=None)  # the first call imports the library
@given(LETTERS, st.lists(LETTERS, min_size=1, max_size=3))
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(answer, texts):
    expected = max(2 * lcs(answer, text) / (len(answer) + len(text)) if answer and text else 0 for text in texts)
    found = rouge_l("<think>x1</think>" + " ".join(answer), [" ".join(text) for text in texts])
    assert found == pytest.approx(expected)


def test_rouge_is_for_questions_that_people_answered_at_length():
    question, other = Question("What happens?", ("whale",)), Question("Else?", ("whale",))
    told = {"long_answers": {"What happens?": "A whale.\nAhab dies."}}
    assert references(Episode("e", "squality", (), (), told), question) == ["A whale.", "Ahab dies."]
    assert references(Episode("e", "booksum", (), (), told), question) == ["A whale.\nAhab dies."]
    assert references(Episode("e", "booksum", (), (), told), other) == []
    assert references(Episode("e", "squad", (), ()), question) == []
