"""openapi.yaml as operations, and checks of request bodies against its schemas."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import fastjsonschema
import yaml

from harness import paths, strict_json
from harness.gateway.errors import ApiError

FILE = paths.OPENAPI
METHODS = ("get", "post", "put", "delete")


@dataclass(frozen=True)
class Operation:
    """`check` raises JsonSchemaException for a body that does not match the schema."""

    id: str
    method: str
    path: str
    check: Callable[[Any], Any] | None
    body_required: bool
    open: bool
    """Whether it needs no API key."""

    def body(self, data: bytes) -> Mapping[str, Any]:
        """A request's body, parsed and checked; ApiError 400 for an invalid one."""
        if not data and not self.body_required:
            return {}
        try:
            body = strict_json.loads(data)
        except ValueError as error:
            raise ApiError(400, f"the body is not JSON: {error}") from error
        if body is None and not self.body_required:
            return {}
        if self.check:
            try:
                self.check(body)
            except fastjsonschema.JsonSchemaException as error:
                raise ApiError(400, f"the body does not match the schema: {error}") from error
        if not isinstance(body, dict):
            raise ApiError(400, "the body must be a JSON object")
        return body


def operations() -> Iterator[Operation]:
    """All operations, in the order of the file."""
    document = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    for path, item in document["paths"].items():
        for method in METHODS:
            if method not in item:
                continue
            described = item[method]
            body = described.get("requestBody", {})
            schema = body.get("content", {}).get("application/json", {}).get("schema")
            check = fastjsonschema.compile(_json_schema(schema, document)) if schema else None
            yield Operation(
                described["operationId"], method.upper(), path, check,
                bool(body.get("required")), described.get("security") == [],
            )  # fmt: skip


def _json_schema(schema: Any, document: Mapping[str, Any]) -> Any:
    """An OpenAPI 3.0 schema as JSON Schema: `$ref` resolved, `nullable` expanded."""
    if isinstance(schema, list):
        return [_json_schema(item, document) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        target: Any = document
        for step in schema["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        return _json_schema(target, document)
    expanded = {
        name: _json_schema(value, document) for name, value in schema.items() if name != "nullable"
    }
    if schema.get("nullable"):
        return {"anyOf": [expanded, {"type": "null"}]}
    return expanded
