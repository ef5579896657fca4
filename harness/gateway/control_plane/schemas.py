"""openapi.yaml as operations, and checks of requests against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from starlette.datastructures import QueryParams

from harness import paths
from harness.gateway.errors import ApiError
from harness.gateway.request_schema import InvalidRequest, RequestSchema, parse_json

FILE = paths.OPENAPI
METHODS = ("get", "post", "put", "delete")


@dataclass(frozen=True)
class Operation:
    """`schema` is that of the body, `query` that of its parameters by name."""

    id: str
    method: str
    path: str
    schema: RequestSchema | None
    body_required: bool
    query: Mapping[str, Mapping[str, Any]]
    open: bool
    """Whether it needs no API key."""

    def body(self, data: bytes) -> Mapping[str, Any]:
        """A request's body, parsed and checked; ApiError 400 for an invalid one."""
        if not data and not self.body_required:
            return {}
        try:
            body = parse_json(data)
            if body is None and not self.body_required:
                return {}
            if self.schema:
                self.schema.check(body)
        except InvalidRequest as error:
            raise ApiError(400, f"invalid request body: {error}") from error
        if not isinstance(body, dict):
            raise ApiError(400, "the request body must be a JSON object")
        if body and not self.schema:
            raise ApiError(400, f"invalid request body: unknown field {next(iter(body))!r}")
        return body

    def check_query(self, query: QueryParams) -> None:
        """ApiError 400 for a parameter that is unknown, repeated, or none of its values."""
        for name, value in query.multi_items():
            schema = self.query.get(name)
            if schema is None:
                raise ApiError(400, f"unknown query parameter {name!r}")
            if schema["type"] != "array" and len(query.getlist(name)) > 1:
                raise ApiError(400, f"the query parameter {name} is repeated")
            if "enum" in schema and value not in schema["enum"]:
                raise ApiError(400, f"{name} must be one of: {', '.join(schema['enum'])}")


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
            parameters = [*item.get("parameters", ()), *described.get("parameters", ())]
            yield Operation(
                described["operationId"], method.upper(), path,
                RequestSchema(_json_schema(schema, document)) if schema else None,
                bool(body.get("required")),
                {
                    parameter["name"]: parameter["schema"]
                    for parameter in (_json_schema(one, document) for one in parameters)
                    if parameter["in"] == "query"
                },
                described.get("security") == [],
            )  # fmt: skip


def _json_schema(schema: Any, document: Mapping[str, Any]) -> Any:
    """An OpenAPI 3.0 schema as JSON Schema: `$ref` resolved, `nullable` as a type."""
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
        expanded["type"] = [expanded["type"], "null"]
        if "enum" in expanded:
            expanded["enum"] = [*expanded["enum"], None]
    return expanded
