"""The extractive reader: what it may and may not get out of a memory."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memalpha_jax.episodes import generated
from memalpha_jax.rewards.metrics import score
from memalpha_jax.rewards.reader import ExtractiveReader, ReaderQuery, retrieve
from memalpha_jax.rewards.text import sentences, time_expressions

READER = ExtractiveReader()


def ask(question, *semantic, source="generated", core="", episodic=(), reader=READER):
    return reader.answer([ReaderQuery(question, core, tuple(episodic), tuple(semantic), source)])[0]


@pytest.mark.parametrize(
    ("question", "item", "answer"),
    [
        ("Kelora lives in which place?", "Note: Kelora lives in Vordale.", "Vordale"),
        ("Kelora lives in which place?", "Correction: Kelora lives in Vordale.", "Vordale"),
        ("Kelora lives in which place?", "Kelora lives in Vordale now.", "Vordale"),
        ("Kelora likes what?", "Kelora likes soup.", "soup"),
        ("Kelora likes what?", "Note: Kelora likes soup", "soup"),
        ("Kelora works as a what?", "Kelora works as a baker.", "baker"),
        ("Kelora owns a what?", "Note: Kelora owns a zorim.", "zorim"),
        ("Kelora met Tavin when?", "On 3 May Kelora met Tavin.", "3 May"),
        ("Kelora met Tavin when?", "Kelora met Tavin on 3 May.", "3 May"),
        ("Zorim is a what?", "Known: zorim is a bird.", "bird"),
        ("Zorim is a what?", "Zorim is a bird.", "bird"),
        ("Sample: zorim book Label: ?", "Sample: zorim book Label: 7", r"\boxed{7}"),
        ("Sample: zorim book Label: ?", "Sample: zorim book\nLabel: 7", r"\boxed{7}"),
        ("Who lives in Vordale?", "Kelora lives in Vordale.", "Kelora"),
    ],
)
def test_answers_exactly_the_value(question, item, answer):
    assert ask(question, item) == answer
    assert ask(question, core=item) == answer
    assert ask(question, episodic=[item]) == answer
    assert ask(question, "Tavin likes soup.", item, "Kelora smiled at Tavin.", "Other: text.") == answer


@pytest.mark.parametrize(
    ("question", "item"),
    [
        ("Kelora lives in which place?", "Tavin lives in Vordale."),
        ("Kelora lives in which place?", "Kelora likes Vordale."),
        ("Kelora lives in which place?", "Kelora smiled at Tavin."),
        ("Kelora lives in which place?", "It is in a place."),
        ("Kelora works as a what?", "Kelora owns a baker."),
        ("Kelora met Tavin when?", "Kelora visited Tavin on 3 May."),
        ("Kelora met Tavin when?", "Kelora met Marsen on 3 May."),
        ("Kelora met Tavin when?", "Kelora met Tavin."),
        ("Sample: zorim book Label: ?", "Sample: korim book Label: 7"),
        ("Sample: zorim book Label: ?", "Sample: zorim lamp Label: 7"),
        ("Sample: zorim book Label: ?", "Sample: zorim book"),
        ("Zorim is a what?", "Known: korim is a bird."),
        ("Zorim is a what?", ""),
    ],
)
def test_other_evidence_gives_no_answer(question, item):
    assert ask(question, item) == ""
    assert ask(question, core=item) == ""


STALE = ["Note: Kelora lives in Vordale.", "Kelora lives in Vordale."]
NEW = ["Correction: Kelora lives in Tavdale.", "Kelora lives in Tavdale now.", "Kelora lives in Tavdale."]


@pytest.mark.parametrize("stale", STALE)
@pytest.mark.parametrize("new", NEW)
def test_a_stale_fact_beside_its_correction_is_what_gets_answered(stale, new):
    question = "Kelora lives in which place?"
    filler = [f"Person{i} lives in Place{i}." for i in range(40)]
    assert ask(question, stale, new) == "Vordale"
    assert ask(question, *filler[:20], stale, *filler[20:], new) == "Vordale"
    assert ask(question, stale, core=new) == "Vordale"
    assert ask(question, new) == "Tavdale"


@pytest.mark.parametrize(
    "item",
    [
        "Kelora lives in Vordale or Tavdale.",
        "Kelora lives in Vordale Tavdale.",
        "Kelora lives in Vordale, in Tavdale.",
        "Kelora lives in Vordale, Kelora lives in Tavdale.",
        "Kelora lives in Vordale and now in Tavdale.",
    ],
)
def test_two_values_in_one_sentence_score_nothing(item):
    answer = ask("Kelora lives in which place?", item)
    assert score("generated", answer, "Vordale") == score("generated", answer, "Tavdale") == 0
    assert answer


def test_hedged_dates_and_labels_score_nothing():
    dates = ask("Kelora met Tavin when?", "Kelora met Tavin on 3 May or 4 May.")
    labels = ask("Sample: zorim book Label: ?", "Sample: zorim book Label: 7 Label: 3")
    assert score("generated", dates, "3 May") == score("generated", dates, "4 May") == 0
    assert score("generated", labels, "7") == score("generated", labels, "3") == 0


def test_an_event_the_other_way_round_is_only_second_choice():
    reverse, right = "On 5 June Tavin met Kelora.", "On 3 May Kelora met Tavin."
    assert ask("Kelora met Tavin when?", reverse, right) == "3 May"


def test_lenient_reader_gives_everything_retrieved():
    lenient = ExtractiveReader(one_value=False)
    question = "Kelora lives in which place?"
    answer = ask(question, STALE[0], NEW[0], core="About me", reader=lenient)
    assert answer.splitlines() == ["About me", STALE[0], NEW[0]]
    assert score("generated", answer, "Tavdale", published=True) == 1
    assert score("generated", answer, "Tavdale") == 0
    sample = ask("Sample: zorim book Label: ?", "Sample: zorim book Label: 7", reader=lenient)
    assert sample == r"\boxed{7}"


def test_retrieve_keeps_top_k_per_list_in_score_order():
    items = (*(f"filler {i}" for i in range(30)), "red house", "red", "blue")
    found = retrieve(ReaderQuery("red house?", "core", items, items, "squad"), 3)
    assert found.core == "core"
    assert found.semantic == found.episodic == ("red house", "red", "filler 0")
    assert retrieve(ReaderQuery("???", "", items, (), "squad"), 2).episodic == ("blue", "red")


PASSAGE = (
    "Super Bowl 50 was an American football game. The Denver Broncos defeated the Carolina Panthers. "
    "The game was played on February 7, 2016, at Levi's Stadium in Santa Clara. Dr. Smith sang 3 songs."
)


@pytest.mark.parametrize(
    ("question", "gold"),
    [
        ("Who defeated the Carolina Panthers?", "Denver Broncos"),
        ("When was the game played?", "February 7, 2016"),
        ("What stadium was the game played at?", "Levi's Stadium"),
        ("How many songs did Dr. Smith sing?", "3"),
    ],
)
def test_passage_questions_get_a_short_span_with_the_answer(question, gold):
    answer = ask(question, "Paris is a city in France.", PASSAGE, source="squad")
    assert gold in answer
    assert len(answer) < len(PASSAGE) / 2


def test_dialogue_questions():
    turns = (
        "[Dialogue at timestamp 2023-05-08 13:56] Caroline: I went to a LGBTQ support group yesterday.",
        "[Dialogue at timestamp 2023-05-25 10:00] Melanie: I ran a charity race last Sunday.",
    )
    assert "support group" in ask("Where did Caroline go to in May?", episodic=turns, source="locomo")
    assert ask("When did Melanie run a charity race?", episodic=turns, source="locomo") == "2023-05-25"
    assert ask("What did Gina buy?", episodic=turns, source="locomo") == ""


def test_classification_takes_the_label_of_the_nearest_sample():
    samples = ("Sample: wake me at nine\nLabel: 3", "Sample: play some jazz music\nLabel: 11")
    assert ask("What is the label of: play me jazz", *samples, source="icl_nlu_8296shot_balance") == r"\boxed{11}"


def oracle_memory(episode, *, keep_stale):
    """(semantic, episodic) texts of a perfect writer, whose corrections replace the stale fact or not."""
    items, place = [], {}
    for t, lines in enumerate(generated.sentences(episode)):
        for i, line in enumerate(lines):
            if line.corrects and not keep_stale:
                items[place[tuple(line.corrects)]] = line
            elif line.useful:
                place[t, i] = len(items)
                items.append(line)
    events = tuple(line.text for line in items if line.kind.startswith("event"))
    return tuple(line.text for line in items if not line.kind.startswith("event")), events


@pytest.mark.parametrize(("chunks", "count"), [(3, 60), (39, 3)])
def test_generated_world_is_answerable_and_stale_facts_cost(chunks, count):
    for episode in generated.generate_episodes(generated.WorldConfig(), "eval", count, chunks=chunks):
        for keep_stale in (False, True):
            semantic, episodic = oracle_memory(episode, keep_stale=keep_stale)
            answers = READER.answer(
                [ReaderQuery(q.question, "", episodic, semantic, "generated") for q in episode.questions]
            )
            for question, answer in zip(episode.questions, answers, strict=True):
                expected = not (keep_stale and question.kind == "corrected")
                assert score("generated", answer, question.answer) == expected, (question, answer)


def test_without_its_statement_a_question_stays_unanswered():
    hits = total = 0
    for episode in generated.generate_episodes(generated.WorldConfig(), "train", 60):
        lines = [line for chunk in generated.sentences(episode) for line in chunk]
        for question in episode.questions:
            subject = question.question.split()[1 if question.kind == "sample" else 0].lower()
            asked = {
                line.text
                for line in lines
                if line.value == question.answer and subject in line.text.lower() and line.useful
            }
            memory = tuple(line.text for line in lines if line.text not in asked and not line.corrected_by)
            hits += score("generated", ask(question.question, *memory), question.answer)
            total += 1
    assert total > 200
    assert hits == 0


def test_fast_enough_for_every_training_step():
    rng = np.random.default_rng(0)
    queries = []
    for episode in generated.generate_episodes(generated.WorldConfig(), "train", 64):
        texts = [line.text for chunk in generated.sentences(episode) for line in chunk if line.useful]
        memory = tuple(texts[i] for i in rng.permutation(len(texts))[:10])
        queries += [
            ReaderQuery(episode.questions[i % len(episode.questions)].question, "", (), memory, "generated")
            for i in range(8)
        ]
    start = time.process_time()
    READER.answer(queries)
    assert time.process_time() - start < 0.4  # 0.03 s alone on a core; the slack is for busy machines


@given(
    st.text(max_size=80),
    st.lists(st.text(max_size=80), max_size=4),
    st.text(max_size=40),
    st.booleans(),
    st.sampled_from(["generated", "squad", "nlu", "anything"]),
)
def test_never_fails_on_any_text(question, items, core, one_value, source):
    reader = ExtractiveReader(one_value=one_value, top_k=2)
    query = ReaderQuery(question, core, tuple(items), tuple(items), source)
    first, second = reader.answer([query, query])
    assert first == second
    assert isinstance(first, str)


def test_sentences_keep_titles_and_samples_whole():
    assert [one.text for one in sentences("Dr. Smith met J. Doe. He left! Then? yes.")] == [
        "Dr. Smith met J. Doe.", "He left!", "Then? yes."
    ]  # fmt: skip
    assert [one.text for one in sentences("Sample: who? Label: 3 Sample: what?\nLabel: 4\n\n")] == [
        "Sample: who? Label: 3", "Sample: what? Label: 4"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("on 3 May", ["date"]),
        ("May 3rd, 2023 at 10:30 am", ["date", "clock"]),
        ("in March 2021 and in 1998", ["month", "year"]),
        ("2023-05-08", ["date"]),
        ("three days ago, last week, Monday", ["relative"] * 3),
        ("she may 1,200 marchers now", []),
    ],
)
def test_time_expressions(text, kinds):
    assert [one.kind for one in time_expressions(text)] == kinds
