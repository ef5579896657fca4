"""Closed schemas of requests: a field that is unknown, or that asks for what is not offered, is
refused by name instead of ignored."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any

import fastjsonschema

NOT_OFFERED = "x-not-offered"
"""Marks a field that clients know: values without an effect are accepted, others are refused."""
NO_EFFECT: tuple[Any, ...] = (None, False, "", [], {})


class InvalidRequest(ValueError):
    """What is wrong with a request, for its sender."""


def parse_json(data: bytes) -> Any:
    """JSON that can be stored and sent again. Raises InvalidRequest."""
    try:
        value = json.loads(data, parse_constant=_refuse_constant)
        if b"\\ud" in data or b"\\uD" in data:  # perhaps half of a surrogate pair
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest("a text has half of a surrogate pair") from error
    except RecursionError as error:
        raise InvalidRequest("the JSON is nested too deeply") from error
    except ValueError as error:
        raise InvalidRequest(f"not JSON: {error}") from error
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


class RequestSchema:
    """A JSON Schema in which objects with `properties` are closed."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        self._check = fastjsonschema.compile(dict(schema))

    def check(self, value: Any) -> None:
        """Raises InvalidRequest with the name of the field."""
        if problem := _problem(value, self._schema, ""):
            raise InvalidRequest(problem)
        try:
            self._check(value)
        except fastjsonschema.JsonSchemaException as error:
            raise InvalidRequest(str(error).removeprefix("data.")) from error
        except RecursionError as error:
            raise InvalidRequest("the JSON is nested too deeply") from error


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
