"""Traffic to sandboxes: envd on port 49983, the code interpreter on 49999."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from harness.errors import CoppiceError
from harness.gateway.data_plane import interpreter, port_proxy, transfer
from harness.gateway.data_plane.files import FileService
from harness.gateway.data_plane.interpreter import Cell
from harness.gateway.data_plane.processes import ProcessService
from harness.gateway.envd.client import Envd, Listener
from harness.gateway.envd.connections import Link
from harness.gateway.errors import ApiError, RpcError, as_http, as_rpc
from harness.gateway.sandboxes.entries import Entry
from harness.gateway.sandboxes.service import Sandboxes

ENVD_PORT, INTERPRETER_PORT = 49983, 49999
CODE_MAX = 16 << 20


class Data:
    """Answers requests that name a sandbox and a port."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes

    async def answer(self, id: str, port: int, request: Request) -> Response:
        path = request.url.path
        rpc = path.startswith(("/process.Process/", "/filesystem.Filesystem/"))
        try:
            entry, envd = await self._sandboxes.envd_of(id)
            if port == ENVD_PORT:
                return await self._envd(entry, envd, request, path, rpc)
            if port == INTERPRETER_PORT:
                return await self._interpreter(entry, envd, request, path)
            port_proxy.admit(
                entry,
                self._sandboxes.token(entry, "traffic"),
                request.headers.get(port_proxy.TOKEN, ""),
            )
            made = await port_proxy.opened(envd, port)
            return port_proxy.Passage(id, port, *made) if made else port_proxy.closed(id, port)
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception as error:
            if rpc and not isinstance(error, ApiError):
                failed = as_rpc(error)
                return JSONResponse(failed.body(), failed.status)
            said = as_http(error)
            if rpc and said.status == 502:
                body = {"code": "unavailable", "message": said.message, "sandboxId": id}
                return JSONResponse(body, 502)
            return JSONResponse({**said.body(), "sandboxId": id}, said.status)

    async def open(self, id: str, port: int, headers: port_proxy.Headers) -> tuple[Link, Listener]:
        """A connection to a server of a sandbox, for what is carried as bytes."""
        entry, envd = await self._sandboxes.envd_of(id)
        given = dict(headers).get(port_proxy.TOKEN.encode(), b"").decode("latin-1")
        port_proxy.admit(entry, self._sandboxes.token(entry, "traffic"), given)
        made = (
            None if port in (ENVD_PORT, INTERPRETER_PORT) else await port_proxy.opened(envd, port)
        )
        if made is None:
            raise ApiError(502, "The sandbox is running but port is not open")
        return made

    # envd.

    async def _envd(
        self, entry: Entry, envd: Envd, request: Request, path: str, rpc: bool
    ) -> Response:
        if path == "/health":
            return Response(status_code=204)
        user = _user(request)
        if path == "/files":
            operation = {"GET": "read", "POST": "write"}.get(request.method)
            if operation is None:
                raise ApiError(405, f"{request.method} is not offered at /files")
            if "signature" in request.query_params:
                transfer.check_signature(request, operation, self._sandboxes.token(entry, "envd"))
            else:
                self._authorise(entry, request, rpc)
            user = request.query_params.get("username") or user
            if operation == "read":
                return await transfer.download(request, envd, user)
            return await transfer.upload(request, envd, user)
        self._authorise(entry, request, rpc)
        if rpc:
            if request.method != "POST":
                raise ApiError(405, "services are called with POST")
            _, service, method = path.split("/", 2)
            if service == "process.Process":
                return await ProcessService(entry, envd, user).answer(method, request)
            return await FileService(entry, envd, user).answer(method, request)
        if path == "/envs":
            return JSONResponse(entry.record.environment)
        raise ApiError(404, f"there is nothing at {path}")

    def _authorise(self, entry: Entry, request: Request, rpc: bool) -> None:
        """A sandbox's token is for its own envd and nothing else."""
        if not entry.record.secure:
            return
        expected = self._sandboxes.token(entry, "envd")
        given = request.headers.get("x-access-token", "")
        if not hmac.compare_digest(expected.encode(), given.encode()):
            message = "the access token is missing or of another sandbox"
            if rpc:
                raise RpcError("unauthenticated", message)
            raise ApiError(401, message)

    # The code interpreter.

    async def _interpreter(self, entry: Entry, envd: Envd, request: Request, path: str) -> Response:
        if path == "/health":
            return Response(b"OK")
        self._admit(entry, request, path)
        if not entry.synced:
            await envd.sync()
            entry.synced = True
        words = path.strip("/").split("/")
        what = (request.method, *words)
        if what == ("POST", "execute"):
            return await self._execute(entry, envd, await _json(request))
        if what == ("GET", "contexts"):
            return JSONResponse([one.as_json() for one in interpreter.contexts(envd)])
        if what == ("POST", "contexts"):
            return await _new_context(envd, await _json(request))
        if len(words) >= 2 and words[0] == "contexts":
            try:
                context = interpreter.context(envd, words[1])
            except LookupError as error:
                raise ApiError(404, str(error)) from error
            if request.method == "DELETE" and len(words) == 2:
                await envd.signal(context.process.pid, 9)
                envd.processes.pop(context.process.pid, None)
                return Response(status_code=204)
            if what[0] == "POST" and words[2:] == ["restart"]:
                await envd.signal(context.process.pid, 9)
                envd.processes.pop(context.process.pid, None)
                await interpreter.start_context(envd, context.id, context.language, context.cwd)
                return Response(status_code=204)
        raise ApiError(404, f"{request.method} {path} is not offered")

    def _admit(self, entry: Entry, request: Request, path: str) -> None:
        """Either token lets in. Older SDKs send none with contexts: the sandbox's id alone, which
        nobody can guess, is what they know; code is never run for it."""
        given = {
            "envd": request.headers.get("x-access-token"),
            "traffic": request.headers.get("e2b-traffic-access-token"),
        }
        if not entry.record.secure:
            return
        sent = {what: token for what, token in given.items() if token}
        if not sent and path.startswith("/contexts"):
            return
        for what, token in sent.items():
            if hmac.compare_digest(self._sandboxes.token(entry, what).encode(), token.encode()):
                return
        raise ApiError(401, "the access token is missing or of another sandbox")

    async def _execute(self, entry: Entry, envd: Envd, body: Mapping[str, Any]) -> Response:
        code, given = body.get("code"), body.get("env_vars") or {}
        if not isinstance(code, str):
            raise ApiError(400, "code is a text")
        if not isinstance(given, Mapping):
            raise ApiError(400, "env_vars are names and texts")
        language = body.get("language")
        if language not in interpreter.PYTHON:
            raise ApiError(400, f"{language} is not spoken here; python is")
        environment = {**entry.record.environment, **{k: str(v) for k, v in given.items()}}
        lines = interpreter.execute(
            envd, body.get("context_id") or interpreter.DEFAULT, Cell(code, environment)
        )
        try:
            first = await anext(lines)
        except LookupError as error:
            raise ApiError(404, str(error)) from error
        return StreamingResponse(_lines(first, lines), media_type="application/x-ndjson")


