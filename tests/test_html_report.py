"""`report.html`: what is in the file, and, where a Chromium is installed, what a reader of it sees."""

from __future__ import annotations

import base64
import collections
import gzip
import html.parser
import json
import re
import shutil
import time
from pathlib import Path

import pytest
import report_workdir
from hypothesis import given, settings
from hypothesis import strategies as st

from memalpha_jax.episodes.episode import Episode, Question
from memalpha_jax.errors import UserError
from memalpha_jax.leaderboard.config import ReportConfig
from memalpha_jax.leaderboard.page import read_lengths
from memalpha_jax.methods.bm25_rag import Bm25Rag
from memalpha_jax.report.html import json_for_html, page
from memalpha_jax.report.packing import Trace, TracedEpisode
from memalpha_jax.report.pareto import on_front, trade_offs
from memalpha_jax.report.published import TABLES, beside_published

HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'><b>bold</b>",
    "<!-- <script> ]]> &lt;i&gt; &amp; {{traces}} \\u003c ${1+1}",
    "separators \u2028 and \u2029, a bell \x07, an override \u202e, half a pair \ud83d",
)
METHODS = (report_workdir.Scripted("memalpha", 0.8, room=9), Bm25Rag(2, report_workdir.count))
SOURCES = ("squad", "nlu:evaluation", "generated")


def hostile_episode() -> Episode:
    questions = tuple(Question(f"{text} lives in which place?", f"gold {text}") for text in HOSTILE)
    return Episode(f"id {HOSTILE[1]}", "generated", tuple(f"{text} and {text}" for text in HOSTILE), questions)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> tuple[Path, dict]:
    root = tmp_path_factory.mktemp("comparison")
    episodes = {source: report_workdir.make_episodes(source, 3, 8) for source in SOURCES}
    episodes["generated"][0] = hostile_episode()
    return root, report_workdir.make_workdir(root, episodes, METHODS, traces=2)


class Elements(html.parser.HTMLParser):
    """Checks that elements are nested and closed, and keeps the texts of scripts."""

    EMPTY = ("meta", "link")

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.counts: collections.Counter[str] = collections.Counter()
        self.ids: list[str] = []
        self.scripts: list[tuple[dict, str]] = []
        self.addresses: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.counts[tag] += 1
        named = dict(attrs)
        self.ids += [named["id"]] if "id" in named else []
        self.addresses += [named[name] for name in ("src", "href") if name in named]
        assert not [name for name in named if name.startswith("on") or name == "style"]
        if tag not in self.EMPTY:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append((named, ""))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            named, text = self.scripts[-1]
            self.scripts[-1] = named, text + data


def parsed(text: str) -> tuple[Elements, dict, dict[int, dict]]:
    """The elements, the data, and the blocks by number."""
    found = Elements(text)
    by_id = {named.get("id"): content for named, content in found.scripts}
    blocks = {
        int(name.removeprefix("trace-")): json.loads(gzip.decompress(base64.b64decode(content)))
        for name, content in by_id.items()
        if name and name.startswith("trace-")
    }
    return found, json.loads(by_id["data"]), blocks


def test_the_file_is_whole_and_needs_nothing_else(workdir):
    root, results = workdir
    text = (root / "report.html").read_text(encoding="utf-8")
    elements, data, blocks = parsed(text)
    assert elements.open == []
    assert len(elements.ids) == len(set(elements.ids))
    assert len(blocks) == 2 * len(SOURCES)
    assert elements.counts["script"] == 2 + len(blocks)  # the data and the program
    assert elements.counts["img"] == elements.counts["b"] == 0
    assert all(address.startswith(("#", "data:")) for address in elements.addresses)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert data["rows"] == results["rows"]
    assert data["differences"] == results["differences"]
    assert data["averages"] == results["averages"]


def test_every_text_is_in_its_block_as_it_was(workdir):
    root, results = workdir
    _, data, blocks = parsed((root / "report.html").read_text(encoding="utf-8"))
    stored = {(e["method"], e["source"], e["instance_id"]): e for e in results["episodes"]}
    embedded = [trace for trace in data["traces"] if trace["block"] is not None]
    assert len(embedded) == 2 * len(SOURCES) * len(METHODS)
    assert any(trace["episode"] == f"id {HOSTILE[1]}" for trace in embedded)
    for trace in data["traces"]:
        assert (root / trace["file"]).is_file()
    for trace in embedded:
        block, wanted = blocks[trace["block"]], stored[trace["method"], trace["source"], trace["episode"]]
        texts = block["texts"]
        assert len(texts) == len(set(texts))
        own = zip(block["questions"], block["methods"][trace["method"]]["answers"], wanted["questions"], strict=True)
        for (question, kind, golds, _), (answer, score, _, passages), result in own:
            assert (texts[question], kind, golds) == (result["question"], result["kind"], [result["gold"]])
            assert (answer, score) == (result["answer"], result["score"])
            assert [[k, i, s, c, texts[t]] for t, k, i, s, c in passages] == result["retrieved"]
    hostile = next(blocks[t["block"]] for t in embedded if t["episode"].startswith("id "))
    assert [hostile["texts"][i] for i in hostile["chunks"]] == list(hostile_episode().chunks)


