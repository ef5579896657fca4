"""Which callers may reach which port of a sandbox: the same rules for requests and WebSockets.

The id of a sandbox is part of its public addresses, so it proves nothing: each service of the
gateway inside a sandbox requires one of the sandbox's tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.datastructures import Headers, QueryParams

from harness.gateway.data_plane import file_signature
from harness.gateway.errors import ApiError
from harness.gateway.sandboxes.sandbox import Sandbox
from harness.gateway.sandboxes.tokens import Tokens
from harness.gateway.wrong_credentials import WrongCredentials

ENVD_PORT, INTERPRETER_PORT = 49983, 49999
TOKEN_HEADERS = {"envd": "x-access-token", "traffic": "e2b-traffic-access-token"}
HEALTH = "/health"
WRONG_TOKEN = "the access token is missing, or is not this sandbox's"


@dataclass(frozen=True)
class Visit:
    """A request as far as it decides who may make it. `address` is the caller's."""

    port: int
    method: str
    path: str
    query: bytes
    headers: Headers
    address: str

    @property
    def asks_for_health(self) -> bool:
        return self.path == HEALTH and self.port in (ENVD_PORT, INTERPRETER_PORT)


class Authorisation:
    """The rules of a gateway's sandboxes."""

    def __init__(self, tokens: Tokens, wrong: WrongCredentials) -> None:
        self._tokens = tokens
        self._wrong = wrong

    def require(self, sandbox: Sandbox, visit: Visit) -> None:
        """Raises ApiError 401 or 403 for a caller who may not make this request, and 429 for an
        address that has failed too often."""
        if refusal := self._refusal(sandbox, visit):
            raise self._wrong.answer(visit.address, refusal)

    def permits(self, sandbox: Sandbox, visit: Visit) -> bool:
        """Whether the caller may make this request; a refusal does not count as a failure."""
        return self._refusal(sandbox, visit) is None

    def _refusal(self, sandbox: Sandbox, visit: Visit) -> ApiError | None:
        public = sandbox.stored.network.get("allowPublicTraffic") is not False
        if visit.port == ENVD_PORT:
            if not sandbox.stored.secure:
                return None
            if visit.path == "/files" and "signature" in (query := QueryParams(visit.query)):
                token = self._tokens.of(sandbox.id, "envd")
                return file_signature.refusal(visit.method, query, token)
            return None if self._has_token(sandbox, visit, "envd") else ApiError(401, WRONG_TOKEN)
        if visit.port == INTERPRETER_PORT:
            # SDKs send envd's token with cells only, and the traffic token with all requests.
            open_to_all = public and not sandbox.stored.secure
            if open_to_all or self._has_token(sandbox, visit, "envd", "traffic"):
                return None
            return ApiError(401, WRONG_TOKEN)
        if public or self._has_token(sandbox, visit, "traffic"):
            return None
        header = TOKEN_HEADERS["traffic"]
        return ApiError(403, f"the ports of this sandbox require its token, in {header}")

    def _has_token(self, sandbox: Sandbox, visit: Visit, *purposes: str) -> bool:
        return any(
            self._tokens.matches(sandbox.id, purpose, visit.headers.get(TOKEN_HEADERS[purpose], ""))
            for purpose in purposes
        )
