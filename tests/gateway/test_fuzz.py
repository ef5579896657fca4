"""Ten thousand calls derived from the control plane's own description: none makes it fail."""

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
from harness.gateway.gateway_process import Running

CALLS = 10_000
WORDS = ("", "base", "0", "-1", "é", "\0", "a" * 300, "../../etc", "%00", "{}", "null", "base'--")
NUMBERS = (0, 1, -1, 20, 86400, 86401, 1 << 31, 1 << 64, 1e99, 0.5, True)


class Maker:
    """Values that fit a schema, mostly."""

    def __init__(self, whole: Any, chance: random.Random) -> None:
        self._whole = whole
        self._chance = chance
        self.known = ["base", "code-interpreter-v1"]

    def value(self, schema: Any, depth: int = 0) -> Any:
        pick = self._chance
        if "$ref" in schema:
            found = self._whole
            for step in schema["$ref"].removeprefix("#/").split("/"):
                found = found[step]
            return self.value(found, depth)
        if pick.random() < 0.08 or depth > 5:
            return pick.choice([None, [], {}, "x", 7, -0.5, [[]], {"a": {"b": []}}])
        if "enum" in schema:
            return pick.choice(schema["enum"])
        makers: dict[str, Callable[[], Any]] = {
            "string": lambda: pick.choice([*WORDS, *self.known]),
            "integer": lambda: pick.choice(NUMBERS),
            "boolean": lambda: pick.random() < 0.5,
            "array": lambda: [
                self.value(schema["items"], depth + 1) for _ in range(pick.randrange(4))
            ],
            "object": lambda: self._object(schema, depth),
        }
        return makers[schema["type"]]()

    def _object(self, schema: Any, depth: int) -> Any:
        required = schema.get("required", ())
        made = {
            name: self.value(one, depth + 1)
            for name, one in schema.get("properties", {}).items()
            if self._chance.random() < (0.95 if name in required else 0.4)
        }
        if self._chance.random() < 0.1:
            made[self._chance.choice(WORDS)] = self.value({"type": "string"}, depth + 1)
        return made


def test_no_call_makes_it_fail(nothing: Running) -> None:
    whole = yaml.safe_load(FILE.read_text())
    chance = random.Random(20260822)
    maker = Maker(whole, chance)
    calls = [
        (method.upper(), path, one, item.get("parameters", []))
        for path, item in whole["paths"].items()
        for method, one in item.items()
        if method in METHODS
    ]
    line = http.client.HTTPConnection("127.0.0.1", nothing.port, timeout=60)
    seen: Counter[int] = Counter()
    reached: Counter[str] = Counter()
    for number in range(CALLS):
        method, path, one, shared = chance.choice(calls)
        id = chance.choice([*maker.known[-20:], "inothing"])
        path = path.replace("{id}", quote(str(id), safe="")).replace("//", "/x/")
        query = {}
        for parameter in (*one.get("parameters", []), *shared):
            if "$ref" in parameter:
                parameter = whole["components"]["parameters"][parameter["$ref"].rpartition("/")[2]]
            if parameter["in"] == "query" and chance.random() < 0.5:
                query[parameter["name"]] = maker.value(parameter["schema"])
        if query:
            path += "?" + urlencode(query, doseq=True)
        body = None
        if "requestBody" in one:
            schema = one["requestBody"]["content"]["application/json"]["schema"]
            body = json.dumps(maker.value(schema)).encode()
            if chance.random() < 0.05:
                body = body[: chance.randrange(len(body) + 1)] + chance.randbytes(3)
        line.request(method, path, body, {"X-API-KEY": nothing.key})
        answer = line.getresponse()
        data = answer.read()
        assert answer.status < 500, (number, method, path, body, data)
        assert answer.status < 400 or json.loads(data)["code"] == answer.status
        seen[answer.status] += 1
        if answer.status < 300:
            reached[one["operationId"]] += 1
        if answer.status == 201 and data.startswith(b"{"):
            made = json.loads(data)
            maker.known.append(made.get("sandboxID") or made["snapshotID"])
    line.close()
    # It did not only knock: every operation was also done.
    assert set(reached) == {one["operationId"] for _, _, one, _ in calls}, reached
    assert seen[404] and seen[400]
