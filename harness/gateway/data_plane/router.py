"""Traffic to sandboxes, by port: envd, the code interpreter, and the sandbox's own servers."""

from __future__ import annotations

import base64
import binascii

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from harness.gateway.data_plane import file_signature, port_proxy, transfer
from harness.gateway.data_plane.files import FileService
from harness.gateway.data_plane.interpreter import InterpreterService
from harness.gateway.data_plane.processes import ProcessService
from harness.gateway.envd.client import Envd
from harness.gateway.envd.connections import ServerConnection
from harness.gateway.envd.process import Listener
from harness.gateway.errors import ApiError, RpcError, as_http, as_rpc
from harness.gateway.sandboxes.sandbox import Sandbox
from harness.gateway.sandboxes.service import Sandboxes

ENVD_PORT, INTERPRETER_PORT = 49983, 49999
WRONG_TOKEN = "the access token is missing, or is not this sandbox's"


class DataPlane:
    """Answers requests that name a sandbox and a port."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes

    async def answer(self, id: str, port: int, request: Request) -> Response:
        path = request.url.path
        rpc = path.startswith(("/process.Process/", "/filesystem.Filesystem/"))
        try:
            sandbox, envd = await self._sandboxes.connected(id)
            if port == ENVD_PORT:
                return await self._envd(sandbox, envd, request, path, rpc)
            if port == INTERPRETER_PORT:
                return await self._interpreter(sandbox, envd, request, path)
            self._authorise_traffic(sandbox, request.headers.get(port_proxy.TOKEN, ""))
            opened = await port_proxy.connect(envd, port)
            if opened is None:
                return port_proxy.port_is_closed(id, port)
            return port_proxy.ProxiedRequest(id, port, *opened)
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception as error:
            if rpc and not isinstance(error, ApiError):
                rpc_failure = as_rpc(error)
                return JSONResponse(rpc_failure.body(), rpc_failure.status)
            failure = as_http(error)
            if rpc and failure.status == 502:
                body = {"code": "unavailable", "message": failure.message, "sandboxId": id}
                return JSONResponse(body, 502)
            return JSONResponse({**failure.body(), "sandboxId": id}, failure.status)

    async def open(
        self, id: str, port: int, headers: port_proxy.Headers
    ) -> tuple[ServerConnection, Listener]:
        """A connection to a server in a sandbox, for a WebSocket."""
        sandbox, envd = await self._sandboxes.connected(id)
        token = dict(headers).get(port_proxy.TOKEN.encode(), b"").decode("latin-1")
        self._authorise_traffic(sandbox, token)
        opened = None
        if port not in (ENVD_PORT, INTERPRETER_PORT):
            opened = await port_proxy.connect(envd, port)
        if opened is None:
            raise ApiError(502, port_proxy.PORT_IS_CLOSED)
        return opened

    def _authorise_traffic(self, sandbox: Sandbox, token: str) -> None:
        """Traffic to ports is public unless the sandbox's network rules forbid it. ApiError 403."""
        if sandbox.stored.network.get("allowPublicTraffic") is not False:
            return
        if not self._sandboxes.tokens.matches(sandbox.id, "traffic", token):
            header = port_proxy.TOKEN
            raise ApiError(403, f"the ports of this sandbox require its token, in {header}")

    # envd.

    async def _envd(
        self, sandbox: Sandbox, envd: Envd, request: Request, path: str, rpc: bool
    ) -> Response:
        if path == "/health":
            return Response(status_code=204)
        user = _user(request)
        if path == "/files":
            operation = {"GET": "read", "POST": "write"}.get(request.method)
            if operation is None:
                raise ApiError(405, f"/files does not support {request.method}")
            if "signature" in request.query_params:
                token = self._sandboxes.tokens.of(sandbox.id, "envd")
                file_signature.check(request, operation, token)
            else:
                self._authorise_envd(sandbox, request, rpc)
            user = request.query_params.get("username") or user
            if operation == "read":
                return await transfer.download(request, envd, user)
            return await transfer.upload(request, envd, user)
        self._authorise_envd(sandbox, request, rpc)
        if rpc:
            if request.method != "POST":
                raise ApiError(405, "services require POST")
            _, service, method = path.split("/", 2)
            if service == "process.Process":
                return await ProcessService(sandbox, envd, user).answer(method, request)
            return await FileService(sandbox, envd, user).answer(method, request)
        if path == "/envs":
            return JSONResponse(sandbox.stored.environment)
        raise ApiError(404, f"envd has nothing at {path}")

    def _authorise_envd(self, sandbox: Sandbox, request: Request, rpc: bool) -> None:
        """envd requires the token of its own sandbox."""
        if not sandbox.stored.secure:
            return
        token = request.headers.get("x-access-token", "")
        if not self._sandboxes.tokens.matches(sandbox.id, "envd", token):
            if rpc:
                raise RpcError("unauthenticated", WRONG_TOKEN)
            raise ApiError(401, WRONG_TOKEN)

    # The code interpreter.

    async def _interpreter(
        self, sandbox: Sandbox, envd: Envd, request: Request, path: str
    ) -> Response:
        if path == "/health":
            return Response(b"OK")
        self._authorise_interpreter(sandbox, request, path)
        return await InterpreterService(sandbox, envd).answer(request)

    def _authorise_interpreter(self, sandbox: Sandbox, request: Request, path: str) -> None:
        """Either token is accepted. Older SDKs send none with requests about contexts: they know
        the sandbox's id, which cannot be guessed. Running code always requires a token."""
        if not sandbox.stored.secure:
            return
        headers = {"envd": "x-access-token", "traffic": "e2b-traffic-access-token"}
        sent = {
            purpose: request.headers[header]
            for purpose, header in headers.items()
            if request.headers.get(header)
        }
        if not sent and path.startswith("/contexts"):
            return
        for purpose, token in sent.items():
            if self._sandboxes.tokens.matches(sandbox.id, purpose, token):
                return
        raise ApiError(401, WRONG_TOKEN)


def _user(request: Request) -> str:
    """The user of `Authorization: Basic`; "" for the default user."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(text, validate=True).decode().partition(":")[0]
    except (binascii.Error, UnicodeError) as error:
        raise ApiError(401, "the Authorization header is not valid Basic credentials") from error
