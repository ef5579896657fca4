"""What a client may use of the gateway's HTTP server before it has proved who it is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.gateway.client_network import client_network
from harness.gateway.errors import ApiError
from harness.gateway.gateway_process import GatewayProcess, running_gateway
from harness.host.run import Run
from tests.host.processes import eventually

uvicorn = pytest.importorskip("uvicorn")

from harness.gateway import certificate  # noqa: E402
from harness.gateway.http import connections, limits, protocol  # noqa: E402
from harness.gateway.http.limits import ConnectionLimits  # noqa: E402
from harness.gateway.http.server import HttpServer  # noqa: E402

QUICK_S = 1.5
"""The time limits of a hasty server."""
PER_ADDRESS = 20
GOOD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Server:
    """An HTTP server in a thread, whose application reads bodies and tells what it got."""

    def __init__(self, keep_alive_s: int, tls: Path | None) -> None:
        self.seen: list[dict[str, Any]] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]
        config = uvicorn.Config(
            self._application, interface="asgi3", loop="uvloop", http="httptools", ws="none",
            lifespan="off", log_level="error", timeout_keep_alive=keep_alive_s,
            ssl_certfile=tls, ssl_keyfile=tls and tls.with_name("key.pem"),
        )  # fmt: skip
        bounds = ConnectionLimits(2 * PER_ADDRESS, PER_ADDRESS)
        self.server = HttpServer(config, self.listener, bounds, self._no_websocket)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()

    @staticmethod
    def _no_websocket(lease: Any, open_connections: Any) -> Any:
        raise AssertionError

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(scope)
        body, more = b"", scope["path"] != "/unread"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        answer = b"x" * (64 << 20) if scope["path"] == "/large" else b"%d" % len(body)
        headers = [(b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def open(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def connections(self) -> int:
        return len(self.server.server_state.connections)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()


@contextlib.contextmanager
def running(keep_alive_s: int, tls: Path | None = None) -> Iterator[Server]:
    started = Server(keep_alive_s, tls)
    try:
        eventually(lambda: started.server.started, 60)
        yield started
    finally:
        started.stop()


@pytest.fixture
def server() -> Iterator[Server]:
    with running(limits.KEEP_ALIVE_S) as started:
        yield started


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """One with short time limits."""
    for name in ("HEAD_S", "LINGER_S", "STALLED_S"):
        monkeypatch.setattr(protocol, name, QUICK_S)
    with running(1) as started:
        yield started


def everything(connection: socket.socket) -> bytes:
    """What the server sends until it closes the connection."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(1 << 16):
            data += piece
    return data


