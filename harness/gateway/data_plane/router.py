"""Traffic to sandboxes, by port: envd, the code interpreter, and the sandbox's own servers."""

from __future__ import annotations

import base64
import binascii

from starlette.datastructures import Headers, QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from harness.gateway.data_plane import file_signature, port_proxy, transfer
from harness.gateway.data_plane.authorisation import (
    ENVD_PORT,
    HEALTH,
    INTERPRETER_PORT,
    Authorisation,
    Visit,
)
from harness.gateway.data_plane.files import FileService
from harness.gateway.data_plane.interpreter import InterpreterService
from harness.gateway.data_plane.processes import ProcessService
from harness.gateway.envd.client import Envd
from harness.gateway.envd.connections import ServerConnection
from harness.gateway.envd.process import Listener
from harness.gateway.errors import ApiError, as_http, as_rpc
from harness.gateway.http.responses import Json
from harness.gateway.query_string import refuse_any
from harness.gateway.sandboxes.sandbox import Sandbox
from harness.gateway.sandboxes.service import Sandboxes
from harness.gateway.wrong_credentials import WrongCredentials, too_often

RPC_CODES = {401: "unauthenticated", 429: "resource_exhausted", 502: "unavailable"}
"""What envd's services call these statuses."""
UNSIGNED = "no sandbox has signed this URL; name one in E2b-Sandbox-Id"


class DataPlane:
    """Answers requests that name a sandbox and a port."""

    def __init__(self, sandboxes: Sandboxes, wrong: WrongCredentials) -> None:
        self._sandboxes = sandboxes
        self._wrong = wrong
        self._authorisation = Authorisation(sandboxes.tokens, wrong)

    async def answer(self, id: str, port: int, request: Request) -> Response:
        path = request.scope["path"]
        rpc = path.startswith(("/process.Process/", "/filesystem.Filesystem/"))
        visit = Visit(
            port, request.method, path, request.scope["query_string"], request.headers,
            request.client.host if request.client else "",
        )  # fmt: skip
        try:
            sandbox, envd = await self._admitted(id, visit)
            if port == ENVD_PORT:
                return await self._envd(sandbox, envd, request, path, rpc)
            if port == INTERPRETER_PORT:
                return await self._interpreter(sandbox, envd, request)
            opened = await port_proxy.connect(envd, port)
            if opened is None:
                return port_proxy.port_is_closed(id, port)
            return port_proxy.ProxiedRequest(id, port, *opened)
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception as error:
            if rpc and not isinstance(error, ApiError):
                rpc_failure = as_rpc(error)
                return Json(rpc_failure.body(), rpc_failure.status)
            failure = as_http(error)
            headers = {} if failure.retry_after is None else failure.headers()
            body = {**failure.body(), "sandboxId": id}
            if rpc and failure.status in RPC_CODES:
                body["code"] = RPC_CODES[failure.status]
            return Json(body, failure.status, headers)

    def signed(self, method: str, query: QueryParams, address: str) -> str:
        """The sandbox with whose token a URL is signed, for URLs that name none. ApiError 404 if
        there is none, and 429 for an address that has tried too often: this compares them all."""
        if wait_s := self._wrong.wait_of(address):
            raise too_often(wait_s)
        for id in self._sandboxes.by_id:
            if file_signature.matches(method, query, self._sandboxes.tokens.of(id, "envd")):
                return id
        raise self._wrong.answer(address, ApiError(404, UNSIGNED))

    async def open(
        self, id: str, port: int, path: str, headers: port_proxy.Headers, address: str
    ) -> tuple[ServerConnection, Listener]:
        """A connection to a server in a sandbox, for a WebSocket."""
        visit = Visit(port, "GET", path, b"", Headers(raw=list(headers)), address)
        _, envd = await self._admitted(id, visit)
        opened = None
        if port not in (ENVD_PORT, INTERPRETER_PORT):
            opened = await port_proxy.connect(envd, port)
        if opened is None:
            raise ApiError(502, port_proxy.PORT_IS_CLOSED)
        return opened

    async def _admitted(self, id: str, visit: Visit) -> tuple[Sandbox, Envd]:
        """The sandbox, resumed if traffic resumes it, once the caller is known to be permitted.

        Whether a running sandbox is healthy may be asked without a token, but that resumes none.
        """
        sandbox = self._sandboxes.by_id.get(id)
        if sandbox is None:
            raise ApiError(502, "sandbox was not found")
        if not visit.asks_for_health:
            self._authorisation.require(sandbox, visit)
        elif not sandbox.running and not self._authorisation.permits(sandbox, visit):
            raise ApiError(502, "sandbox was not found")
        return await self._sandboxes.connected(id)

    # envd.

    async def _envd(
        self, sandbox: Sandbox, envd: Envd, request: Request, path: str, rpc: bool
    ) -> Response:
        if path == HEALTH:
            refuse_any(request)
            return Response(status_code=204)
        user = _user(request)
        if path == "/files":
            transfer.check(request)
            user = request.query_params.get("username") or user
            if request.method == "GET":
                return await transfer.download(request, envd, user)
            if request.method == "POST":
                return await transfer.upload(request, envd, user)
            raise ApiError(405, f"/files does not support {request.method}")
        if rpc:
            if request.method != "POST":
                raise ApiError(405, "services require POST")
            _, service, method = path.split("/", 2)
            if service == "process.Process":
                return await ProcessService(sandbox, envd, user).answer(method, request)
            return await FileService(sandbox, envd, user).answer(method, request)
        if path == "/envs":
            refuse_any(request)
            return Json(sandbox.stored.environment)
        raise ApiError(404, f"envd has nothing at {path}")

    # The code interpreter.

    async def _interpreter(self, sandbox: Sandbox, envd: Envd, request: Request) -> Response:
        if request.scope["path"] == HEALTH:
            refuse_any(request)
            return Response(b"OK")
        return await InterpreterService(sandbox, envd).answer(request)


def _user(request: Request) -> str:
    """The user of `Authorization: Basic`; "" for the default user."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(text, validate=True).decode().partition(":")[0]
    except (binascii.Error, UnicodeError) as error:
        raise ApiError(401, "the Authorization header is not valid Basic credentials") from error
