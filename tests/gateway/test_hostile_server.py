"""Servers in a sandbox whose answers are no HTTP."""

from __future__ import annotations

import pytest

from harness.errors import AnswerTooLong, MalformedAnswer
from harness.gateway.data_plane.port_proxy import HEAD_MAX, ServerResponse

TRAILERS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"


@pytest.mark.parametrize(
    ("head", "again"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-Y: z\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"", b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n"),
        (TRAILERS, b"X-Y: z\r\n"),
        (TRAILERS + b"X: ", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x"),
    ],
)
def test_endless_headers_of_a_server_are_refused(head: bytes, again: bytes) -> None:
    response = ServerResponse("GET")
    piece = again * (4096 // len(again))
    with pytest.raises((AnswerTooLong, MalformedAnswer)):
        response.feed(head)
        for _ in range(2 * HEAD_MAX // len(piece)):
            response.feed(piece)


@pytest.mark.parametrize("status", [b"0", b"99", b"600", b"799", b"999"])
def test_a_status_that_is_none_is_refused(status: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        ServerResponse("GET").feed(b"HTTP/1.1 %s Odd\r\n\r\n" % status)


def test_a_long_body_in_small_chunks_is_no_endless_head() -> None:
    response = ServerResponse("GET")
    response.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(HEAD_MAX):
        response.feed(b"1\r\nx\r\n")
    response.feed(b"0\r\n\r\n")
    assert response.complete and len(response.body) == HEAD_MAX
