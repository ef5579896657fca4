"""The code interpreter's HTTP service: cells and contexts."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from harness.errors import CoppiceError
from harness.gateway.data_plane.messages import CELL, NEW_CONTEXT, NOTHING
from harness.gateway.envd import interpreter
from harness.gateway.envd.client import Envd
from harness.gateway.envd.interpreter import CodeCell
from harness.gateway.envd.limits import check_environment
from harness.gateway.errors import ApiError
from harness.gateway.http.request_body import read_body
from harness.gateway.http.responses import Json, Stream
from harness.gateway.query_string import refuse_any
from harness.gateway.request_schema import InvalidRequest, RequestSchema, parse_json
from harness.gateway.sandboxes.sandbox import Sandbox

BODY_MAX = 16 << 20


class InterpreterService:
    """For one sandbox and one request, which the caller may make."""

    def __init__(self, sandbox: Sandbox, envd: Envd) -> None:
        self._sandbox = sandbox
        self._envd = envd

    async def answer(self, request: Request) -> Response:
        refuse_any(request)
        await self._sandbox.learn_processes()
        path = request.url.path
        method, parts = request.method, path.strip("/").split("/")
        if (method, parts) == ("POST", ["execute"]):
            return await self._execute(await _body(request, CELL))
        if (method, parts) == ("GET", ["contexts"]):
            contexts = interpreter.contexts(self._envd)
            return Json([context.as_json() for context in contexts])
        if (method, parts) == ("POST", ["contexts"]):
            return await self._create_context(await _body(request, NEW_CONTEXT))
        if len(parts) >= 2 and parts[0] == "contexts":
            try:
                context = interpreter.context(self._envd, parts[1])
            except LookupError as error:
                raise ApiError(404, str(error)) from error
            await _body(request, NOTHING)
            if method == "DELETE" and len(parts) == 2:
                await interpreter.end_context(self._envd, context)
                return Response(status_code=204)
            if method == "POST" and parts[2:] == ["restart"]:
                await interpreter.restart_context(self._envd, context)
                return Response(status_code=204)
        raise ApiError(404, f"the code interpreter does not support {method} {path}")

    async def _execute(self, body: Mapping[str, Any]) -> Response:
        code, variables = body["code"], body.get("env_vars") or {}
        _require_python(body.get("language"))
        environment = {**self._sandbox.stored.environment, **variables}
        check_environment(environment)
        lines = interpreter.execute(
            self._envd,
            body.get("context_id") or interpreter.DEFAULT,
            CodeCell(code, environment),
        )
        try:
            first = await anext(lines)
        except LookupError as error:
            raise ApiError(404, str(error)) from error
        return Stream(_streamed(first, lines), media_type="application/x-ndjson")

    async def _create_context(self, body: Mapping[str, Any]) -> Response:
        _require_python(body.get("language"))
        cwd = body.get("cwd") or ""
        context = await interpreter.start_context(self._envd, interpreter.new_id(), "python", cwd)
        return Json(context.as_json())


def _require_python(language: Any) -> None:
    if language not in interpreter.PYTHON:
        raise ApiError(400, f"the language {language} is not supported; python is")


async def _streamed(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    piece = first
    try:
        yield first
        async for piece in rest:
            yield piece
    except CoppiceError as error:
        if not piece.endswith(b"\n"):
            yield b"\n"  # the line that was cut off
        fields = {"type": "error", "name": "SandboxError", "value": str(error), "traceback": ""}
        yield json.dumps(fields).encode() + b"\n"
    finally:
        close = getattr(rest, "aclose", None)
        if close:
            await close()


async def _body(request: Request, schema: RequestSchema) -> Mapping[str, Any]:
    """The request's body, which matches a schema of an object."""
    try:
        body: Mapping[str, Any] = parse_json(await read_body(request, BODY_MAX) or b"{}")
        schema.check(body)
    except InvalidRequest as error:
        raise ApiError(400, str(error)) from error
    return body
