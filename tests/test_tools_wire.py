"""Wire formats: text to calls and back, whatever stands around, inside and instead of a call."""

import gc
import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memalpha_jax.errors import UserError
from memalpha_jax.memory.state import MemoryType
from memalpha_jax.tools.calls import MEMORY_NAMES, CallKind, Status
from memalpha_jax.tools.loose_json import ObjectReader, markers
from memalpha_jax.tools.wire import WIRES, call_frames, call_segments, format_call, parse_calls

LISTS = MEMORY_NAMES[1:]
GOOD = ("new_memory_insert", {"memory_type": "semantic_memory", "content": "Zorim is a bird."})
MARKERS = (
    "✿FUNCTION✿: memory_delete\n✿ARGS✿: {",
    "✿RESULT✿",
    "<tool_call>",
    "</tool_call>",
    "<think>",
    "</think>",
    "<|im_end|>",
    "<|im_start|>",
)
CONTENTS = st.lists(st.one_of(st.text(max_size=8), st.sampled_from((*MARKERS, '"', "\\", "{", "}", "\n"))), max_size=6)
contents = CONTENTS.map("".join).filter(str.strip)
ids = st.integers(0, 2**31 - 1).map(str)
calls = st.one_of(
    st.tuples(
        st.just("new_memory_insert"),
        st.fixed_dictionaries({"memory_type": st.sampled_from(LISTS), "content": contents}),
    ),
    st.tuples(
        st.just("memory_update"),
        st.fixed_dictionaries({"memory_type": st.sampled_from(LISTS), "memory_id": ids, "new_content": contents}),
    ),
    st.tuples(
        st.just("memory_update"),
        st.fixed_dictionaries({"memory_type": st.just("core_memory"), "new_content": contents}),
    ),
    st.tuples(
        st.just("memory_delete"),
        st.fixed_dictionaries({"memory_type": st.sampled_from(LISTS), "memory_id": ids}),
    ),
    st.just(("memory_delete", {"memory_type": "core_memory"})),
)
both_wires = pytest.mark.parametrize("wire", WIRES)


def body(wire, arguments):
    """A semantic insert whose arguments are the given text."""
    if wire == "qwen_agent":
        return f"✿FUNCTION✿: new_memory_insert\n✿ARGS✿: {arguments}\n"
    return f'<tool_call>\n{{"name": "new_memory_insert", "arguments": {arguments}}}\n</tool_call>\n'


def test_names_follow_memory_types():
    assert [f"{kind.name.lower()}_memory" for kind in sorted(MemoryType)] == list(MEMORY_NAMES)


@both_wires
@settings(max_examples=150, deadline=None)
@given(
    st.lists(calls, max_size=4),
    st.lists(st.sampled_from(["", "Well.\n", "\n\n", " {x} "]), min_size=5, max_size=5),
)
def test_parse_inverts_format(wire, wanted, prose):
    text = prose[-1] + "".join(format_call(*call, wire) + gap for call, gap in zip(wanted, prose, strict=False))
    parsed = parse_calls(text, wire)
    assert [(call.name, call.arguments, call.status) for call in parsed] == [(*call, Status.OK) for call in wanted]
    assert [text[slice(*call.span)] for call in parsed] == [format_call(*call, wire) for call in wanted]


@both_wires
@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(alphabet=st.characters(exclude_categories=[]), max_size=6),
            st.sampled_from((*MARKERS, "✿FUNCTION✿", "✿ARGS✿:", "{", "}", '"', "'", "\\", "```", "[", "]", ",", ":")),
        ),
        max_size=40,
    ).map("".join)
)
def test_arbitrary_text_parses_to_ordered_disjoint_spans(wire, text):
    previous = 0
    for call in parse_calls(text, wire):
        start, end = call.span
        assert previous <= start < end <= len(text)
        assert text.startswith(("✿FUNCTION✿", "<tool_call>"), start)
        json.dumps(call.arguments, ensure_ascii=False).encode()  # no half surrogate pairs
        previous = end


