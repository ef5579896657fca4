"""The control plane's description, and checks of requests against it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import fastjsonschema
import yaml

from harness import paths
from harness.gateway.errors import ApiError

FILE = paths.OPENAPI
METHODS = ("get", "post", "put", "delete")


@dataclass(frozen=True)
class Operation:
    """One operation; `check` raises ApiError for a body that does not fit."""

    id: str
    method: str
    path: str
    check: Callable[[Any], Any] | None
    body_required: bool
    open: bool
    """Whether it needs no key."""

    def body(self, data: bytes) -> Mapping[str, Any]:
        """A request's body, read and checked."""
        if not data and not self.body_required:
            return {}
        try:
            found = json.loads(data)
        except ValueError as error:
            raise ApiError(400, f"the body is not JSON: {error}") from error
        if found is None and not self.body_required:
            return {}
        if self.check:
            try:
                self.check(found)
            except fastjsonschema.JsonSchemaException as error:
                raise ApiError(400, f"the body does not fit: {error}") from error
        if not isinstance(found, dict):
            raise ApiError(400, "the body is no object")
        return found


def operations() -> Iterator[Operation]:
    """Every operation of the description, in its order."""
    whole = yaml.safe_load(FILE.read_text())
    for path, item in whole["paths"].items():
        for method in METHODS:
            if method not in item:
                continue
            one = item[method]
            body = one.get("requestBody", {})
            schema = body.get("content", {}).get("application/json", {}).get("schema")
            check = fastjsonschema.compile(_plain(schema, whole)) if schema else None
            yield Operation(
                one["operationId"], method.upper(), path, check,
                bool(body.get("required")), one.get("security") == [],
            )  # fmt: skip


def _plain(schema: Any, whole: Mapping[str, Any]) -> Any:
    """A schema of OpenAPI 3.0 as JSON Schema: references resolved, `nullable` spelt out."""
    if isinstance(schema, list):
        return [_plain(one, whole) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        found: Any = whole
        for step in schema["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        return _plain(found, whole)
    plain = {name: _plain(one, whole) for name, one in schema.items() if name != "nullable"}
    if schema.get("nullable"):
        return {"anyOf": [plain, {"type": "null"}]}
    return plain