@settings(max_examples=40)
@given(
    st.recursive(
        st.text() | st.none() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_data_in_a_page_end_no_element_and_come_back(value):
    text = json_for_html(value)
    assert text.isascii()
    assert "<" not in text
    assert json.loads(text) == value


def test_the_page_is_the_same_for_the_same_contents(workdir):
    _, results = workdir
    traced = [TracedEpisode("generated", hostile_episode(), ())]
    assert page(results, traced) == page(json.loads(json.dumps(results)), traced)


PLAIN_MEANS = (
    {"memalpha": 0.619, "long_context": 0.588, "bm25_rag": 0.567, "memagent": 0.226, "mem1": 0.111},
    {"memalpha": 0.592, "long_context": 0.480, "bm25_rag": 0.532, "memagent": 0.198, "mem1": 0.071},
)
PRINTED = (
    {"memalpha": 0.642, "long_context": 0.588, "bm25_rag": 0.567, "memagent": 0.236, "mem1": 0.111},
    {"memalpha": 0.592, "long_context": 0.461, "bm25_rag": 0.502, "memagent": 0.198, "mem1": 0.071},
)


def row(method: str, source: str, accuracy: float | None, tokens: float = 1000.0) -> dict:
    return {
        "method": method,
        "source": source,
        "accuracy": accuracy,
        "memory_tokens": tokens,
        "ci_low": 0,
        "ci_high": 1,
    }


def test_published_averages_are_those_of_the_paper():
    """The means are computed from the cells as typed here, and known from elsewhere: they find a mistyped cell."""
    results = {"rows": [row("memalpha", source, 0.5) for source in ("squad", "banking77")]}
    found = beside_published(results)
    assert len(found) == len(TABLES)
    for table, means, printed in zip(found, PLAIN_MEANS, PRINTED, strict=True):
        own = {entry["method"]: entry for entry in table["rows"] if entry["published"]}
        assert {method: round(entry["mean_accuracy"], 3) for method, entry in own.items()} == means
        assert {method: entry["printed_accuracy"] for method, entry in own.items()} == printed
        for entry in own.values():
            assert len(entry["accuracy"]) == len(entry["memory"]) == len(table["columns"])
            assert entry["mean_memory"] == pytest.approx(entry["printed_memory"], rel=0.06)


def test_only_what_both_have_is_averaged_side_by_side():
    rows = [row("memalpha", s, a) for s, a in (("squad", 0.4), ("nlu", 0.6), ("nlu:evaluation", 0.9))]
    rows += [row("mem0", "squad", 0.2), row("mem0", "nlu", None)]
    validation, bench = beside_published({"rows": rows})
    assert [validation["columns"][i] for i in validation["shared"]] == ["SQuAD", "NLU"]
    assert [bench["columns"][i] for i in bench["shared"]] == ["NLU"]
    theirs, ours, *others = (entry for entry in validation["rows"] if entry["method"] in ("memalpha", "mem0"))
    assert theirs["shared_mean"] == pytest.approx((0.786 + 0.658) / 2)
    assert ours["shared_mean"] == pytest.approx(0.5)
    assert ours["mean_accuracy"] is None
    assert [(entry["method"], entry["shared_mean"]) for entry in others] == [("mem0", None)]
    assert beside_published({"rows": [row("memalpha", "locomo", 0.5)]}) == []


@given(st.lists(st.tuples(st.integers(0, 5).map(float), st.integers(0, 5).map(float)), max_size=8))
def test_the_front_is_what_a_sweep_from_short_to_long_memories_keeps(points):
    kept, best = set(), -1.0
    for tokens in sorted({p[0] for p in points}):
        top = max(a for t, a in points if t == tokens)
        if top > best:
            kept.add((tokens, top))
            best = top
    assert on_front(points) == [point in kept for point in points]


def test_a_method_that_failed_somewhere_is_in_no_mean_of_all():
    rows = [row("a", "x", 0.5, 10), row("a", "y", 0.7, 30), row("b", "x", 0.9), row("b", "y", None)]
    everything, x, y = trade_offs(rows)
    assert [(p["method"], p["accuracy"], p["memory_tokens"]) for p in everything["points"]] == [("a", 0.6, 20)]
    assert (len(x["points"]), len(y["points"])) == (2, 1)


def test_bad_input_is_named(tmp_path):
    with pytest.raises(UserError, match="traces is -1"):
        ReportConfig(traces=-1)
    with pytest.raises(UserError, match="finished length study"):
        read_lengths(tmp_path)
    path = tmp_path / "length.json"
    path.write_text("[{")
    with pytest.raises(UserError, match=r"length\.json"):
        read_lengths(tmp_path)
    path.write_text('{"rows": [{"stream_tokens": 5, "seconds": {"median": 0.1}, "bytes_per_token": 9.0}]}')
    with pytest.raises(UserError, match="no field 'accuracy'"):
        read_lengths(tmp_path)


# What follows needs a browser.

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
FLAGS += ["--disable-sync", "--no-first-run"]


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium is installed")
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Opens a file; whatever the page complains about, or asks the network for, fails the test."""
    complaints: list[str] = []
    contexts = []

    def opened(path: Path, width: int = 1280, trace: tuple[str, str, str] | None = None):
        context = browser.new_context(viewport={"width": width, "height": 800})
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on(
            "request",
            lambda request: complaints.extend([request.url] * (not request.url.startswith(("file:", "data:")))),
        )
        tab.goto(path.as_uri())
        tab.wait_for_selector("#trace[aria-busy=false] .viewer")
        for key, value in zip(("source", "episode", "method"), trace or (), strict=False):
            tab.select_option(f"select[data-key={key}]", label=value)
        tab.wait_for_selector("#trace[aria-busy=false] .viewer")
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def memory_shown(tab, view: str) -> dict[str, str]:
    """Every entry of a view of the memory, all its pages together."""
    return tab.evaluate(
        """(view) => {
          const memory = document.querySelector(".memory"), found = {};
          memory.querySelector(`[data-value=${view}]`).click();
          const next = memory.querySelector(".pages button:last-child");
          for (;;) {
            for (const row of memory.querySelectorAll("li")) {
              found[row.dataset.name] = row.querySelector(".quoted").textContent;
            }
            if (next.disabled || next.parentElement.hidden) return found;
            next.click();
          }
        }""",
        view,
    )


def test_tables_show_the_numbers_of_the_results(workdir, open_page):
    root, results = workdir
    tab = open_page(root / "report.html")
    cells = {(r["method"], r["source"]): r for r in results["rows"]}
    shown = tab.eval_on_selector_all(
        "#results tbody tr", "rows => rows.map(row => [...row.children].map(cell => cell.firstChild.textContent))"
    )
    for (method, *values), wanted in zip(shown, results["averages"], strict=True):
        assert method == wanted["method"]
        assert values == [
            *(f"{100 * cells[method, source]['accuracy']:.1f}" for source in SOURCES),
            f"{100 * wanted['accuracy']:.1f}",
        ]
    published = tab.inner_text("#published")
    for printed in ("64.2", "61.9", "46.1", "48.0"):
        assert printed in published


def test_hostile_text_stays_text(workdir, open_page):
    root, _ = workdir
    tab = open_page(root / "report.html", trace=("generated", f"id {HOSTILE[1]}", "bm25_rag"))
    assert HOSTILE[0] in tab.inner_text(".viewer .box")
    tab.keyboard.press("ArrowRight")
    assert HOSTILE[1] in tab.inner_text(".viewer .box")
    tab.keyboard.press("End")
    tab.locator(".stepper input").fill("4")
    text = tab.inner_text(".viewer .box")
    assert "⟨U+2028⟩" in text
    assert "⟨U+202E⟩" in text
    assert "␇" in text
    assert tab.locator("main img, main b:text('bold'), .viewer i:not(.key)").count() == 0
    assert tab.evaluate("window.hacked") is None


def test_the_memory_of_every_step_is_the_one_the_method_had(workdir, open_page):
    root, _ = workdir
    episode = report_workdir.make_episodes("squad", 3, 8)[1]
    tab = open_page(root / "report.html", trace=("squad", episode.instance_id, "memalpha"))
    memory = METHODS[0].open(2)[1]
    before: dict[str, str] = {}
    for t, chunk in enumerate(episode.chunks):
        memory.write(chunk)
        after = {f"{e.kind}/{e.id}": e.text for e in memory.entries()}
        assert tab.inner_text("#step") == f"Chunk {t + 1} of {len(episode.chunks)}"
        assert tab.inner_text(".viewer .box") == chunk
        assert memory_shown(tab, "before") == before
        assert memory_shown(tab, "after") == after
        changed = memory_shown(tab, "changes")
        assert set(changed) == {name for name in before | after if before.get(name) != after.get(name)}
        tab.keyboard.press("ArrowRight")
        before = after


def test_a_retrieved_item_leads_to_the_chunk_that_wrote_it(workdir, open_page):
    root, _ = workdir
    tab = open_page(root / "report.html", width=360, trace=("squad", "squad-0", "memalpha"))
    tab.locator(".questions button").nth(2).click()
    jump = tab.locator(".detail .jump").last
    wanted = jump.inner_text().removeprefix("chunk ")
    text = jump.locator("xpath=ancestor::li").locator(".quoted").inner_text()
    jump.press("Enter")
    assert tab.inner_text("#step").startswith(f"Chunk {wanted} of")
    found = tab.locator(".memory li.found")
    assert text in found.inner_text()
    assert found.get_attribute("data-sign") in "+~"


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_never_scrolls_sideways(workdir, open_page, width):
    root, _ = workdir
    tab = open_page(root / "report.html", width=width)
    tab.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    for measure in ("memory_tokens", "read_calls"):
        tab.click(f"#results [data-value={measure}]")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def long_record(chunks: int, room: int) -> tuple[dict, dict[int, dict[str, str]]]:
    """A record, and what was kept after how many chunks.

    The memory grows by six entries a chunk, two of them soon rewritten, up to `room`; then the oldest go.
    """
    steps, kept, after = [], collections.OrderedDict(), {}
    for t in range(chunks):
        changes = []
        for k in range(6):
            name, text = str(6 * t + k), f"Entry {k} of chunk {t} says that door {t * k} opens at {t % 24} o'clock."
            kept[name] = text
            changes.append({"change": "insert", "kind": "semantic", "id": name, "before": "", "after": text})
        for name in (str(6 * t - 10), str(6 * t - 5)):
            if name in kept:
                change = {"change": "update", "kind": "semantic", "id": name, "before": kept[name]}
                kept[name] = f"{kept[name]} Checked in chunk {t}."
                changes.append({**change, "after": kept[name]})
        while len(kept) > room:
            name, text = kept.popitem(last=False)
            changes.append({"change": "delete", "kind": "semantic", "id": name, "before": text, "after": ""})
        steps.append({"replies": [f"reply {t}"], "operations": [], "changes": changes})
        after[t + 1] = {f"semantic/{name}": text for name, text in kept.items()}
    ends = {"contexts": [{"passages": [], "calls": 0}], "texts": [], "memory_tokens": 1, "write_calls": chunks}
    return {"steps": steps, **ends}, after


def test_a_long_trace_is_stepped_through(workdir, open_page, tmp_path, capsys):
    _, results = workdir
    (record, after), words = long_record(500, 2000), "The door keeper wrote this down. " * 60
    episode = Episode("long", "generated", tuple(f"{t}: {words}" for t in range(500)), (Question("q", "a"),))
    traced = TracedEpisode("generated", episode, [Trace("memalpha", record, [{"answer": "a", "score": 1.0}])])
    listed = {"method": "memalpha", "source": "generated", "instance_id": "long", "memory": "key", "questions": []}
    path = tmp_path / "long.html"
    path.write_text(page({**results, "episodes": [listed]}, [traced]), encoding="utf-8")
    start = time.monotonic()
    tab = open_page(path, width=360)
    opened = time.monotonic() - start
    changes, whole = (
        tab.evaluate(
            """([view, last]) => {
              const next = document.querySelector("[aria-label='next chunk']"), start = performance.now();
              document.querySelector(`[data-value=${view}]`).click();
              let steps = 0;
              for (; !next.disabled && steps < last; steps++) { next.click(); document.body.offsetHeight; }
              return (performance.now() - start) / steps;
            }""",
            [view, steps],
        )
        for view, steps in (("changes", 449), ("all", 50))
    )
    assert tab.inner_text("#step") == "Chunk 500 of 500"
    assert len(after[500]) == 2000
    for t in (500, 26, 25, 463):
        tab.locator(".stepper input").fill(str(t))
        assert memory_shown(tab, "after") == after[t]
    assert tab.evaluate("document.querySelectorAll('*').length") < 3000
    with capsys.disabled():
        print(f"\n500 chunks, 2,000 entries: {path.stat().st_size >> 10} KiB, opened in {opened:.2f} s, ", end="")
        print(f"a step with its layout {changes:.1f} ms, with the whole memory shown {whole:.1f} ms")