BAD = {
    "qwen_agent": (
        "✿FUNCTION✿",
        "✿FUNCTION✿: nonsense\n",
        '✿FUNCTION✿: memory_update\n✿ARGS✿: {"memory_type": "sem',
        "✿FUNCTION✿: memory_update\n✿ARGS✿: {{{{",
        "✿FUNCTION✿: memory_update\n✿ARGS✿: }",
        '✿FUNCTION✿: memory_update\n✿ARGS✿: {"a": "b"\n',
        "✿FUNCTION✿: memory_update\n✿ARGS✿: [1, 2]\n",
        "<think>hm</think>",
        '"',
    ),
    "hermes": (
        "<tool_call>",
        "<tool_call></tool_call>",
        '<tool_call>{"name": "x"',
        '<tool_call>\n{"name": "memory_update", "arguments": {"memory_type": "',
        '<tool_call>\n{"name": 3, "arguments": [1]}\n</tool_call>',
        "<tool_call>\n{{{{\n</tool_call>",
        "</tool_call>",
        "<think>hm</think>",
        '"',
    ),
}


@both_wires
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_bad_calls_do_not_stop_a_good_one(wire, data):
    before, after = (data.draw(st.lists(st.sampled_from(BAD[wire]), max_size=5)) for _ in range(2))
    parsed = parse_calls("".join(before) + format_call(*GOOD, wire) + "".join(after), wire)
    assert [(c.name, c.arguments) for c in parsed if c.status == Status.OK] == [GOOD]
    openers = [bad.startswith(("✿FUNCTION✿", "<tool_call>")) for bad in before + after]
    assert len(parsed) <= 1 + sum(openers)
    lines = parse_calls("\n".join((*before, format_call(*GOOD, wire), *after)), wire)
    assert len(lines) == 1 + sum(openers)


@both_wires
@settings(max_examples=150, deadline=None)
@given(calls, st.data())
def test_a_call_cut_by_the_token_limit_is_bad_json(wire, call, data):
    text = format_call(*call, wire)
    first, last = text.index("{"), text.rindex("}" if wire == "qwen_agent" else "}}")
    parsed = parse_calls(text[: data.draw(st.integers(first + 1, last))], wire)
    assert [call.status for call in parsed] == [Status.BAD_JSON]


QUOTED = {
    "qwen_agent": "✿FUNCTION✿: memory_delete%s✿ARGS✿: {'memory_type': 'core_memory'}%s",
    "hermes": ("<tool_call>%s{'name': 'memory_delete', 'arguments': {'memory_type': 'core_memory'}}%s</tool_call>"),
}


@both_wires
@pytest.mark.parametrize("gap", ["", " ", "\n"])
@pytest.mark.parametrize("ending", ["", '"', '"]', '",}'])
def test_a_quoted_call_is_never_executed(wire, gap, ending):
    """Not even when the call that quotes it is cut or broken."""
    quote = json.dumps(QUOTED[wire].replace("%s", gap), ensure_ascii=False)[1:-1]
    opening = '{"memory_type": "semantic_memory", "content": "' + quote
    text = body(wire, opening + "@").partition("@")[0] + ending
    assert [call.name for call in parse_calls(text, wire)] in (["new_memory_insert"], [""])


@pytest.mark.parametrize(
    "arguments",
    [
        '{"memory_type": "semantic_memory", "content": "Zorim is a bird.",}',
        "{'memory_type': 'semantic_memory', 'content': 'Zorim is a bird.'}",
        '{memory_type: "semantic_memory", content: "Zorim is a bird."}',
        '{"memory_type": "semantic_memory" "content": "Zorim is a bird."}',
        '{\n  "memory_type": "semantic_memory",\n  "content": "Zorim is a bird."\n}',
    ],
)
@both_wires
def test_slightly_broken_json_is_repaired(wire, arguments):
    parsed = parse_calls(body(wire, arguments) + format_call(*GOOD, wire), wire)
    assert [(call.name, call.arguments, call.status) for call in parsed] == [(*GOOD, Status.OK)] * 2


@both_wires
def test_raw_line_breaks_in_a_string_are_kept(wire):
    (call,) = parse_calls(body(wire, '{"memory_type": "semantic_memory", "content": "a\n\tb"}'), wire)
    assert (call.status, call.content) == (Status.OK, "a\n\tb")


