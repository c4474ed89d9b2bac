"""Keywords of a summary: what they are, in which order, and against scipy's log-likelihood ratio."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import power_divergence

from memalpha_jax.episodes.keywords import extract_keywords
from memalpha_jax.rewards.metrics import score

TEXT = (
    "The old harbour was quiet that night. Captain Anna Berg looked at the lighthouse and thought of her brother, "
    "who had gone to Oslo. The lighthouse keeper, a man whom people called Old Tom, lit his lamp. The night went on, "
    "and the people of the harbour slept. In the morning the ship had gone, and the people looked for it all day. "
    "A ship without a captain, Old Tom said, is a ship that looks for trouble. The people did not answer him."
)
SUMMARY = (
    "Anna Berg's ship disappears from the harbour. The lighthouse keeper, Old Tom, warns of trouble: ships without a "
    "captain, he says, find it. Zanzibar is mentioned nowhere."
)
WORDS = st.lists(
    st.sampled_from([*TEXT.split(), *SUMMARY.split(), "née", "数据", "a,b;c", "\u2019s", "J.", "1990"]), max_size=60
)


def words(text: str) -> list[str]:
    return [re.sub(r"['’]s$|['’]$", "", word) for word in re.findall(r"\w+(?:['’-]\w+)*", text.lower())]


def test_names_and_telling_words_of_the_summary_that_the_text_holds():
    found = extract_keywords(SUMMARY, TEXT, 20)
    assert {"Anna Berg", "lighthouse", "harbour", "keeper", "trouble"} <= set(found)
    assert any("Tom" in keyword for keyword in found)
    assert not {"Zanzibar", "disappears", "mentioned", "without", "The", "Anna Berg's"} & set(found)
    assert sum(keyword.lower().startswith("ship") for keyword in found) == 1
    assert found[:3] == extract_keywords(SUMMARY, TEXT, 3)
    assert score("booksum", TEXT, found) == 1
    assert score("booksum", "Nothing at all.", found) == 0


def test_the_order_is_that_of_the_log_likelihood_ratio():
    found = extract_keywords(SUMMARY, TEXT, 50)
    told, read = words(SUMMARY), words(TEXT)

    def ratio(keyword: str) -> float:
        phrase = f" {keyword.lower()} "
        a = f" {' '.join(told)} ".count(phrase)
        b = f" {' '.join(read)} ".count(phrase)
        share = (a + b) / (len(told) + len(read))
        expected = [len(told) * share, len(read) * share]
        assert a > expected[0]  # used more than in the text
        return power_divergence([a, b], expected, lambda_="log-likelihood").statistic

    ratios = [ratio(keyword) for keyword in found]
    assert len(ratios) > 5
    assert ratios == pytest.approx(sorted(ratios, reverse=True))


def test_a_rare_word_comes_before_a_common_one_and_nothing_common_is_nothing():
    text = "the cook made soup " * 50 + "and once a casserole"
    assert extract_keywords("A cook made a casserole", text, 1) == ("casserole",)
    assert extract_keywords("", text, 5) == extract_keywords("casserole", "", 5) == ()
    assert extract_keywords("Quantum physics", text, 5) == ()
    assert extract_keywords(SUMMARY, TEXT, 0) == ()


def test_only_a_space_joins_the_words_of_a_name():
    text = "They met J. Smith and Mr. Brown in New York. Berlin was far away, Hong\nKong too."
    found = extract_keywords("They saw J. Smith and Mr. Brown leave New York. Berlin waited, Hong\nKong not.", text, 9)
    assert {"Smith", "Brown", "New York", "Berlin", "Hong", "Kong"} == set(found) - {"waited"}


@settings(deadline=None, max_examples=80)
@given(WORDS.map(" ".join), WORDS.map(" ".join), st.integers(0, 8))
def test_keywords_are_few_distinct_and_in_both(summary, text, limit):
    found = extract_keywords(summary, text, limit)
    assert found == extract_keywords(summary, text, limit)
    assert len(found) <= limit
    lowered = [keyword.lower() for keyword in found]
    assert len(set(lowered)) == len(lowered)
    told, read = f" {' '.join(words(summary))} ", f" {' '.join(words(text))} "
    for keyword in lowered:
        assert f" {keyword} " in told
        assert f" {keyword} " in read
        assert not set(",;") & set(keyword)