async def _lines(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        yield first
        async for line in rest:
            yield line
    except CoppiceError as error:
        said = {"type": "error", "name": "SandboxError", "value": str(error), "traceback": ""}
        yield json.dumps(said).encode() + b"\n"
    finally:
        close = getattr(rest, "aclose", None)
        if close:
            await close()


async def _new_context(envd: Envd, body: Mapping[str, Any]) -> Response:
    if body.get("language") not in interpreter.PYTHON:
        raise ApiError(400, f"{body.get('language')} is not spoken here; python is")
    cwd = body.get("cwd") or ""
    if not isinstance(cwd, str):
        raise ApiError(400, "cwd is a path")
    made = await interpreter.start_context(envd, interpreter.new_id(), "python", cwd)
    return JSONResponse(made.as_json())


async def _json(request: Request) -> Mapping[str, Any]:
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > CODE_MAX:
            raise ApiError(413, f"a request has at most {CODE_MAX} bytes")
    try:
        found = json.loads(data or b"{}")
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ApiError(400, "the body is no object")
    return found


def _user(request: Request) -> str:
    """Who asks: the user of `Authorization: Basic`, "" for the usual one."""
    kind, _, text = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return ""
    try:
        return base64.b64decode(text, validate=True).decode().partition(":")[0]
    except (binascii.Error, UnicodeError) as error:
        raise ApiError(401, "the user cannot be read") from error