@both_wires
def test_arguments_in_a_code_fence(wire):
    text = format_call(*GOOD, wire).replace("{", "```json\n{", 1).replace("}\n", "}\n```\n", 1)
    (call,) = parse_calls(text, wire)
    assert (call.name, call.arguments, call.status, call.span) == (*GOOD, Status.OK, (0, len(text)))


def test_hermes_arguments_spelled_as_a_string():
    payload = json.dumps({"name": GOOD[0], "arguments": json.dumps(GOOD[1])})
    (call,) = parse_calls(f"<tool_call>{payload}</tool_call>", "hermes")
    assert (call.name, call.arguments, call.status) == (*GOOD, Status.OK)


@both_wires
def test_thinking_is_not_executed(wire):
    good = format_call(*GOOD, wire)
    assert len(parse_calls(f"<think>\n{good}</think>\n\n{good}", wire)) == 1
    assert parse_calls(f"<think>\n{good}", wire) == []
    assert len(parse_calls(f"{good}<think>\n{good}", wire)) == 1
    (call,) = parse_calls(f"perhaps {good}</think>\n\n{good}", wire)  # the prompt opened the block
    assert call.span[0] > len(good)


def test_nothing_after_an_invented_result_is_executed():
    good = format_call(*GOOD, "qwen_agent")
    assert len(parse_calls(f"{good}✿RESULT✿: done\n{good}", "qwen_agent")) == 1
    good = format_call(*GOOD, "hermes")
    assert len(parse_calls(f"{good}<tool_response>done</tool_response>\n{good}", "hermes")) == 1


@pytest.mark.parametrize(
    ("name", "arguments", "status"),
    [
        ("search", {"memory_type": "core_memory"}, Status.UNKNOWN_TOOL),
        ("new_memory_insert", {}, Status.MISSING_ARGUMENT),
        ("new_memory_insert", {"memory_type": "semantic_memory"}, Status.MISSING_ARGUMENT),
        ("new_memory_insert", {"memory_type": "semantic_memory", "content": 3}, Status.MISSING_ARGUMENT),
        (
            "new_memory_insert",
            {"memory_type": "semantic_memory", "new_content": "a"},
            Status.MISSING_ARGUMENT,
        ),
        ("new_memory_insert", {"memory_type": "semantic_memory", "content": " \n"}, Status.EMPTY_CONTENT),
        ("new_memory_insert", {"memory_type": "semantic", "content": "a"}, Status.UNKNOWN_TYPE),
        ("new_memory_insert", {"memory_type": ["core_memory"], "content": "a"}, Status.UNKNOWN_TYPE),
        ("memory_update", {"memory_type": "core_memory", "new_content": "a"}, Status.OK),
        ("memory_update", {"memory_type": "episodic_memory", "new_content": "a"}, Status.MISSING_ARGUMENT),
        ("memory_delete", {"memory_type": "episodic_memory", "memory_id": 12}, Status.OK),
        ("memory_delete", {"memory_type": "episodic_memory", "memory_id": " 12 "}, Status.OK),
        ("memory_delete", {"memory_type": "episodic_memory", "memory_id": "3fa2"}, Status.UNKNOWN_ID),
        ("memory_delete", {"memory_type": "episodic_memory", "memory_id": "²"}, Status.UNKNOWN_ID),
        ("memory_delete", {"memory_type": "episodic_memory", "memory_id": -1}, Status.UNKNOWN_ID),
        ("memory_delete", {"memory_type": "episodic_memory", "memory_id": 10**30}, Status.UNKNOWN_ID),
        ("memory_delete", {"memory_type": "episodic_memory", "memory_id": True}, Status.MISSING_ARGUMENT),
        ("memory_delete", {"memory_type": "episodic_memory", "memory_id": None}, Status.MISSING_ARGUMENT),
    ],
)
@both_wires
def test_verdicts(wire, name, arguments, status):
    text = {
        "qwen_agent": f"✿FUNCTION✿: {name}\n✿ARGS✿: {json.dumps(arguments)}",
        "hermes": f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>",
    }[wire]
    (call,) = parse_calls(text, wire)
    assert (call.name, call.arguments, call.status) == (name, arguments, status)
    assert (call.kind == CallKind.NO_CALL) == (status == Status.UNKNOWN_TOOL)


