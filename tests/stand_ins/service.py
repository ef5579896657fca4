"""The service behind a stand-in's address: its sandboxes, and what it answers."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from tests.stand_ins.behaviours import Behaviour
from tests.stand_ins.execution import (
    Ended,
    Machine,
    cell_lines,
    output_without_end,
    process_events,
    started_argv,
)
from tests.stand_ins.wire import Request, Response

ENVD, INTERPRETER = 49983, 49999
DOMAIN = "stand-in.localhost"
COUNTS = "/stand-in/counts"
"""What the stand-in has done, as JSON; no service has this."""
STREAM = {"content-type": "application/connect+json"}
JSON = {"content-type": "application/json"}


@dataclass
class Sandbox:
    id: str
    template: str
    metadata: Mapping[str, str]
    machine: Machine
    token: str
    created: float = field(default_factory=time.monotonic)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    ready: float = 0.0
    """When it runs commands, on the monotonic clock."""


class Service:
    """`made`, `deleted` and `requests` count what was asked of it, by operation."""

    def __init__(self, behaviour: Behaviour, key: str, directory: Path, seed: int = 0) -> None:
        self.behaviour = behaviour
        self.key = key
        self._directory = directory
        self._chance = random.Random(seed)
        self._sandboxes: dict[str, Sandbox] = {}
        self._running = asyncio.Semaphore(16)
        self._pids = iter(range(300, 1 << 30))
        self.domain = DOMAIN
        self.requests: Counter[str] = Counter()
        self.made: list[str] = []
        self.deleted: list[str] = []
        self.strangers = [self._make("base", {}) for _ in range(behaviour.strangers)]
        self.made.clear()

    @property
    def alive(self) -> list[Sandbox]:
        """The sandboxes that exist."""
        return [sandbox for sandbox in self._sandboxes.values() if self._lives(sandbox)]

    def _lives(self, sandbox: Sandbox) -> bool:
        limit = self.behaviour.lives_s
        return not limit or time.monotonic() - sandbox.created < limit

    def _found(self, id: str) -> Sandbox | None:
        sandbox = self._sandboxes.get(id)
        return sandbox if sandbox and self._lives(sandbox) else None

    def counts(self) -> Mapping[str, Any]:
        return {
            "made": len(self.made),
            "deleted": len(self.deleted),
            "alive": [sandbox.id for sandbox in self.alive],
            "requests": dict(self.requests),
        }

    def operation(self, request: Request) -> str:
        """The name of what is asked for."""
        id, port = self._destination(request)
        if id:
            if port == INTERPRETER:
                return "cell"
            return "command" if request.path.startswith("/process.Process/") else "file"
        path = request.path.removeprefix("/v2")
        if path == "/sandboxes":
            return {"POST": "create", "GET": "list"}.get(request.method, "other")
        if path.startswith("/sandboxes/") and path.count("/") == 2:
            return {"DELETE": "delete", "GET": "get"}.get(request.method, "other")
        return path.strip("/").partition("/")[0] or "other"

    async def answer(self, request: Request) -> Response:
        operation = self.operation(request)
        self.requests[operation] += 1
        if request.path == COUNTS:
            return json_response(200, self.counts())
        if request.path == "/health" and operation == "health":
            return (
                json_response(200, {"status": "ok", "sandboxes": 0})
                if self._cube
                else Response(200)
            )
        id, port = self._destination(request)
        if id:
            return await self._traffic(id, port, operation, request)
        if refusal := self._unauthorised(request):
            return refusal
        if operation == "create":
            return self._create(request)
        if operation == "list":
            return self._list(request)
        return self._about_one(operation, request)

    # The API.

    @property
    def _cube(self) -> bool:
        return self.behaviour.api == "cubesandbox"

    def _unauthorised(self, request: Request) -> Response | None:
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        given = bearer.strip() if self._cube and scheme == "Bearer" else ""
        given = given or request.headers.get("x-api-key", "")
        if secrets.compare_digest(given.encode(), self.key.encode()):
            return None
        if not self._cube:
            return error(401, "Invalid API key" if given else "Missing API key")
        if given:
            return error(401, "Authentication rejected by callback")
        return error(401, "Missing authentication: neither a bearer token nor an X-API-Key")

    def _create(self, request: Request) -> Response:
        wants = self.behaviour
        if self._cube and request.path.startswith("/v2"):
            return Response(405, headers={"allow": "GET,HEAD"})
        number = self.requests["create"]
        if wants.busy and number % wants.busy_every == 0:
            headers = {"retry-after": wants.retry_after} if wants.retry_after else {}
            why = "Rate limit exceeded" if wants.busy == 429 else "no node has room"
            return error(wants.busy, why, headers)
        try:
            body = json.loads(request.body or b"{}")
            template = body["templateID"]
            metadata = {str(name): str(value) for name, value in body.get("metadata", {}).items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            return error(400, "the body is not a request for a sandbox")
        if template not in wants.templates:
            if self._cube:  # CubeMaster's failures all become this
                return error(500, "template not found")
            return error(404, f"template '{template}' not found")
        if self._full():
            return error(wants.quota_status, "the maximum number of sandboxes has been reached")
        return self._answer_creation(self._make(template, metadata))

    def _full(self) -> bool:
        wants = self.behaviour
        count = len(self.made) if wants.quota_counts_made else len(self.alive)
        return 0 <= wants.quota <= count

    def _make(self, template: str, metadata: Mapping[str, str]) -> Sandbox:
        if self.behaviour.lie == "same" and self.alive:
            return self.alive[0]
        id = secrets.token_hex(16) if self._cube else "i" + secrets.token_hex(10)
        directory = self._directory / id
        sandbox = Sandbox(id, template, metadata, Machine(directory), secrets.token_hex(16))
        sandbox.ready = sandbox.created + self._chance.uniform(*self.behaviour.boot_s)
        self.made.append(id)
        lie = self.behaviour.lie
        if lie != "no-sandbox" and not (lie == "half" and len(self.made) % 2 == 0):
            directory.mkdir()
            self._sandboxes[id] = sandbox
        return sandbox

    def _answer_creation(self, sandbox: Sandbox) -> Response:
        kind, status = self.behaviour.create_body, self.behaviour.create_status
        if status >= 400:
            return Response(status, b"<html><h1>Gateway</h1></html>", {"content-type": "text/html"})
        if kind == "endless":
            return Response(201, headers=JSON, stream=_spaces())
        if kind == "trailers":
            body = json.dumps(self._described(sandbox)).encode()
            return Response(201, headers=JSON, stream=_only(body), ends=False)
        if kind == "other-json":
            return json_response(201, {"result": {"vm": {"uuid": sandbox.id}}, "success": True})
        if kind == "not-json":
            page = b"<!doctype html><title>Welcome</title><p>It works."
            return Response(201, page, {"content-type": "text/html"})
        return json_response(status, self._described(sandbox))

    def _described(self, sandbox: Sandbox) -> dict[str, Any]:
        described = {
            "templateID": sandbox.template, "sandboxID": sandbox.id, "clientID": "stand-in",
            "envdVersion": "0.6.7", "domain": self.domain,
        }  # fmt: skip
        return described if self._cube else {**described, "envdAccessToken": sandbox.token}

    def _item(self, sandbox: Sandbox) -> dict[str, Any]:
        at = sandbox.started_at
        return {
            "templateID": sandbox.template, "sandboxID": sandbox.id, "clientID": "stand-in",
            "startedAt": at.isoformat(), "endAt": (at + timedelta(seconds=300)).isoformat(),
            "cpuCount": 1, "memoryMB": 1, "diskSizeMB": 1, "state": "running",
            "envdVersion": "0.6.7", "metadata": dict(sandbox.metadata),
        }  # fmt: skip

    def _list(self, request: Request) -> Response:
        wants = self.behaviour
        if not wants.lists:
            return error(404, "there is nothing at this path")
        if wants.list_status:
            return error(wants.list_status, "the list cannot be made")
        asked = dict(parse_qsl(request.query.get("metadata", "")))
        known = self.alive
        if self._cube:  # it cuts first and chooses then, and names no next page
            limit = int(request.query.get("limit") or 100)
            known = known[: limit if request.path.startswith("/v2") else 200]
        chosen = [
            sandbox
            for sandbox in known
            if all(sandbox.metadata.get(name) == value for name, value in asked.items())
        ]
        begin = int(request.query.get("nextToken") or 0)
        page = chosen[begin:]
        headers = {}
        more = len(page) > wants.page or not wants.last_page
        if wants.page and request.path.startswith("/v2") and more:
            page = page[: wants.page]
            headers["x-next-token"] = str(begin + wants.page)
        if wants.same_page:
            headers["x-next-token"] = str(begin)
        items = [self._item(sandbox) for sandbox in page]
        if wants.odd_strangers:
            items[:0] = [{"sandboxID": "a/b c", "metadata": {}}, {"sandboxID": None}, {}]
        return json_response(200, items, headers)

    def _about_one(self, operation: str, request: Request) -> Response:
        parts = request.path.strip("/").split("/")
        if len(parts) < 2 or parts[0] != "sandboxes":
            return Response(404) if self._cube else error(404, "there is nothing at this path")
        id = parts[1]
        sandbox = self._found(id)
        if sandbox is None:
            if operation == "delete" and id in self.made and self.behaviour.lie == "no-sandbox":
                self.deleted.append(id)  # it goes on with its lie
                return Response(204)
            return error(404, f"sandbox {id} not found")
        if operation == "delete":
            self.deleted.append(id)
            if not self.behaviour.keeps_deleted:
                del self._sandboxes[id]
            return Response(204)
        if operation == "get":
            return json_response(200, self._item(sandbox))
        if self._cube and parts[2:] == ["rollback"] and request.method == "POST":
            return error(404, "snapshot not found")
        if parts[2:] == ["timeout"] and request.method == "POST":
            return Response(204)
        return error(404, "there is nothing at this path")

    # Traffic to sandboxes.

    def _destination(self, request: Request) -> tuple[str, int]:
        """The sandbox and port that a request names; "" if it is for the API."""
        routing = self.behaviour.routing
        id = request.headers.get("e2b-sandbox-id", "")
        if id and routing in ("headers", "both"):
            port = request.headers.get("e2b-sandbox-port", str(ENVD))
            return id, int(port) if port.isdigit() else 0
        label, dot, _ = request.headers.get("host", "").partition(".")
        port, dash, id = label.partition("-")
        if dot and dash and port.isdigit() and routing in ("host", "both"):
            return id, int(port)
        return "", 0

    async def _traffic(self, id: str, port: int, operation: str, request: Request) -> Response:
        if self.behaviour.lie in ("echo", "ready"):
            return await self._lie(operation, request)
        sandbox = self._found(id)
        if sandbox is None:
            if self._cube:  # what nginx answers by itself
                return Response(500, b"<html><h1>500 Internal Server Error</h1></html>")
            return json_response(502, {"sandboxId": id, "message": "The sandbox was not found",
                                       "code": 502})  # fmt: skip
        if not self._cube and request.headers.get("x-access-token") != sandbox.token:
            return json_response(401, {"code": "unauthenticated", "message": "no valid token"})
        await asyncio.sleep(max(sandbox.ready - time.monotonic(), 0))
        if operation == "cell" and request.path == "/execute" and request.method == "POST":
            code = json.loads(request.body)["code"]
            return Response(200, stream=cell_lines(await self._run(sandbox, code)))
        if request.path == "/process.Process/Start":
            return await self._command(sandbox, request)
        if port == ENVD and request.path == "/files" and request.method == "POST":
            path = request.query.get("path", "")
            sandbox.machine.upload(path, uploaded_content(request))
            name = Path(path).name
            return json_response(200, [{"path": path, "name": name, "type": "file"}])
        if request.path == "/health":
            return Response(204)
        return json_response(404, {"code": "not_found", "message": "a stand-in has no such call"})

    async def _run(self, sandbox: Sandbox, what: str | list[str]) -> Ended:
        async with self._running:
            if isinstance(what, str):
                ended = await sandbox.machine.run_cell(what)
            else:
                ended = await sandbox.machine.run(what)
        await asyncio.sleep(self.behaviour.command_s)
        return ended

    async def _command(self, sandbox: Sandbox, request: Request) -> Response:
        kind, pid = self.behaviour.command_body, next(self._pids)
        if kind == "endless":
            return Response(200, headers=STREAM, stream=output_without_end(pid))
        if kind == "not-json":
            return Response(200, b"\0\0\0\0\5hello", STREAM)
        try:
            argv = list(started_argv(request.body))
        except (ValueError, KeyError, TypeError):
            return json_response(400, {"code": "invalid_argument", "message": "no process"})
        ended = await self._run(sandbox, argv)
        return Response(200, headers=STREAM, stream=process_events(ended, pid))

    async def _lie(self, operation: str, request: Request) -> Response:
        """Output without a process: what was sent, or what a caller likes to read."""
        cell = operation == "cell"
        text = "ready\n"
        if self.behaviour.lie == "echo":
            text = json.loads(request.body)["code"] if cell else started_argv(request.body)[-1]
            text += "" if cell else "\n"
        ended = Ended(b"", text.encode(), 0) if cell else Ended(text.encode(), b"", 0)
        if cell:
            return Response(200, stream=cell_lines(ended))
        return Response(200, headers=STREAM, stream=process_events(ended, next(self._pids)))


async def _spaces() -> AsyncIterator[bytes]:
    yield b'{"sandboxID":"'
    while True:
        yield b" " * 65536


async def _only(body: bytes) -> AsyncIterator[bytes]:
    yield body


def uploaded_content(request: Request) -> bytes:
    """The file of an upload, alone or as the only part of a form."""
    kind, _, boundary = request.headers.get("content-type", "").partition("boundary=")
    if not kind.startswith("multipart/form-data"):
        return request.body
    part = request.body.split(b"--" + boundary.strip('"').encode())[1]
    return part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")


def json_response(status: int, body: Any, headers: Mapping[str, str] | None = None) -> Response:
    return Response(status, json.dumps(body).encode(), {**JSON, **(headers or {})})


def error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return json_response(status, {"code": status, "message": message}, headers)
