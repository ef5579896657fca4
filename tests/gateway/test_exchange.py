"""How the gateway's server writes responses, and what it does when a client leaves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest

from tests.host.processes import eventually

uvicorn = pytest.importorskip("uvicorn")

from uvicorn.protocols.http.flow_control import FlowControl  # noqa: E402

from harness.gateway.data_plane import cross_origin  # noqa: E402
from harness.gateway.http.exchange import AT_ONCE, Exchange  # noqa: E402
from harness.gateway.http.limits import ConnectionLimits  # noqa: E402
from harness.gateway.http.responses import Stream  # noqa: E402
from harness.gateway.http.server import HttpServer  # noqa: E402

START = {"type": "http.response.start", "status": 200, "headers": []}
TWO = b"GET /first HTTP/1.1\r\nHost: x\r\n\r\nGET /second HTTP/1.1\r\nHost: x\r\n\r\n"


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.write = self.written.append

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        raise AssertionError


def exchange(transport: Transport) -> Exchange:
    given: Any = transport
    return Exchange(
        asyncio.get_running_loop(),
        scope={"type": "http", "method": "GET", "state": {}}, transport=given,
        flow=FlowControl(given), logger=logging.getLogger(), access_logger=logging.getLogger(),
        access_log=False, default_headers=[], expect_100_continue=False, keep_alive=True,
        on_response=lambda: None,
    )  # fmt: skip


def piece(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


def test_what_is_sent_without_waiting_is_one_write() -> None:
    async def run() -> list[bytes]:
        transport = Transport()
        responding = exchange(transport)
        await responding.send(START)
        for number in range(3):
            await responding.send(piece(b"%d" % number))
        await responding.send(piece(b"", more=False))
        return transport.written

    (written,) = asyncio.run(run())
    assert written.endswith(b"\r\n\r\n1\r\n0\r\n1\r\n1\r\n1\r\n2\r\n0\r\n\r\n")


def test_what_is_sent_before_a_wait_is_written_before_it() -> None:
    async def run() -> None:
        transport = Transport()
        responding = exchange(transport)
        await responding.send(START)
        await asyncio.sleep(0)
        assert len(transport.written) == 1
        await responding.send(piece(b"x" * (AT_ONCE + 1)))
        assert len(transport.written) == 2

    asyncio.run(run())


@pytest.mark.parametrize(
    "header", [(b"a b", b"c"), (b"a:", b"c"), (b"a", b"c\r\nd: e"), (b"a", b"\0")]
)
def test_a_malformed_header_is_not_sent(header: tuple[bytes, bytes]) -> None:
    async def run() -> list[bytes]:
        transport = Transport()
        for _ in range(2):  # the second time, what is known of headers must not help
            with pytest.raises(RuntimeError):
                await exchange(transport).send({**START, "headers": [header]})
        return transport.written

    assert asyncio.run(run()) == []


def test_the_pieces_of_a_stream_end_with_their_client() -> None:
    ended: list[str] = []

    async def pieces() -> AsyncGenerator[bytes]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    async def run() -> None:
        transport = Transport()
        responding = exchange(transport)
        stream = Stream(pieces(), "text/plain")
        task = asyncio.create_task(
            stream(responding.scope, responding.receive, responding.send)  # type: ignore[arg-type]
        )
        while not transport.written:
            await asyncio.sleep(0)
        responding.leave()
        await task
        assert not task.cancelling()

    asyncio.run(run())
    assert ended == ["ended"]


def test_a_stream_is_filled_while_nothing_comes() -> None:
    async def run() -> None:
        gate = asyncio.Event()

        async def pieces() -> AsyncGenerator[bytes]:
            await gate.wait()
            yield b"late"

        transport = Transport()
        responding = exchange(transport)
        stream = Stream(pieces(), "text/plain", interval=0.001, filler=b"filler")
        task = asyncio.create_task(
            stream(responding.scope, responding.receive, responding.send)  # type: ignore[arg-type]
        )
        while b"".join(transport.written).count(b"filler") < 2:
            await asyncio.sleep(0.001)
        gate.set()
        await task
        whole = b"".join(transport.written)
        assert whole.endswith(b"4\r\nlate\r\n0\r\n\r\n")
        await asyncio.sleep(0.01)
        assert b"".join(transport.written) == whole

    asyncio.run(run())


@contextlib.contextmanager
def serving(application: Any) -> Iterator[int]:
    """The port of a server in a thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    config = uvicorn.Config(
        application, interface="asgi3", loop="uvloop", http="httptools", ws="none", lifespan="off",
        log_level="error",
    )  # fmt: skip
    server = HttpServer(config, listener, ConnectionLimits(10, 10), lambda lease, known: None)  # type: ignore[arg-type,return-value]
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started, 60)
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def test_a_request_learns_that_its_client_left_though_another_waits_behind_it() -> None:
    seen: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            seen.append(scope["path"])
        seen.append("left")

    with serving(application) as port:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(TWO)
            eventually(lambda: seen == ["/first"], 60)
        eventually(lambda: seen == ["/first", "left"], 60)


def test_a_stream_permits_what_its_channel_permits() -> None:
    async def pieces() -> AsyncGenerator[bytes]:
        yield b"piece"

    async def run() -> list[bytes]:
        transport = Transport()
        responding = exchange(transport)
        permitting = cross_origin.permitting(responding.send)
        stream = Stream(pieces(), "text/plain")
        await stream(responding.scope, responding.receive, permitting)  # type: ignore[arg-type]
        return transport.written

    (written,) = asyncio.run(run())
    assert b"\r\naccess-control-allow-origin: *\r\n" in written