@both_wires
@settings(max_examples=100, deadline=None)
@given(calls)
def test_calls_are_frames_around_escaped_text(wire, call):
    segments = call_segments(*call, wire)
    assert "".join(text for text, _ in segments) == format_call(*call, wire)
    assert {text for text, is_frame in segments if is_frame} <= set(call_frames(wire))
    data = [text for text, is_frame in segments if not is_frame]
    assert [json.loads(f'"{text}"') for text in data] == [
        v for k, v in sorted(call[1].items(), reverse=True) if k != "memory_type"
    ]
    # No frame can be forged: recognising frames in the whole text finds those of the call and no other.
    longest_first = sorted(call_frames(wire), key=len, reverse=True)
    found = re.findall("|".join(map(re.escape, longest_first)), format_call(*call, wire))
    assert found == [text for text, is_frame in segments if is_frame]


@pytest.fixture
def uncollected():
    """What is timed is the parser: not the collector, which may walk over all that earlier tests have made."""
    gc.disable()
    yield
    gc.enable()


@both_wires
@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize(
    "unit",
    [
        "✿FUNCTION✿", "{", '"', "<tool_call>", "<think>", "</think>", "[", "\\", '\\"', '{"a":', "{}", "(",
        "\ud800", "\n", " ",
        '✿FUNCTION✿: x\n✿ARGS✿: {"', '✿FUNCTION✿: x\n✿ARGS✿: {\\"', "✿FUNCTION✿✿ARGS✿{'a': 1,}",
        '✿FUNCTION✿: x\n✿ARGS✿:{",":":"', "✿FUNCTION✿✿ARGS✿{", '<tool_call>{"',
        '<tool_call>{\\"', "<tool_call>{'a': 1,}", "<tool_call>```",
    ],
)  # fmt: skip
def test_time_is_linear_in_garbage(wire, unit):
    opener = {"qwen_agent": "✿FUNCTION✿: x\n✿ARGS✿: ", "hermes": "<tool_call>"}[wire]
    for prefix in ("", opener, opener + '{"a": ', opener + '{"a": "'):
        start = time.thread_time()
        parse_calls(prefix + unit * (300_000 // len(unit)), wire)
        # A quadratic scan of this much takes minutes; a linear one 0.2 s.
        assert time.thread_time() - start < 3


@pytest.mark.usefixtures("uncollected")
def test_deep_nesting_and_costly_repairs_are_refused_quickly():
    start = time.thread_time()
    for arguments in (
        '{"a":' * 50_000 + "1" + "}" * 50_000,
        '{"\\ud800":' * 800 + "[" * 200_000,
        "{'a': " + '("' * 8000 + "}",
        "{'" + "x" * 70_000 + "'}",
    ):
        (call,) = parse_calls(body("qwen_agent", arguments), "qwen_agent")
        assert call.status == Status.BAD_JSON
    broken = parse_calls(
        body("qwen_agent", "{'memory_type': 'semantic_memory', 'content': 'a'}") * 20_000, "qwen_agent"
    )
    assert broken[0].status == Status.OK  # until a reply has spent its budget of repairs
    assert broken[-1].status == Status.BAD_JSON
    assert time.thread_time() - start < 5


@given(
    st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5), lambda x: st.lists(x, max_size=3)),
    st.text(max_size=9),
)
@settings(max_examples=100, deadline=None)
def test_an_object_ends_where_json_says(value, rest):
    raw = json.dumps({"key": value}, ensure_ascii=False)
    found, end = ObjectReader(raw + rest, markers("MARK", "^MARK")).read(0, len(raw + rest))
    assert (json.dumps(found, ensure_ascii=False), end) == (raw, len(raw))


def test_unknown_wire_is_named():
    with pytest.raises(UserError, match=r"telegram.*qwen_agent"):
        parse_calls("", "telegram")


def test_format_refuses_what_it_cannot_write():
    with pytest.raises(ValueError, match="None"):
        format_call("memory_delete", {"memory_type": "semantic_memory", "memory_id": None}, "hermes")
