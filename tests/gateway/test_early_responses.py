"""Responses to requests whose body has not arrived yet: no client that still sends loses one, and
what it sends is read within bounds."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from harness.gateway.gateway_process import GatewayProcess
from tests.gateway import test_http_limits
from tests.gateway.test_http_limits import Server, everything, send, status
from tests.host.processes import eventually

server, hasty = test_http_limits.server, test_http_limits.hasty
LIMITS = "harness.gateway.http.protocol."
MIB = 1 << 20
CLOSE, KEEP = b"Connection: close\r\n", b""


def head(path: bytes, length: int, more: bytes = b"") -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n" % (path, length, more)


@contextlib.contextmanager
def opened(gateway: GatewayProcess) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=50) as connection:
        yield connection


@pytest.mark.parametrize("more", [CLOSE, KEEP])
def test_a_client_that_sends_all_before_it_reads_has_the_response(
    server: Server, more: bytes
) -> None:
    with server.open() as connection:
        connection.sendall(head(b"/unread", 10 * MIB, more))
        eventually(lambda: len(server.seen) == 1, 60)
        for _ in range(10):
            connection.sendall(bytes(MIB))
        connection.shutdown(socket.SHUT_WR)
        assert status(everything(connection)) == 200
    eventually(lambda: server.connections() == 0, 60)


@pytest.mark.parametrize("more", [CLOSE, KEEP])
def test_a_client_that_sends_nothing_more_is_let_go(hasty: Server, more: bytes) -> None:
    with hasty.open() as connection:
        connection.sendall(head(b"/unread", 10 * MIB, more))
        assert status(everything(connection)) == 200
        eventually(lambda: hasty.connections() == 0, 60)


@pytest.mark.parametrize("more", [CLOSE, KEEP])
def test_an_endless_body_is_cut_off(
    server: Server, more: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{LIMITS}BODY_LINGER_MAX", 4 * MIB)
    with server.open() as connection:
        connection.sendall(head(b"/unread", 1 << 40, more))
        assert send(connection, bytes(MIB), 100) < 100 * MIB
    eventually(lambda: server.connections() == 0, 60)


@pytest.mark.parametrize("more", [CLOSE, KEEP])
def test_a_body_that_trickles_in_has_a_limit_too(
    hasty: Server, more: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{LIMITS}BODY_LINGER_S", 1.0)
    with hasty.open() as connection:
        connection.sendall(head(b"/unread", 1 << 20, more))
        eventually(lambda: len(hasty.seen) == 1, 60)

        def ended() -> bool:
            with contextlib.suppress(ConnectionError):
                connection.send(b"a")
            return hasty.connections() == 0

        eventually(ended, 60)


@pytest.mark.parametrize("more", [CLOSE, KEEP])
@pytest.mark.parametrize(("key", "expected"), [(True, 413), (False, 401)])
def test_a_body_announced_as_too_long_is_refused_at_once(
    nothing: GatewayProcess, more: bytes, key: bool, expected: int
) -> None:
    """Before any of it is sent; and a client that sends 10 MiB first has the answer too."""
    if key:
        more += f"X-API-KEY: {nothing.key}\r\n".encode()
    with opened(nothing) as connection:  # its time limit is below that of a body
        connection.sendall(head(b"/v2/sandboxes", 1 << 40, more))
        assert status(connection.recv(1 << 16)) == expected
    with opened(nothing) as connection:
        connection.sendall(head(b"/v2/sandboxes", 10 * MIB, more))
        for _ in range(10):
            connection.sendall(bytes(MIB))
        assert status(connection.recv(1 << 16)) == expected
