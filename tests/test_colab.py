"""The notebook, executed as a reader would: from top to bottom, with its own switch for a quick check."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from pathlib import Path

import mini
import nbformat
import pytest
from hugging_face_models import random_model, save
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from qwen_folder import small_folder

from memalpha_jax.tools.prompts import load_template
from memalpha_jax.tools.schemas import tools_text

PATH = mini.ROOT / "launch" / "colab.ipynb"
SETUP = ("settings", "install", "helpers")


@pytest.fixture(scope="module")
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(PATH, as_version=4)


@pytest.fixture
def runs(monkeypatch, tmp_path) -> Path:
    """Where the runs go; what the notebook reads from the environment says that it is to be quick."""
    for name, value in {**mini.environment(), "MEMALPHA_QUICK": "1", "MEMALPHA_RUNS": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MEMALPHA_REPOSITORY", raising=False)
    return tmp_path


def execute(notebook: nbformat.NotebookNode, chosen: Iterable[str] | None = None) -> dict[str, str]:
    """Runs the cells, or the chosen ones; returns what each printed, and `<image>` for a picture, by the cell's id."""
    notebook = copy.deepcopy(notebook)
    if chosen is not None:
        notebook.cells = [cell for cell in notebook.cells if cell.id in chosen]
    # As where it is opened: in its own folder, with the kernel that this Python has.
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(PATH.parent)}})
    client.execute()
    return {cell.id: "".join(map(_text, cell.outputs)) for cell in notebook.cells if cell.cell_type == "code"}


def _text(output: nbformat.NotebookNode) -> str:
    if output.output_type == "stream":
        return output.text
    data = output.get("data", {})
    return "<image>" if "image/png" in data else data.get("text/markdown", "")


def test_the_file_is_clean(notebook):
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    for cell in notebook.cells:
        assert cell.source.strip()
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
    # As nbformat writes it, so that saving it changes nothing.
    assert PATH.read_text() == nbformat.writes(notebook) + "\n"


def test_the_tiny_part_runs_from_top_to_bottom(notebook, runs):
    ids = [cell.id for cell in notebook.cells]
    said = execute(notebook, ids[: ids.index("qwen-head")])
    for words in ("warm start finished", "training finished", "trained accuracy", "try next"):
        assert words in said["tiny"]
    assert "<image>" in said["tiny-curve"]
    assert (runs / "tiny" / "results.md").read_text() in said["tiny-curve"]
    assert "=== chunk 2: the end of the prompt" in said["tiny-trace"]
    assert "wanted" in said["tiny-trace"]
    assert said["ask"].count("\nQ: ") == said["ask"].count("\nA: ") > 0
    assert "core: " in said["ask"]
    assert said["ask-your-own"] == (runs / "tiny" / "example.txt").read_text() + "\n"
    assert sorted(path.name for path in runs.iterdir()) == ["tiny"]


def test_a_command_that_fails_stops_the_notebook_with_what_it_said(notebook, runs, monkeypatch):
    monkeypatch.setenv("MEMALPHA_MODEL", str(runs / "nowhere"))
    monkeypatch.setenv("MEMALPHA_DATA", str(runs / "nothing.json"))
    with pytest.raises(CellExecutionError, match=r"memalpha_jax\.train ended with 1"):
        execute(notebook, [*SETUP, "qwen-data", "qwen"])


def squad(path: Path) -> str:
    """Writes a file in SQuAD's layout about rivers; returns its text."""
    data = []
    for n in range(12):
        paragraphs = []
        for name, miles in [(f"Nomen{n}{i}", f"{40 + 3 * n + i} miles") for i in range(4)]:
            text = f"The river number {n} is called {name}. It is {miles} long and flows to the sea."
            answers = [{"text": miles, "answer_start": text.index(miles)}]
            question = {"id": name, "question": f"How long is {name}?", "answers": answers}
            paragraphs.append({"context": text, "qas": [question]})
        data.append({"title": f"Rivers {n}", "paragraphs": paragraphs})
    path.write_text(json.dumps({"version": "1.1", "data": data}))
    return path.read_text()


def test_the_second_part_trains_adapters_of_a_hugging_face_model(notebook, runs, monkeypatch, tmp_path_factory):
    """A model of the true architecture with random weights, and a tokenizer trained on the spot."""
    place = tmp_path_factory.mktemp("data")
    texts = [load_template("qwen_agent"), tools_text("qwen_agent"), squad(place / "squad.json")]
    folder = small_folder(place / "model", texts, 800)
    rows = 1 + max(json.loads((folder / "tokenizer.json").read_bytes())["model"]["vocab"].values()) + 64
    save(random_model(vocab_size=rows, max_position_embeddings=2048, num_hidden_layers=1), folder)
    monkeypatch.setenv("MEMALPHA_MODEL", str(folder))
    monkeypatch.setenv("MEMALPHA_DATA", str(place / "squad.json"))
    said = execute(notebook, [*SETUP, "qwen-data", "qwen", "qwen-curve"])
    assert "training finished" in said["qwen"]
    assert "<image>" in said["qwen-curve"]
