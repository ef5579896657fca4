"""Shows a built site on loopback, for looking at it; not a server for others."""

from __future__ import annotations

import functools
import http.server
from pathlib import Path

from harness.errors import UsageError


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Be quiet: the address was said once."""


def server(directory: Path, port: int) -> http.server.ThreadingHTTPServer:
    """Bound to 127.0.0.1; port 0 takes a free one. Raises UsageError when it is taken."""
    handler = functools.partial(_Handler, directory=str(directory))
    try:
        return http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise UsageError(
            f"cannot listen on 127.0.0.1:{port}: {error.strerror}",
            hint="name another one with --port, or 0 for any",
        ) from error
