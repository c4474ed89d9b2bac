"""JSON schemas of the memory tools, without the memory types a run has switched off."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from memalpha_jax.errors import UserError
from memalpha_jax.tools.calls import MEMORY_NAMES

TYPE_NAMES = tuple(name.removesuffix("_memory") for name in MEMORY_NAMES)


def check_enabled(enabled: Sequence[str]) -> tuple[str, ...]:
    """The enabled types in `MemoryType` order; UserError for a name other than core, episodic, semantic."""
    unknown = [name for name in enabled if name not in TYPE_NAMES]
    if unknown:
        raise UserError(f"unknown memory type {unknown[0]!r}: choose among {', '.join(TYPE_NAMES)}")
    return tuple(name for name in TYPE_NAMES if name in enabled)


def tool_schemas(enabled: Sequence[str] = TYPE_NAMES) -> list[dict[str, Any]]:
    """Schemas (name, description, parameters) of the tools the writer of the memory may call.

    enabled: memory types in use, of core, episodic, semantic. A tool without a type left to act on is left
    out.
    """
    types = [f"{name}_memory" for name in check_enabled(enabled)]
    lists = [name for name in types if name != "core_memory"]
    schemas = []
    if lists:
        insert = {
            "memory_type": _choice(lists),
            "content": _text("What to store, understandable on its own."),
        }
        schemas.append(_schema("new_memory_insert", "Adds an item to a list.", insert, tuple(insert)))
    if not types:
        return schemas
    required = ("memory_type",) if "core_memory" in types else ("memory_type", "memory_id")
    kind = {"memory_type": _choice(types)}
    target = {"memory_id": _text("Number in brackets before the item." + _unless_core(types))} if lists else {}
    update = kind | {"new_content": _text("Text that takes the place of the old one.")} | target
    updates = "Replaces an item" if lists else "Replaces the core memory"
    deletes = "Removes an item" if lists else "Empties the core memory"
    also = " or the whole core memory" if lists and "core_memory" in types else ""
    schemas.append(_schema("memory_update", f"{updates}{also}.", update, (*required, "new_content")))
    schemas.append(_schema("memory_delete", f"{deletes}{also}.", kind | target, required))
    return schemas


def search_schema(enabled: Sequence[str] = TYPE_NAMES) -> dict[str, Any]:
    """Schema of the tool with which a reader searches a finished memory; writers are not offered it."""
    lists = [f"{name}_memory" for name in check_enabled(enabled) if name != "core"]
    properties = {
        "memory_type": _choice(lists),
        "query": _text("What to look for."),
        "search_method": _choice(["bm25", "text-embedding"]),
    }
    return _schema("search_memory", "Finds the items that fit a query best.", properties, ("memory_type", "query"))


def tools_text(wire: str, enabled: Sequence[str] = TYPE_NAMES) -> str:
    """The schemas as a prompt states them: one JSON object a line, in hermes wrapped as functions."""
    schemas = tool_schemas(enabled)
    if wire == "hermes":
        schemas = [{"type": "function", "function": schema} for schema in schemas]
    return "\n".join(json.dumps(schema, ensure_ascii=False) for schema in schemas)


def _schema(name: str, description: str, properties: dict[str, Any], required: Sequence[str]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"name": name, "description": description, "parameters": parameters}


def _choice(names: Sequence[str]) -> dict[str, Any]:
    return {"type": "string", "enum": list(names)}


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


def _unless_core(types: Sequence[str]) -> str:
    return " Not for core_memory." if "core_memory" in types else ""
