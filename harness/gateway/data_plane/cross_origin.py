"""Requests of web pages from elsewhere to envd, which browsers make only if the answer permits it.

E2B's envd permits every origin: what protects a sandbox is its token or a signature, which no page
gets from the browser by itself.
"""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import Message, Scope, Send

ORIGIN = b"origin"
_ASKS = b"access-control-request-method"
_OF_ENVD = ("/files", "/process.Process/", "/filesystem.Filesystem/")
_ALLOW_ORIGIN = (b"access-control-allow-origin", b"*")
METHODS = "HEAD, GET, POST, PUT, PATCH, DELETE"
LASTS_S = 7200


def is_of_page(scope: Scope) -> bool:
    """Whether a page from elsewhere makes the request, or asks if it may."""
    return any(name == ORIGIN for name, _ in scope["headers"])


def is_preflight(scope: Scope) -> bool:
    """Whether a browser asks if a page may make a request."""
    return scope["method"] == "OPTIONS" and any(name == _ASKS for name, _ in scope["headers"])


def has_path_of_envd(scope: Scope) -> bool:
    """Whether a request that names no sandbox can only be for envd: a preflight lacks the headers
    of the request that follows, and a signed URL needs none."""
    path: str = scope["path"]
    return path.startswith(_OF_ENVD)


def permission(scope: Scope) -> Response:
    """The answer to a preflight."""
    given = dict(scope["headers"]).get(b"access-control-request-headers", b"")
    headers = {
        "access-control-allow-methods": METHODS,
        "access-control-max-age": str(LASTS_S),
        **({"access-control-allow-headers": given.decode("latin-1")} if given else {}),
    }
    return Response(status_code=204, headers=headers)


def permitting(send: Send) -> Send:
    """The same channel, with responses that the page may read."""

    async def permit(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), _ALLOW_ORIGIN]
            message = {**message, "headers": headers}
        await send(message)

    return permit
