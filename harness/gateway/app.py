"""The whole gateway as one ASGI application: which of its parts a request is for."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from harness.gateway.control import Control
from harness.gateway.data import Data
from harness.gateway.service import Sandboxes

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
        headers: dict[bytes, bytes] = dict(scope["headers"])
        id, port = headers.get(b"e2b-sandbox-id"), headers.get(b"e2b-sandbox-port", b"0")
        if id is None and (found := _OF_SANDBOX.match(headers.get(b"host", b""))):
            port, id = found.groups()
        if b"x-api-key" in headers:
            # SDKs before 2.29 name the sandbox and envd's port in calls of the API, too.
            if port == b"49983" and scope["path"].startswith(_OF_API):
                id = None
        elif id is None and (token := headers.get(b"x-access-token")):
            # And after `connect` they name it by its token alone.
            id, port = self._sandboxes.holder_of(token), b"49983"
        request = Request(scope, receive)
        if id is not None:
            number = int(port) if port.isdigit() and len(port) < 6 else 0
            response = await self._data.answer(id.decode("latin-1"), number, request)
        elif scope["path"] == "/metrics" and scope["method"] == "GET":
            response = PlainTextResponse(self._metrics())
        else:
            response = await self._control.answer(request)
        await response(scope, receive, send)

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
        return self._sandboxes.meter.text(gauges)
