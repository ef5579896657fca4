"""The code interpreter's HTTP service: cells and contexts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from harness import strict_json
from harness.errors import CoppiceError
from harness.gateway.envd import interpreter
from harness.gateway.envd.client import Envd
from harness.gateway.envd.interpreter import CodeCell, Context
from harness.gateway.errors import ApiError
from harness.gateway.request_body import read_body
from harness.gateway.sandboxes.sandbox import Sandbox

BODY_MAX = 16 << 20
SIGKILL = 9


class InterpreterService:
    """For one sandbox and one request, which the caller may make."""

    def __init__(self, sandbox: Sandbox, envd: Envd) -> None:
        self._sandbox = sandbox
        self._envd = envd

    async def answer(self, request: Request) -> Response:
        await self._sandbox.learn_processes()
        path = request.url.path
        method, parts = request.method, path.strip("/").split("/")
        if (method, parts) == ("POST", ["execute"]):
            return await self._execute(await _json_object(request))
        if (method, parts) == ("GET", ["contexts"]):
            contexts = interpreter.contexts(self._envd)
            return JSONResponse([context.as_json() for context in contexts])
        if (method, parts) == ("POST", ["contexts"]):
            return await self._create_context(await _json_object(request))
        if len(parts) >= 2 and parts[0] == "contexts":
            try:
                context = interpreter.context(self._envd, parts[1])
            except LookupError as error:
                raise ApiError(404, str(error)) from error
            if method == "DELETE" and len(parts) == 2:
                await self._end(context)
                return Response(status_code=204)
            if method == "POST" and parts[2:] == ["restart"]:
                await self._end(context)
                await interpreter.start_context(
                    self._envd, context.id, context.language, context.cwd
                )
                return Response(status_code=204)
        raise ApiError(404, f"the code interpreter does not support {method} {path}")

    async def _end(self, context: Context) -> None:
        await self._envd.signal(context.process.pid, SIGKILL)
        self._envd.processes.pop(context.process.pid, None)

    async def _execute(self, body: Mapping[str, Any]) -> Response:
        code, variables = body.get("code"), body.get("env_vars") or {}
        if not isinstance(code, str):
            raise ApiError(400, "code must be a string")
        if not isinstance(variables, Mapping):
            raise ApiError(400, "env_vars must be an object of strings")
        _require_python(body.get("language"))
        environment = {
            **self._sandbox.stored.environment,
            **{name: str(value) for name, value in variables.items()},
        }
        lines = interpreter.execute(
            self._envd,
            body.get("context_id") or interpreter.DEFAULT,
            CodeCell(code, environment),
        )
        try:
            first = await anext(lines)
        except LookupError as error:
            raise ApiError(404, str(error)) from error
        return StreamingResponse(_streamed(first, lines), media_type="application/x-ndjson")

    async def _create_context(self, body: Mapping[str, Any]) -> Response:
        _require_python(body.get("language"))
        cwd = body.get("cwd") or ""
        if not isinstance(cwd, str):
            raise ApiError(400, "cwd must be a path")
        context = await interpreter.start_context(self._envd, interpreter.new_id(), "python", cwd)
        return JSONResponse(context.as_json())


def _require_python(language: Any) -> None:
    if language not in interpreter.PYTHON:
        raise ApiError(400, f"the language {language} is not supported; python is")


async def _streamed(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        yield first
        async for line in rest:
            yield line
    except CoppiceError as error:
        fields = {"type": "error", "name": "SandboxError", "value": str(error), "traceback": ""}
        yield json.dumps(fields).encode() + b"\n"
    finally:
        close = getattr(rest, "aclose", None)
        if close:
            await close()


async def _json_object(request: Request) -> Mapping[str, Any]:
    data = await read_body(request, BODY_MAX)
    try:
        body = strict_json.loads(data or b"{}")
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise ApiError(400, "the body must be a JSON object")
    return body
