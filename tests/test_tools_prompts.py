"""Prompt templates and tool schemas: nothing of a memory type that is switched off is left."""

import json

import pytest
from tiny_tokenizer import TinyTokenizer

from memalpha_jax.errors import UserError
from memalpha_jax.memory.render import parse_template, render_text
from memalpha_jax.memory.state import MemoryConfig, empty_memory
from memalpha_jax.tools.prompts import TEMPLATES, load_template
from memalpha_jax.tools.schemas import TYPE_NAMES, search_schema, tool_schemas, tools_text

SUBSETS = [tuple(name for i, name in enumerate(TYPE_NAMES) if bits >> i & 1) for bits in range(1, 2 ** len(TYPE_NAMES))]


@pytest.mark.parametrize("enabled", SUBSETS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_prompt_shows_enabled_types_only(name, enabled):
    config, tokenizer = MemoryConfig(enabled=enabled), TinyTokenizer()
    wire = "hermes" if name == "hermes" else "qwen_agent"
    template = parse_template(load_template(name), config, tools_text(wire, enabled))
    prompt = render_text(empty_memory(config), tokenizer.encode("CHUNK"), template, tokenizer, config, 10**6)
    assert prompt.count("CHUNK") == 1
    assert "{{" not in prompt
    assert prompt.startswith("<|im_start|>")
    assert prompt.count("<|im_start|>") == prompt.count("<|im_end|>") + 1
    words = {"core": "Core ", "episodic": "Events", "semantic": "Facts"}
    for kind in TYPE_NAMES:
        assert (
            (words[kind] if name == "compact" else f"{kind}_memory") in prompt.replace("Not for core_memory", "")
        ) == (kind in enabled)
    if name != "compact":
        assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
        assert prompt.index("# Tools") < prompt.index("Your memory so far") < prompt.index("CHUNK")


@pytest.mark.parametrize("enabled", SUBSETS)
def test_schemas_offer_what_can_be_done(enabled):
    schemas = {schema["name"]: schema["parameters"] for schema in tool_schemas(enabled)}
    lists = [f"{name}_memory" for name in enabled if name != "core"]
    assert list(schemas) == ["new_memory_insert"] * bool(lists) + ["memory_update", "memory_delete"]
    if lists:
        assert schemas["new_memory_insert"]["properties"]["memory_type"]["enum"] == lists
    for name in ("memory_update", "memory_delete"):
        properties = schemas[name]["properties"]
        assert properties["memory_type"]["enum"] == [f"{kind}_memory" for kind in enabled]
        assert ("memory_id" in properties) == bool(lists)
        assert ("memory_id" in schemas[name]["required"]) == ("core" not in enabled)
    for wire in ("qwen_agent", "hermes"):
        assert len([json.loads(line) for line in tools_text(wire, enabled).splitlines()]) == len(schemas)


def test_search_is_over_the_lists():
    assert search_schema()["parameters"]["properties"]["memory_type"]["enum"] == [
        "episodic_memory",
        "semantic_memory",
    ]


def test_unknown_type_is_named():
    with pytest.raises(UserError, match="procedural"):
        tool_schemas(("core", "procedural"))


def test_template_from_a_path(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("{{#core}}{{core}}{{/core}}|{{chunk}}", encoding="utf-8")
    assert load_template(str(path)) == "{{#core}}{{core}}{{/core}}|{{chunk}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no slot", "chunk"),
        ("{{chunk}}{{semantic_total}}", "semantic"),
        ("{{#core}}{{/core}}{{core}}{{chunk}}", "core"),
    ],
)
def test_faulty_templates_are_refused(tmp_path, text, message):
    path = tmp_path / "faulty.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=f"faulty.txt.*{message}"):
        load_template(str(path))


def test_missing_template_says_what_there_is(tmp_path):
    with pytest.raises(UserError, match="qwen_agent, hermes, compact"):
        load_template(str(tmp_path / "none.txt"))
