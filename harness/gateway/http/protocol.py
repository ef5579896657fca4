"""uvicorn's HTTP protocol with bounds on what a client may send, and how slowly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from harness.gateway.errors import ApiError
from harness.gateway.http.connections import Lease
from harness.gateway.http.exchange import Exchange
from harness.gateway.http.limits import (
    BODY_LINGER_MAX,
    BODY_LINGER_S,
    HEAD_MAX,
    HEAD_S,
    HEADERS_MAX,
    LINGER_MAX,
    LINGER_S,
    PIPELINE_MAX,
    STALLED_S,
    URL_MAX,
)
from harness.gateway.http.lingering import Bounds, EndsWhenRead, Linger
from harness.gateway.http.refusal import refusal

HEAD_TOO_LONG = f"the request's headers are longer than {HEAD_MAX} bytes"
TOO_MANY_HEADERS = f"the request has more than {HEADERS_MAX} headers"
URL_TOO_LONG = f"the request's address is longer than {URL_MAX} bytes"
MALFORMED = "the request is malformed"
HOSTS = "the request must have one Host header"


class Successor(Protocol):
    """The protocol of a connection that becomes a WebSocket. It releases the connection's lease."""

    def take_over(
        self,
        transport: Any,
        method: str,
        target: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        data: bytes,
    ) -> None:
        """Go on after a request; `data` is what has arrived behind it."""


