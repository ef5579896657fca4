"""Responses that cost less than starlette's: JSON by an encoder that is made once, and streams
without tasks of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from harness.gateway.http.exchange import Exchange, exchange_of

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class Json(JSONResponse):
    """JSON in UTF-8."""

    def render(self, content: Any) -> bytes:
        return _encode(content).encode()


class Stream(Response):
    """Pieces as they come, until the client leaves. If none comes for `interval` seconds, `filler`
    is sent as one."""

    def __init__(
        self,
        pieces: AsyncGenerator[bytes],
        media_type: str,
        headers: Mapping[str, str] | None = None,
        interval: float = 0,
        filler: bytes = b"",
    ) -> None:
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self.init_headers(headers)
        self._pieces = pieces
        self._interval = interval
        self._filler = filler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        await exchange.unless_left(self._send(exchange, send))

    async def _send(self, exchange: Exchange, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        filling = _Filling(exchange, self._interval, self._filler) if self._interval else None
        try:
            async with contextlib.aclosing(self._pieces) as pieces:
                async for piece in pieces:
                    if filling:
                        filling.put_off()
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        finally:
            if filling:
                filling.end()
        await send({"type": "http.response.body"})


class _Filling:
    """Writes a piece whenever none has been written for a while."""

    def __init__(self, exchange: Exchange, interval: float, piece: bytes) -> None:
        self._exchange = exchange
        self._interval = interval
        self._piece = piece
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time() + interval
        self._timer = self._loop.call_at(self._due, self._check)

    def put_off(self) -> None:
        self._due = self._loop.time() + self._interval

    def end(self) -> None:
        self._timer.cancel()

    def _check(self) -> None:
        if self._loop.time() >= self._due:
            if not self._exchange.flow.write_paused:
                self._exchange.write_chunk(self._piece)
            self.put_off()
        self._timer = self._loop.call_at(self._due, self._check)
