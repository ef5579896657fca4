"""Ten thousand calls derived from openapi.yaml: none may cause a server error."""

from __future__ import annotations

import http.client
import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

import yaml

from harness.gateway.control_plane.schemas import FILE, METHODS
from harness.gateway.gateway_process import GatewayProcess
from harness.gateway.request_schema import NOT_OFFERED

CALLS = 10_000
WORDS = ("", "base", "0", "-1", "é", "\0", "a" * 300, "../../etc", "%00", "{}", "null", "base'--")
NUMBERS = (0, 1, -1, 20, 86400, 86401, 1 << 31, 1 << 64, 1e99, 0.5, True)


class Maker:
    """Makes values that match a schema, most of the time."""

    def __init__(self, whole: Any, random_source: random.Random) -> None:
        self._whole = whole
        self._random = random_source
        self.known = ["base", "code-interpreter-v1"]

    def value(self, schema: Any, depth: int = 0) -> Any:
        random_source = self._random
        if "$ref" in schema:
            target = self._whole
            for step in schema["$ref"].removeprefix("#/").split("/"):
                target = target[step]
            return self.value(target, depth)
        if schema.get(NOT_OFFERED) and random_source.random() < 0.97:
            return None
        if random_source.random() < 0.04 or depth > 5:
            return random_source.choice([None, [], {}, "x", 7, -0.5, [[]], {"a": {"b": []}}])
        if "enum" in schema:
            return random_source.choice(schema["enum"])
        makers: dict[str, Callable[[], Any]] = {
            "string": lambda: random_source.choice([*WORDS, *self.known]),
            "integer": lambda: random_source.choice(NUMBERS),
            "boolean": lambda: random_source.random() < 0.5,
            "array": lambda: [
                self.value(schema["items"], depth + 1) for _ in range(random_source.randrange(4))
            ],
            "object": lambda: self._object(schema, depth),
        }
        return makers[schema["type"]]()

    def _object(self, schema: Any, depth: int) -> Any:
        required = schema.get("required", ())
        values = {
            name: self.value(part, depth + 1)
            for name, part in schema.get("properties", {}).items()
            if self._random.random() < (0.98 if name in required else 0.3)
        }
        if self._random.random() < 0.03:
            values[self._random.choice(WORDS)] = self.value({"type": "string"}, depth + 1)
        return values


def test_no_call_causes_a_server_error(nothing: GatewayProcess) -> None:
    document = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    random_source = random.Random(20260822)
    maker = Maker(document, random_source)
    calls = [
        (method.upper(), path, operation, item.get("parameters", []))
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    ]
    connection = http.client.HTTPConnection("127.0.0.1", nothing.port, timeout=60)
    seen: Counter[int] = Counter()
    reached: Counter[str] = Counter()
    for number in range(CALLS):
        method, path, operation, shared = random_source.choice(calls)
        id = random_source.choice([*maker.known[-20:], "inothing"])
        path = path.replace("{id}", quote(str(id), safe="")).replace("//", "/x/")
        query = {}
        for parameter in (*operation.get("parameters", []), *shared):
            if "$ref" in parameter:
                parameter = document["components"]["parameters"][
                    parameter["$ref"].rpartition("/")[2]
                ]
            if parameter["in"] == "query" and random_source.random() < 0.5:
                query[parameter["name"]] = maker.value(parameter["schema"])
        if query:
            path += "?" + urlencode(query, doseq=True)
        body = None
        if "requestBody" in operation:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            body = json.dumps(maker.value(schema)).encode()
            if random_source.random() < 0.05:
                body = body[: random_source.randrange(len(body) + 1)] + random_source.randbytes(3)
        connection.request(method, path, body, {"X-API-KEY": nothing.key})
        response = connection.getresponse()
        data = response.read()
        assert response.status < 500, (number, method, path, body, data)
        assert response.status < 400 or json.loads(data)["code"] == response.status
        seen[response.status] += 1
        if response.status < 300:
            reached[operation["operationId"]] += 1
        if response.status == 201 and data.startswith(b"{"):
            created = json.loads(data)
            maker.known.append(created.get("sandboxID") or created["snapshotID"])
    connection.close()
    # Every operation also succeeded at least once.
    assert set(reached) == {operation["operationId"] for _, _, operation, _ in calls}, reached
    assert seen[404] and seen[400]