def send(connection: socket.socket, data: bytes, repeat: int = 1) -> int:
    """Send until the server closes the connection; the bytes sent."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        for _ in range(repeat):
            connection.sendall(data)
            sent += len(data)
    return sent


def status(response: bytes) -> int:
    return int(response.split(b" ", 2)[1])


REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = REQUEST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (REQUEST + b"X: " + b"a" * 40_000 + b"\r\n\r\n", 431),
        (REQUEST + b"a: b\r\n" * 101 + b"\r\n", 431),
        (REQUEST + b"a" * 40_000 + b": b\r\n\r\n", 431),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET /?" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (CHUNKED + b"1\r\na\r\n0\r\n" + b"t: u\r\n" * 101 + b"\r\n", 431),
        (CHUNKED + b"1\r\na\r\n0\r\nT: " + b"u" * 40_000 + b"\r\n\r\n", 431),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (REQUEST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nhost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n", 400),
    ],
)
def test_what_is_too_long_or_malformed_is_refused(
    server: Server, data: bytes, expected: int
) -> None:
    with server.open() as connection:
        send(connection, data)
        head, _, body = everything(connection).partition(b"\r\n\r\n")
        assert status(head) == expected and json.loads(body)["code"] == expected
        assert b"connection: close" in head


@pytest.mark.parametrize(
    "start",
    [
        REQUEST + b"X: ",
        b"GET /",
        REQUEST + b"Cookie: a\r\n",
        CHUNKED + b"1\r\na\r\n0\r\nTrailer: ",
        CHUNKED + b"1;extension=",
        b"\r\n",
    ],
)
def test_endless_parts_of_a_request_are_cut_off(server: Server, start: bytes) -> None:
    with server.open() as connection:
        piece = start[-2:] if start.endswith(b"\n") else b"a"
        connection.sendall(start)
        assert send(connection, piece * 32768, 1000) < 16 << 20
        everything(connection)
    eventually(lambda: server.connections() == 0, 60)


def test_a_request_up_to_the_limits_is_served(server: Server) -> None:
    long = b"GET /?" + b"q" * 12_000 + b" HTTP/1.1\r\nHost: x\r\n"
    with server.open() as connection:
        connection.sendall(long + b"a: b\r\n" * 90 + b"X: " + b"a" * 15_000 + b"\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        connection.sendall(CHUNKED + b"3\r\nabc\r\n0\r\nX-Api-Key: late\r\n\r\n")
        assert connection.recv(1 << 16).endswith(b"\r\n\r\n3")
    # Trailers are not headers.
    assert all(name != b"x-api-key" for scope in server.seen for name, _ in scope["headers"])


def test_connections_without_a_whole_request_end(hasty: Server) -> None:
    kinds = (b"", b"GET / HT", REQUEST + b"X: a\r\n", b"\r\n")
    opened = [hasty.open() for _ in range(PER_ADDRESS)]
    for number, connection in enumerate(opened):
        send(connection, kinds[number % len(kinds)])
    for connection in opened:
        with connection:
            answer = everything(connection)
            assert not answer or status(answer) == 408
    eventually(lambda: hasty.connections() == 0, 60)


def test_idle_connections_end_after_their_last_response(hasty: Server) -> None:
    opened = []
    for behind in (b"", b"\r\n", b"GET / "):
        opened.append(hasty.open())
        opened[-1].sendall(GOOD)
        assert opened[-1].recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        send(opened[-1], behind)
    for connection in opened:
        with connection:
            everything(connection)
    eventually(lambda: hasty.connections() == 0, 60)


UNWANTED = b"POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"


def test_a_body_that_was_not_wanted_has_little_time(hasty: Server) -> None:
    with hasty.open() as connection:
        connection.sendall(UNWANTED)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        assert everything(connection) in (b"", b"0")


def test_after_a_body_that_was_not_wanted_the_connection_serves_on(server: Server) -> None:
    with server.open() as connection:
        connection.sendall(UNWANTED)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"defghij" + GOOD)
        answer = b""
        while b"HTTP/1.1 200 " not in answer:
            piece = connection.recv(1 << 16)
            assert piece
            answer += piece


def test_a_response_that_is_not_read_ends(hasty: Server) -> None:
    with hasty.open() as connection:
        connection.sendall(GOOD.replace(b"/ ", b"/large "))
        eventually(lambda: len(hasty.seen) == 1 and hasty.connections() == 0, 60)


def test_requests_that_wait_on_a_connection_are_bounded(server: Server) -> None:
    waiting = REQUEST + b"Content-Length: 1\r\n\r\na"
    with server.open() as connection:
        connection.sendall(waiting * 10)
        answer = b""
        while answer.count(b"HTTP/1.1 200 ") < 10:
            answer += connection.recv(1 << 16)
        send(connection, waiting * 1000)
        *answered, refused = everything(connection).split(b"HTTP/1.1 ")[1:]
    # Those that were accepted have their answers.
    assert len(answered) == len(server.seen) - 10 == limits.PIPELINE_MAX + 1
    assert all(response.startswith(b"200 ") for response in answered)
    assert refused.startswith(b"400 ") and b"requests wait" in refused


def test_connections_of_an_address_are_bounded(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(server.open()) for _ in range(PER_ADDRESS)]
        for connection in opened:
            connection.sendall(GOOD)
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        with server.open() as connection:
            answer = everything(connection)
            assert status(answer) == 429 and b"retry-after: 1" in answer
    eventually(lambda: server.connections() == 0, 60)
    with server.open() as connection:
        connection.sendall(GOOD)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


def test_an_ipv6_client_has_the_places_of_its_prefix() -> None:
    leases = connections.Leases(ConnectionLimits(10, 2))
    held = [leases.take(client_network(f"2001:db8::{number}")) for number in range(2)]
    with pytest.raises(ApiError):
        leases.take(client_network("2001:db8::ffff"))
    leases.take(client_network("2001:db8:0:1::1")).release()
    assert client_network("::ffff:192.0.2.1") == client_network("192.0.2.1")
    for lease in (*held, *held):
        lease.release()
    assert leases.total == 0 and not leases.by_address


def test_unfinished_tls_handshakes_end_and_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HANDSHAKE_S", 2.0)
    made = certificate.create(tmp_path / "tls", "127.0.0.1", "sandboxes.localhost")
    with running(limits.KEEP_ALIVE_S, made.chain) as server:
        began = time.monotonic()
        opened = [server.open() for _ in range(PER_ADDRESS)]
        for number, connection in enumerate(opened):
            connection.sendall(b"\x16\x03\x01"[: number % 4])
        with server.open() as refused:
            assert everything(refused) == b""
        assert time.monotonic() - began < 2.0 or pytest.skip("this host is too busy")
        for connection in opened:
            with connection:
                everything(connection)
        context = ssl.create_default_context(cafile=made.chain)

        def serves() -> bool:
            try:
                with context.wrap_socket(server.open(), server_hostname="localhost") as secured:
                    secured.sendall(GOOD)
                    return secured.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
            except OSError:
                return False

        eventually(serves, 60)


def test_without_a_descriptor_the_server_waits(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that has no descriptor left accepts again once it has."""
    acceptor: Any = server.server.servers[0]
    real = acceptor._listener
    failures: list[int] = []

    class Exhausted:
        def accept(self) -> Any:
            if len(failures) < 2:
                failures.append(1)
                raise OSError(24, "Too many open files")
            return real.accept()

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    monkeypatch.setattr(connections, "PAUSE_S", 0.01)
    monkeypatch.setattr(acceptor, "_listener", Exhausted())
    with server.open() as connection:
        connection.sendall(GOOD)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    assert len(failures) == 2


