"""Rankings that follow a memory, and the archive of its chunks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memalpha_jax.errors import UserError
from memalpha_jax.memory.retrieval import Bm25Index
from memalpha_jax.methods.archive import Archived
from memalpha_jax.methods.bm25_rag import Bm25Rag
from memalpha_jax.methods.config import MethodConfig
from memalpha_jax.methods.context import fit, reader_query
from memalpha_jax.methods.method import Context, Entry, Passage, WriteRecord
from memalpha_jax.methods.ranking import Ranking
from memalpha_jax.methods.registry import Parts, make
from memalpha_jax.methods.retrieval import Retrieval, RetrievalConfig, make_retrieval

KINDS = ("episodic", "semantic")
ENTRY = st.builds(
    Entry, st.sampled_from("12345678"), st.sampled_from([*KINDS, "core"]), st.text("ab ", max_size=6), st.integers(0, 3)
)
MEMORIES = st.lists(st.lists(ENTRY, max_size=8, unique_by=lambda e: (e.kind, e.id)), min_size=1, max_size=5)


def count(text: str) -> int:
    return len(text.split())


def passages_by_hand(entries: list[Entry], question: str, top_k: int) -> list[Passage]:
    """The best of each kind from an index made for this question, dealt out in turns."""
    ranked = []
    for kind in KINDS:
        own = [(place, entry) for place, entry in enumerate(entries) if entry.kind == kind]
        best = Bm25Index(enumerate(entry.text for _, entry in own)).best(question, top_k)
        ranked.append([Passage(own[i][1].text, kind, own[i][1].id, own[i][0], s, own[i][1].chunk) for i, s in best])
    return [own[i] for i in range(max(map(len, ranked))) for own in ranked if i < len(own)]


@settings(max_examples=150, deadline=None)
@given(MEMORIES, st.text("ab ?", max_size=5), st.integers(1, 6))
def test_a_ranking_that_follows_a_memory_equals_a_new_one(memories, question, top_k):
    ranking = Ranking(Bm25Index)
    for entries in memories:
        assert ranking.best_passages(entries, KINDS, question, top_k) == passages_by_hand(entries, question, top_k)


class Watched(Bm25Index[str]):
    """Writes down every update."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []

    def add(self, key: str, text: str) -> None:
        self.log.append(f"add {key}")
        super().add(key, text)

    def replace(self, key: str, text: str) -> None:
        self.log.append(f"replace {key}")
        super().replace(key, text)

    def remove(self, key: str) -> None:
        self.log.append(f"remove {key}")
        super().remove(key)


def test_only_changes_reach_the_index():
    index = Watched()
    ranking = Ranking(lambda: index)

    def log_of(texts: dict[str, str]) -> list[str]:
        index.log.clear()
        ranking.best_passages([Entry(id, "semantic", text, 0) for id, text in texts.items()], ("semantic",), "x", 3)
        return list(index.log)

    assert log_of({"1": "a", "2": "b", "3": "c"}) == ["add 1", "add 2", "add 3"]
    assert log_of({"1": "a", "2": "b", "3": "c"}) == []
    assert log_of({"1": "a", "3": "z", "4": "d"}) == ["remove 2", "add 4", "replace 3"]
    assert log_of({"1": "a", "4": "d", "3": "z"}) == ["remove 3", "remove 4", "add 4", "add 3"]


def test_two_entries_of_one_id_are_a_fault():
    twice = [Entry("1", "semantic", "a", 0), Entry("1", "semantic", "b", 0)]
    with pytest.raises(ValueError, match="same id"):
        Ranking(Bm25Index).best_passages(twice, KINDS, "a", 3)


class FirstWords:
    """A memory of the first word of each chunk, and of one text that comes from no chunk in particular."""

    name, about, identity = "first_words", "first words", "first_words"

    def __init__(self) -> None:
        self._entries = [Entry("core", "core", "summary", -1)]

    def open(self, n: int) -> list[FirstWords]:
        return [FirstWords() for _ in range(n)]

    def write(self, chunk: str) -> WriteRecord:
        at = len(self._entries) // 2
        self._entries += [Entry(f"{at}{x}", "semantic", chunk.split()[0], at) for x in "ab"]
        return WriteRecord()

    def read(self, question: str) -> Context:
        del question
        newest_first = list(enumerate(self._entries))[::-1]
        return Context(tuple(Passage(e.text, e.kind, e.id, place, None, e.chunk) for place, e in newest_first))

    def entries(self) -> list[Entry]:
        return self._entries

    @property
    def memory_tokens(self) -> int:
        return len(self._entries)

    def close(self) -> None:
        pass


CHUNKS = ("tea is hot", "rain fell all day")


def test_an_archive_hands_over_every_chunk_pointed_at_once_and_after_the_entries():
    memory = Archived(FirstWords(), count).open(1)[0]
    for chunk in CHUNKS:
        memory.write(chunk)
    passages = memory.read("?").passages
    assert [p.text for p in passages] == ["rain", "rain", "tea", "tea", "summary", CHUNKS[1], CHUNKS[0]]
    assert reader_query(passages, "?", "squad").semantic == ("tea", "tea", "rain", "rain", *CHUNKS)
    assert memory.memory_tokens == 5 + 3 + 4
    kept = fit(memory.read("?"), 9, count).passages
    assert [p.text for p in kept] == ["rain", "rain", "tea", "tea", "summary", CHUNKS[1]]


def test_chunks_that_are_passages_already_come_once():
    inner, archived = (method.open(1)[0] for method in (Bm25Rag(2, count), Archived(Bm25Rag(2, count), count)))
    for chunk in CHUNKS:
        inner.write(chunk)
        archived.write(chunk)
    assert archived.read("rain?") == inner.read("rain?")
    assert archived.memory_tokens == inner.memory_tokens


def test_a_chunk_that_an_entry_repeats_word_for_word_comes_once():
    memory = Archived(FirstWords(), count).open(1)[0]
    memory.write("tea")
    assert [p.text for p in memory.read("?").passages] == ["tea", "tea", "summary"]
    assert memory.memory_tokens == 3


def test_the_settings_say_whether_there_is_an_archive():
    plain = Parts(MethodConfig(), lambda: None, lambda: None, count)
    archive = Parts(plain.config, plain.policy, plain.chat, count, make_retrieval(RetrievalConfig(archive=True)))
    methods = [make("bm25_rag", parts) for parts in (plain, archive)]
    assert [type(method) for method in methods] == [Bm25Rag, Archived]
    assert methods[0].identity != methods[1].identity
    assert methods[0].name == methods[1].name == "bm25_rag"


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"method": "dense"}, "embeddings"), ({"embeddings": "e5"}, "method"), ({"query_prompt": "q: "}, "method")],
)
def test_settings_that_contradict_each_other_are_refused(settings, named):
    with pytest.raises(UserError, match=f"retrieval.*{named}"):
        RetrievalConfig(**settings)


def test_bm25_needs_no_model():
    assert make_retrieval(RetrievalConfig()) == Retrieval()
    assert Retrieval().identity == "bm25"
    with pytest.raises(ValueError, match="encoder"):
        Retrieval("dense").open().best_passages([], KINDS, "?", 1)
