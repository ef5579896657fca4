"""Closed schemas of requests: a field that is unknown, or that asks for what is not offered, is
refused by name instead of ignored."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

import fastjsonschema

from harness import strict_json

NOT_OFFERED = "x-not-offered"
"""Marks a field that clients know: values without an effect are accepted, others are refused."""
NO_EFFECT: tuple[Any, ...] = (None, False, "", [], {})


VALUES_MAX = 100_000
"""In one JSON text: each takes some twenty times the memory of its text."""
SMALL = 64 << 10
"""Bytes of JSON whose values need not be counted."""
_STRUCTURE = (b",", b"[", b"{")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.S)


class InvalidRequest(ValueError):
    """What is wrong with a request, for its sender."""


def parse_json(data: bytes) -> Any:
    """JSON that can be stored and sent again. Raises InvalidRequest."""
    if len(data) > SMALL and _values(data) > VALUES_MAX:
        raise InvalidRequest(f"the JSON has more than {VALUES_MAX} values")
    try:
        return strict_json.loads(data)
    except strict_json.NotJson as error:
        raise InvalidRequest(f"not JSON: {error}") from error


def _values(data: bytes) -> int:
    """How many values the JSON has, or some number above the limit."""
    total = sum(data.count(character) for character in _STRUCTURE)
    if total <= VALUES_MAX:
        return total
    for number, match in enumerate(_STRING.finditer(data)):
        if number > 2 * VALUES_MAX:
            return number
        total -= sum(data.count(character, *match.span()) for character in _STRUCTURE)
    return total


class RequestSchema:
    """A JSON Schema in which objects with `properties` are closed."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        self._check = fastjsonschema.compile(_closed(schema))

    def check(self, value: Any) -> None:
        """Raises InvalidRequest with the name of the field."""
        try:
            self._check(value)
        except fastjsonschema.JsonSchemaException as error:
            problem = _problem(value, self._schema, "") or str(error).removeprefix("data.")
            raise InvalidRequest(problem) from error
        except RecursionError as error:
            raise InvalidRequest("the JSON is nested too deeply") from error


def _closed(schema: Any) -> Any:
    """The schema for the validator, which says nothing that a sender understands."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    if schema.get(NOT_OFFERED):
        return {"enum": list(NO_EFFECT)}
    expanded = {name: _closed(value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), Mapping):
        expanded["additionalProperties"] = False
    return expanded


def _problem(value: Any, schema: Mapping[str, Any], where: str) -> str | None:
    if isinstance(value, list) and "items" in schema:
        for number, item in enumerate(value):
            if problem := _problem(item, schema["items"], f"{where}[{number}]"):
                return problem
    if not isinstance(value, dict) or "properties" not in schema:
        return None
    known = schema["properties"]
    for name, item in value.items():
        path = f"{where}.{name}" if where else name
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" (is {near[0]} meant?)" if near else ""
            return f"unknown field {path[:200]!r}{hint}"
        if known[name].get(NOT_OFFERED) and item not in NO_EFFECT:
            return f"{path} is not offered by this gateway"
        if problem := _problem(item, known[name], path):
            return problem
    return None


# Schemas in Python.

Schema = dict[str, Any]
TEXT: Schema = {"type": ["string", "null"]}
FLAG: Schema = {"type": ["boolean", "null"]}
TEXTS: Schema = {"type": ["array", "null"], "items": {"type": "string"}}
TEXT_MAP: Schema = {"type": ["object", "null"], "additionalProperties": {"type": "string"}}
UNSIGNED: Schema = {"type": ["integer", "null"], "minimum": 0, "maximum": (1 << 32) - 1}


def fields(**properties: Schema) -> Schema:
    """An object with these fields and no others."""
    return {"type": ["object", "null"], "properties": properties}


def not_offered(schema: Schema) -> Schema:
    return {**schema, NOT_OFFERED: True}
