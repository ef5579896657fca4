"""The whole gateway as one ASGI application: which of its parts a request is for."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from harness.gateway.control_plane.operations import Control
from harness.gateway.data_plane.port_proxy import Headers
from harness.gateway.data_plane.router import ENVD_PORT, Data
from harness.gateway.envd.client import Listener
from harness.gateway.envd.connections import Link
from harness.gateway.errors import ApiError
from harness.gateway.sandboxes.service import Sandboxes

_OF_SANDBOX = re.compile(rb"(\d{1,5})-([a-z0-9]+)\.")
"""How a host names a sandbox and its port."""
_OF_API = ("/sandboxes", "/v2/sandboxes")


class Gateway:
    """An ASGI application. `opened` and `closed` are called within its event loop."""

    def __init__(
        self, sandboxes: Sandboxes, domain: str | None, opened: Callable[[], Awaitable[Any]]
    ) -> None:
        self._sandboxes = sandboxes
        self._control = Control(sandboxes, domain)
        self._data = Data(sandboxes)
        self._opened = opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        if sandbox := self._meant(scope):
            response = await self._data.answer(*sandbox, request)
        elif scope["path"] == "/metrics" and scope["method"] == "GET":
            response = PlainTextResponse(self._metrics())
        else:
            response = await self._control.answer(request)
        await response(scope, receive, send)

    async def tunnel(self, headers: Headers) -> tuple[Link, Listener]:
        """The connection to a sandbox's server that a WebSocket's request is for."""
        if not (sandbox := _sandbox_of(headers)):
            raise ApiError(404, "there is no WebSocket here: name a sandbox and its port")
        return await self._data.open(*sandbox, headers)

    def _meant(self, scope: Scope) -> tuple[str, int] | None:
        """The sandbox and port that a request is for; None where it is for the API.

        SDKs before 2.29 name both in calls of the API too, and after `connect` neither: then a
        sandbox is known by its token for envd alone.
        """
        headers: dict[bytes, bytes] = dict(scope["headers"])
        named = _sandbox_of(scope["headers"])
        if b"x-api-key" in headers:
            envd = named is not None and named[1] == ENVD_PORT
            return None if envd and scope["path"].startswith(_OF_API) else named
        token = headers.get(b"x-access-token")
        if named is None and token and (id := self._sandboxes.holder_of(token)):
            return id, ENVD_PORT
        return named

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self._opened()
                except BaseException as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    raise
                await send({"type": "lifespan.startup.complete"})
            else:
                await self._sandboxes.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _metrics(self) -> str:
        entries = self._sandboxes.entries.values()
        gauges: dict[tuple[str, str, str], float] = {
            ("coppice_sandboxes", "state", state): sum(one.record.state == state for one in entries)
            for state in ("running", "paused")
        }
        for template, count in self._sandboxes.fleet.ready().items():
            gauges["coppice_pool_ready", "template", template] = count
        gauges["coppice_creations_waiting", "", ""] = self._sandboxes.waiting
        return self._sandboxes.meter.text(gauges)


def _sandbox_of(headers: Headers) -> tuple[str, int] | None:
    """The sandbox and the port that a request names, by its headers or its host."""
    given = dict(headers)
    id, port = given.get(b"e2b-sandbox-id"), given.get(b"e2b-sandbox-port", b"0")
    if id is None and (found := _OF_SANDBOX.match(given.get(b"host", b""))):
        port, id = found.groups()
    if id is None:
        return None
    return id.decode("latin-1"), int(port) if port.isdigit() and len(port) < 6 else 0
