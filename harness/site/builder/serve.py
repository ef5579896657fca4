"""Serves a built site on loopback for viewing; not a public server."""

from __future__ import annotations

import functools
import http
import http.server
from pathlib import Path

from harness.errors import UsageError


class _Handler(http.server.SimpleHTTPRequestHandler):
    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """The site's own page for an address that does not exist."""
        page = Path(self.directory) / "404.html"
        if code != http.HTTPStatus.NOT_FOUND or not page.is_file():
            super().send_error(code, message, explain)
            return
        content = page.read_bytes()
        self.send_response(code)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the address was printed at start."""


def server(directory: Path, port: int) -> http.server.ThreadingHTTPServer:
    """A server on 127.0.0.1; port 0 picks a free port. Raises UsageError if the port is taken."""
    handler = functools.partial(_Handler, directory=str(directory))
    try:
        return http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise UsageError(
            f"cannot listen on 127.0.0.1:{port}: {error.strerror}",
            hint="name another port with --port, or 0 for any free one",
        ) from error