@pytest.fixture(scope="module")
def gateway(run: Run) -> Iterator[GatewayProcess]:
    with running_gateway(run, "--substrate", "noop", "--connections", "40") as process:
        yield process


def test_the_gateway_has_these_limits(gateway: GatewayProcess) -> None:
    def opened() -> socket.socket:
        return socket.create_connection(("127.0.0.1", gateway.port), timeout=60)

    with opened() as connection:
        send(connection, REQUEST + b"X: " + b"a" * 40_000 + b"\r\n\r\n")
        assert status(everything(connection)) == 431
    upgrade = (
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"E2b-Sandbox-Id: nothing\r\nE2b-Sandbox-Port: 80\r\n"
    )
    with opened() as connection:
        send(connection, upgrade + b"X: " + b"a" * 40_000 + b"\r\n\r\n")
        assert status(everything(connection)) == 431
    for _ in range(60):  # each gives its place back
        with opened() as connection:
            send(connection, upgrade + b"\r\n")
            assert status(everything(connection)) == 502

    def refused() -> bool:
        with opened() as connection:
            connection.settimeout(1)
            with contextlib.suppress(TimeoutError):
                return everything(connection).startswith(b"HTTP/1.1 429 ")
            return False

    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(opened())
        eventually(refused, 60)
    eventually(lambda: not refused(), 60)
    assert gateway.request("GET", "/v2/sandboxes")[0] == 200


def test_slow_bodies_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from starlette.requests import Request

    from harness.gateway.http import request_body

    monkeypatch.setattr(request_body, "BODY_S", 0.1)

    async def receive() -> Any:
        await asyncio.sleep(0.03)
        return {"type": "http.request", "body": b"a", "more_body": True}

    with pytest.raises(ApiError) as late:
        asyncio.run(request_body.read_body(Request({"type": "http"}, receive), 1 << 20))
    assert late.value.status == 408
    with pytest.raises(ApiError) as long:
        asyncio.run(request_body.read_body(Request({"type": "http"}, receive), 1))
    assert long.value.status == 413
