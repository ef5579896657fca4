"""The gateway as an ASGI application: routes requests to the control plane or the data plane."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from harness.gateway.control_plane.operations import ControlPlane
from harness.gateway.data_plane import cross_origin
from harness.gateway.data_plane.authorisation import ENVD_PORT
from harness.gateway.data_plane.port_proxy import Headers
from harness.gateway.data_plane.router import DataPlane
from harness.gateway.digits import whole_number
from harness.gateway.envd.connections import ServerConnection
from harness.gateway.envd.process import Listener
from harness.gateway.errors import ApiError
from harness.gateway.http.responses import Json
from harness.gateway.query_string import refuse_any
from harness.gateway.sandboxes.service import Sandboxes
from harness.gateway.sandboxes.snapshots import Snapshots
from harness.gateway.wrong_credentials import WrongCredentials

_SANDBOX_HOST = re.compile(rb"(\d{1,5})-([a-z0-9]+)\.", re.IGNORECASE)
"""A host name that starts with a port and a sandbox."""
_NAMING = (b"e2b-sandbox-id", b"e2b-sandbox-port", b"host")
PORT_MAX = 65535
_API_PATHS = ("/sandboxes", "/v2/sandboxes")


class Gateway:
    """An ASGI application. `on_start` is awaited on its event loop before it serves."""

    def __init__(
        self, sandboxes: Sandboxes, domain: str | None, on_start: Callable[[], Awaitable[Any]]
    ) -> None:
        self._sandboxes = sandboxes
        wrong = WrongCredentials()
        self._control = ControlPlane(sandboxes, Snapshots(sandboxes), domain, wrong)
        self._data = DataPlane(sandboxes, wrong)
        self._on_start = on_start

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        try:
            await self._answer(scope, receive, send)
        except asyncio.CancelledError:
            return  # the gateway ends, and the connection has ended: no caller is left

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response: Response
        try:
            of_page = cross_origin.is_of_page(scope) and _asks_envd(scope)
            if of_page:
                send = cross_origin.permitting(send)
            if of_page and cross_origin.is_preflight(scope):
                response = cross_origin.permission(scope)
            elif target := self._target(request):
                response = await self._data.answer(*target, request)
            elif scope["path"] == "/metrics" and scope["method"] == "GET":
                refuse_any(request)
                response = PlainTextResponse(self._metrics())
            else:
                response = await self._control.answer(request)
        except ApiError as error:
            response = Json(error.body(), error.status, error.headers())
        await response(scope, receive, send)

    async def connect(
        self, path: str, headers: Headers, address: str
    ) -> tuple[ServerConnection, Listener]:
        """Connect to the sandbox's server that a WebSocket request from an address names."""
        if not (target := _named_target(headers, dict(headers))):
            raise ApiError(404, "the gateway has no WebSockets: name a sandbox and a port")
        return await self._data.open(*target, path, headers, address)

    def _target(self, request: Request) -> tuple[str, int] | None:
        """The sandbox and port that a request is for; None for the control plane.

        SDKs before 2.29 name both in calls of the control plane too, and neither after `connect`:
        then the token for envd identifies the sandbox. A signed URL may be opened by anyone, so its
        signature identifies the sandbox. Raises ApiError for a signature of none.
        """
        given = request.scope["headers"]
        headers: dict[bytes, bytes] = dict(given)
        path = request.scope["path"]
        named = _named_target(given, headers)
        if b"x-api-key" in headers:
            envd = named is not None and named[1] == ENVD_PORT
            return None if envd and path.startswith(_API_PATHS) else named
        if named:
            return named
        token = headers.get(b"x-access-token")
        if token and (id := self._sandboxes.tokens.sandbox_with(token, self._sandboxes.by_id)):
            return id, ENVD_PORT
        if path == "/files" and "signature" in request.query_params:
            address = request.client.host if request.client else ""
            return self._data.signed(request.method, request.query_params, address), ENVD_PORT
        return None

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self._on_start()
                except BaseException as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    raise
                await send({"type": "lifespan.startup.complete"})
            else:
                await self._sandboxes.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _metrics(self) -> str:
        sandboxes = self._sandboxes.by_id.values()
        gauges: dict[tuple[str, str, str], float] = {
            ("coppice_sandboxes", "state", state): sum(
                sandbox.stored.state == state for sandbox in sandboxes
            )
            for state in ("running", "paused")
        }
        for template, count in self._sandboxes.fleet.ready().items():
            gauges["coppice_pool_ready", "template", template] = count
        gauges["coppice_creations_waiting", "", ""] = self._sandboxes.admission.waiting
        return self._sandboxes.metrics.text(gauges)


def _asks_envd(scope: Scope) -> bool:
    """Whether a request is for envd; one that names no sandbox is by its path."""
    named = _named_target(scope["headers"], dict(scope["headers"]))
    return named[1] == ENVD_PORT if named else cross_origin.has_path_of_envd(scope)


def _named_target(headers: Headers, values: Mapping[bytes, bytes]) -> tuple[str, int] | None:
    """The sandbox and port that a request names, in its headers or its host name; `values` are the
    headers by name. ApiError 400 for what is no port, and for a header that is repeated."""
    id, port = values.get(b"e2b-sandbox-id"), values.get(b"e2b-sandbox-port", b"")
    where = "the header E2b-Sandbox-Port"
    if id is None and (match := _SANDBOX_HOST.match(values.get(b"host", b""))):
        port, id = match[1], match[2].lower()
        where = "the first part of the host name"
    if id is None:
        return None
    if len(values) < len(headers):
        for name in _NAMING:
            if sum(name == given for given, _ in headers) > 1:
                raise ApiError(400, f"the header {name.decode()} is repeated")
    number = whole_number(port.decode("latin-1"))
    if number is None or not 0 < number <= PORT_MAX:
        raise ApiError(400, f"{where} must have a port from 1 to {PORT_MAX}, in digits")
    return id.decode("latin-1"), number
