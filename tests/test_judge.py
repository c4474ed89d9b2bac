"""The rules judge: what each kind of memory is for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memalpha_jax.episodes import generated
from memalpha_jax.memory.state import MemoryType
from memalpha_jax.rewards.judge import JudgeQuery, RulesJudge

JUDGE = RulesJudge()
CORE, EPISODIC, SEMANTIC = MemoryType.CORE, MemoryType.EPISODIC, MemoryType.SEMANTIC


@pytest.mark.parametrize(
    ("text", "episodic", "semantic"),
    [
        ("Kelora lives in Vordale.", False, True),
        ("Note: Kelora lives in Vordale", False, True),
        ("Correction: Kelora lives in Tavdale.", False, True),
        ("Kelora lives in Tavdale now.", False, True),
        ("Known: zorim is a bird.", False, True),
        ("Sample: zorim book Label: 7", False, True),
        ("Sample: what time is it? Label: 7", False, True),
        ("The Amazon is the largest river by discharge.", False, True),
        ("Edison invented the phonograph in New Jersey.", False, True),
        ("Ada's birthday is 3 May.", True, True),
        ("Rome was founded in 753 BC.", False, True),
        ("Paris hosted the Olympic Games in 1924.", True, True),
        ("On 3 May Kelora met Tavin.", True, False),
        ("Kelora met Tavin on 3 May.", True, False),
        ("[2023-05-08] Caroline went to a support group.", True, False),
        ("Yesterday Melanie ran a charity race.", True, False),
        ("Melanie is running a race tomorrow at 10:30.", True, True),
        ("Kelora lives where?", False, False),
        ("Sample: zorim book Label: ?", False, False),
        ("What a lovely evening it was!", False, False),
        ("Haha, Kelora looks funny.", False, False),
        ("Well, Kelora smiled at Tavin.", False, False),
        ("Kelora smiled at Tavin.", False, False),
        ("Kelora looks happy.", False, False),
        ("Hello, nice to meet you.", False, False),
        ("On 3 May", False, False),
        ("3 May 2023 at 10:30", False, False),
        ("bird", False, False),
        ("", False, False),
        ("[insert fact here]", False, False),
        ("No information available yet.", False, False),
    ],
)
def test_lists(text, episodic, semantic):
    assert JUDGE.verdict(EPISODIC, text) is episodic
    assert JUDGE.verdict(SEMANTIC, text) is semantic


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("The user is Kelora, a baker who lives in Vordale.", True),
        ("Prefers short answers; has no pets.", True),
        ("", False),
        ("empty", False),
        ("Core memory is empty", False),
        ("N/A", False),
        ("[user profile goes in this spot]", False),
        ("No information available yet.", False),
        ("This is a placeholder for the user's profile", False),
        ("To be added later on", False),
    ],
)
def test_core(text, good):
    assert JUDGE.verdict(CORE, text) is good


def test_generated_sentences_belong_where_their_kind_says():
    for episode in generated.generate_episodes(generated.WorldConfig(), "train", 80):
        for line in (line for chunk in generated.sentences(episode) for line in chunk):
            event = line.kind.startswith("event")
            assert JUDGE.verdict(EPISODIC, line.text) is event, line
            assert JUDGE.verdict(SEMANTIC, line.text) is (line.useful and not event), line


def test_verdicts_are_in_order_and_unknown_types_are_refused():
    queries = [
        JudgeQuery(SEMANTIC, "Kelora lives in Vordale."),
        JudgeQuery(EPISODIC, "Kelora lives in Vordale."),
    ]
    assert JUDGE.verdicts(queries) == [True, False]
    assert JUDGE.verdicts([]) == []
    assert JUDGE.verdict(7, "Kelora lives in Vordale.") is False


@given(st.integers(-1, 3), st.text(max_size=200))
def test_any_text_gets_a_plain_verdict(memory_type, text):
    assert JUDGE.verdict(memory_type, text) in (True, False)
