"""Serves a built site on loopback for viewing; not a public server."""

from __future__ import annotations

import functools
import http.server
from pathlib import Path

from harness.errors import UsageError


class _Handler(http.server.SimpleHTTPRequestHandler):
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
