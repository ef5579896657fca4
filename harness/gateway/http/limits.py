"""What a client may use of the server before it has proved who it is."""

from __future__ import annotations

from dataclasses import dataclass

HEAD_MAX = 32 << 10
"""Bytes of a request's line and headers, and of the trailers after its body."""
URL_MAX = 16 << 10
"""Room for a percent-encoded path of 4,000 bytes in a query."""
HEADERS_MAX = 100
PIPELINE_MAX = 16
"""Requests that may wait on a connection for the response to the first."""
HEAD_S = 15.0
"""From the connection, or the first byte of a request, until the last byte of its headers."""
HANDSHAKE_S = 10.0
KEEP_ALIVE_S = 60
LINGER_S = 5.0
"""How long a client whose request was refused may go on sending its headers, or may pause when it
sends a body."""
LINGER_MAX = 1 << 20
BODY_LINGER_S = 30.0
"""How long a client may go on sending a body after the response."""
BODY_LINGER_MAX = 64 << 20
GRACE_S = 5.0
"""How long requests may go on when the gateway ends."""
STALLED_S = 300.0
"""How long a client may leave a response unread."""


@dataclass(frozen=True)
class ConnectionLimits:
    """Connections that are open at once, in all and from one address."""

    total: int
    per_address: int
