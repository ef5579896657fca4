"""Addresses of files that a browser opens, and that web pages from elsewhere use."""

from __future__ import annotations

import http.client
import http.server
import threading
from collections.abc import Iterator

import pytest

from harness.gateway.gateway_process import GatewayProcess
from tests.gateway.client import ENVD, Box
from tests.gateway.test_addresses import signed
from tests.site.browser import browser, program

ORIGIN = {"Origin": "https://page.example"}
ASKS = {**ORIGIN, "Access-Control-Request-Method": "POST"}
ALLOWS = "access-control-allow-origin"


def asked(
    gateway: GatewayProcess, method: str, path: str, headers: dict[str, str]
) -> tuple[int, dict[str, str]]:
    """The status and headers of an answer to a request without a key."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status, {name.lower(): value for name, value in response.getheaders()}


def test_a_page_may_ask_and_read_what_envd_answers(nothing: GatewayProcess) -> None:
    box = Box.create(nothing)
    host = {"Host": f"{ENVD}-{box.id}.sandboxes.localhost"}
    for path, named in (
        (signed(box, "/a", "write"), {}),
        ("/files?path=/a", host),
        ("/process.Process/Start", {}),
        ("/anything", host),
    ):
        status, headers = asked(
            nothing, "OPTIONS", path,
            {**ASKS, **named, "Access-Control-Request-Headers": "x-access-token"},
        )  # fmt: skip
        assert (status, headers[ALLOWS]) == (204, "*"), path
        assert "POST" in headers["access-control-allow-methods"]
        assert headers["access-control-allow-headers"] == "x-access-token"
    status, headers = asked(nothing, "GET", signed(box, "/a", "read"), ORIGIN)
    assert (status, headers[ALLOWS]) == (400, "*"), "noop has no files, and the page may read that"
    status, headers = asked(nothing, "GET", signed(box, "/a", "read") + "x", ORIGIN)
    assert (status, headers[ALLOWS]) == (404, "*")


def test_no_page_reads_the_control_plane_or_a_server_without_its_leave(
    nothing: GatewayProcess,
) -> None:
    box = Box.create(nothing)
    for path in ("/sandboxes", "/metrics", "/health"):
        assert ALLOWS not in asked(nothing, "GET", path, ORIGIN)[1]
        assert ALLOWS not in asked(nothing, "OPTIONS", path, ASKS)[1]
    server = {"Host": f"8000-{box.id}.sandboxes.localhost"}
    for method, headers in (("GET", ORIGIN), ("OPTIONS", ASKS)):
        assert ALLOWS not in asked(nothing, method, "/files", {**headers, **server})[1]
    assert ALLOWS not in asked(nothing, "GET", signed(box, "/a", "read"), {})[1]


def test_the_head_of_a_signed_url_is_of_its_sandbox(nothing: GatewayProcess) -> None:
    box = Box.create(nothing)
    assert asked(nothing, "HEAD", signed(box, "/a", "read"), {})[0] == 405


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """The address of a page of another origin."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>elsewhere</title>")

        def log_message(self, *arguments: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.skipif(program() is None, reason="Chromium is not installed")
def test_a_browser_opens_signed_addresses(served: GatewayProcess, box: Box, elsewhere: str) -> None:
    """As a page does that is given them: a form with a file, then the file, then raw bytes."""
    path = "/home/user/from a page é.txt"
    upload = served.address + signed(box, path, "write")
    download = served.address + signed(box, path, "read")
    with browser() as tab:
        tab.open(elsewhere)
        sent = tab.evaluate_later(
            f"""(async () => {{
                const form = new FormData()
                form.append('file', new Blob(['sent by a page']), 'any.txt')
                return (await fetch({upload!r}, {{method: 'POST', body: form}})).status
            }})()"""
        )
        read = tab.evaluate_later(f"fetch({download!r}).then((answer) => answer.text())")
        raw = tab.evaluate_later(
            f"""fetch({upload!r}, {{method: 'POST', body: 'raw',
                headers: {{'Content-Type': 'application/octet-stream'}}}})
                .then((answer) => answer.status)"""
        )
        assert (sent, read, raw) == (200, "sent by a page", 200), tab.complaints