class BoundedHttp(HttpToolsProtocol):
    """A client's connection. Bytes are counted as they arrive, since the parser buffers a header
    until it is complete."""

    def __init__(
        self, lease: Lease, upgrade: Callable[[Lease], Successor], *arguments: Any, **more: Any
    ) -> None:
        super().__init__(*arguments, **more)
        self._lease = lease
        self._upgrade = upgrade
        self._in_head = self._in_body = False
        self._silent = 0
        """Bytes since the parser last passed on a head, a piece of a body or a request's end."""
        self._head_bytes = self._head_count = self._host_count = 0
        self._refusal = ApiError(400, MALFORMED)
        self._after_others: ApiError | None = None
        """The answer to a request that is refused once those before it have their responses."""
        self._refused = False
        """Whether nothing of the client is served any more."""
        self._served: Exchange | None = None
        """The request that is served; `cycle` is the latest, which may wait for its turn."""
        self._linger: Linger | None = None
        """While the rest of a request arrives that has its response."""
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    # The connection.

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEAD_S, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lease.release()
        self._cancel_timers()
        super().connection_lost(exc)
        self._leave()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            if self._linger:
                self._linger.arrived(len(data))
            elif self._after_others:
                self.flow.pause_reading()
            return
        self._unset_keepalive_if_required()
        self._silent += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._should_upgrade():
                self._hand_over(data[upgrade.args[0] :])
                return
            self.cycle.keep_alive = False  # the parser stops here: serve this request as usual
        except httptools.HttpParserError:
            self._refuse(self._refusal)
            return
        if self._silent > HEAD_MAX:
            self._refuse(ApiError(431, HEAD_TOO_LONG))
        elif not self._deadline and (self._in_head or self._is_idle()):
            self._deadline = self.loop.call_later(HEAD_S, self._head_is_late)

    def abort(self) -> None:
        """End it as if the client had left."""
        self.transport.abort()

    def _leave(self) -> None:
        """The request that is served has no client any more."""
        if self._served and not self._served.response_complete:
            self._served.leave()

    def _is_idle(self) -> bool:
        """Whether no request is in progress, and nothing else ends the connection."""
        done = self.cycle is None or (self.cycle.response_complete and not self._in_body)
        return done and self.timeout_keep_alive_task is None

    def _head_is_late(self) -> None:
        self._deadline = None
        if self.cycle and not self.cycle.response_complete:
            return  # this request began early: the connection ends after the response to the last
        if self._in_head:
            self._refuse(ApiError(408, f"the request's headers took longer than {HEAD_S:g} s"))
        else:
            self.transport.close()

    def _cancel_timers(self) -> None:
        for timer in (self._deadline, self._stalled):
            if timer:
                timer.cancel()
        self._deadline = self._stalled = None
        self._end_lingering()
        self._unset_keepalive_if_required()

    # The parser's callbacks.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = self._head_count = self._host_count = 0

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > URL_MAX:
            self._stop(ApiError(414, URL_TOO_LONG))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_count += 1
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > HEAD_MAX:
            self._stop(ApiError(431, HEAD_TOO_LONG))
        if self._head_count > HEADERS_MAX:
            self._stop(ApiError(431, TOO_MANY_HEADERS))
        if self._in_head:  # trailers, which nothing here uses, must not become headers
            self._host_count += len(name) == 4 and name.lower() == b"host"
            HttpToolsProtocol.on_header(self, name, value)

    def on_headers_complete(self) -> None:
        self._in_head, self._in_body = False, True
        self._silent = 0
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None
        if len(self.pipeline) >= PIPELINE_MAX:
            self._after_others = ApiError(
                400, f"more than {PIPELINE_MAX} requests wait on a connection"
            )
            self._stop(self._after_others)
        version = self.parser.get_http_version()
        if self._host_count != 1 and (self._host_count or version == "1.1"):
            self._stop(ApiError(400, HOSTS))
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = version
        if not (self.parser.should_upgrade() and self._should_upgrade()):
            self._begin(version)

    def _begin(self, version: str) -> None:
        """Serve a request, after those that came before it."""
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        self.scope["path"] = unquote(path) if "%" in path else path
        self.scope["raw_path"] = url.path
        self.scope["query_string"] = url.query or b""
        exchange = Exchange(
            self.loop,
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        transport: Any = EndsWhenRead(self.transport, exchange.flush, self._end_after_response)
        exchange.transport = transport
        waits = self.cycle is not None and not self.cycle.response_complete
        self.cycle = exchange
        if waits:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, self.app))
        else:
            self._start_asgi_task(exchange, self.app)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._served = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        self._silent = 0
        super().on_body(body)
        if self._linger:
            self._linger.arrived(len(body))

    def on_message_complete(self) -> None:
        self._in_body = False
        self._silent = 0
        super().on_message_complete()
        if self._linger:  # the rest of a request that was answered early has arrived in time
            self._end_lingering()
            self._keep_alive()

    def on_response_complete(self) -> None:
        if self._refused:
            self.server_state.total_requests += 1
            self.flow.resume_reading()
            if self._after_others and not self.transport.is_closing():
                if self.pipeline:
                    self._start_asgi_task(*self.pipeline.pop())
                else:
                    self._answer_last(self._after_others)
            return
        super().on_response_complete()
        if self._in_body and self.cycle.response_complete and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            bounds = Bounds(BODY_LINGER_MAX, BODY_LINGER_S, LINGER_S)
            self._linger = Linger(self.loop, bounds, self.transport.close)

    def _end_after_response(self) -> None:
        """Close the connection, once the rest of the request has arrived."""
        if self._refused or not self._in_body:
            self.transport.close()
        else:
            self._stop_serving(Bounds(BODY_LINGER_MAX, BODY_LINGER_S, LINGER_S))

    def _stop_serving(self, bounds: Bounds) -> None:
        """Tell the client that nothing more comes, and drop what it still sends."""
        self._refused = True
        self._cancel_timers()
        self.pipeline.clear()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._linger = Linger(self.loop, bounds, self.transport.abort)

    def _end_lingering(self) -> None:
        if self._linger:
            self._linger.cancel()
            self._linger = None

    def _keep_alive(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    # Refusals.

    def _stop(self, error: ApiError) -> None:
        """Make the parser stop."""
        self._refusal = error
        raise ValueError(error.message)

    def _refuse(self, error: ApiError) -> None:
        """Answer with an error, and read on for a moment: a client that is still sending would
        not see it otherwise."""
        self._refused = True
        if self._after_others:
            return  # the timer of responses that are not read goes on
        self._cancel_timers()
        if self.transport.is_closing():
            return
        self.pipeline.clear()
        served = self._served
        if served and not served.response_complete:
            served.flush()
            self._leave()
            self.flow.resume_writing()
            if served.response_started:
                self.transport.close()
                return
        self._answer_last(error)

    def _answer_last(self, error: ApiError) -> None:
        self.transport.write(refusal(error))
        self._stop_serving(Bounds(LINGER_MAX, LINGER_S, LINGER_S))

    # Responses that the client does not read, and WebSockets.

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(STALLED_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled:
            self._stalled.cancel()
            self._stalled = None

    def _should_upgrade_to_ws(self) -> bool:
        return True

    def _hand_over(self, data: bytes) -> None:
        self._cancel_timers()
        self.connections.discard(self)
        successor = self._upgrade(self._lease)
        method, headers = self.scope["method"], list(self.scope["headers"])
        assert isinstance(successor, asyncio.BaseProtocol)
        self.transport.set_protocol(successor)
        successor.take_over(self.transport, method, self.url, headers, data)
