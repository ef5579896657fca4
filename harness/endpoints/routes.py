"""Where requests into a sandbox go: to one place with headers, or to hosts below a domain."""

from __future__ import annotations

from harness.endpoints.address import ENVD, SUPPORTED_SANDBOX_DOMAINS, Origin, split
from harness.endpoints.answers import Created
from harness.endpoints.settings import Endpoint

Route = tuple[Origin, str, str]
"""Where to connect, the value of Host, and the path below which the sandbox answers."""


class Routes:
    """`api` and `sandboxes` are the origins and paths that the endpoint's settings name."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.api = split(endpoint.address)
        self.sandboxes = split(endpoint.sandbox_url) if endpoint.sandbox_url else None
        self._domain = endpoint.domain

    def into(self, created: Created, port: int = ENVD) -> Route:
        """The route to a port of a sandbox."""
        if self.sandboxes:
            origin, prefix = self.sandboxes
            host = f"{port}-{created.id}.{self._domain}" if self._domain else origin.authority
            return origin, host, prefix
        api, prefix = self.api
        domain = self._domain or created.domain or _domain_of(api.host)
        if not domain:
            return api, api.authority, prefix
        name, _, own = domain.partition(":")
        if name.endswith(".invalid"):  # a service that does not know its domain; no name resolves
            return api, api.authority, prefix
        if name.endswith("localhost"):  # the API's own host, whatever a resolver says of the name
            return api, f"{port}-{created.id}.{domain}", ""
        if domain in SUPPORTED_SANDBOX_DOMAINS:
            origin = Origin(True, f"sandbox.{domain}", 443)
        else:
            usual = 443 if api.tls else 80
            origin = Origin(api.tls, f"{port}-{created.id}.{name}", int(own or usual))
        return origin, origin.authority, ""


def _domain_of(host: str) -> str | None:
    """The domain of sandboxes beside an API at api.DOMAIN, as the SDK has it."""
    return host.removeprefix("api.") if host.startswith("api.") else None


def needs_user(version: object) -> bool:
    """Whether this envd has no user of its own choice: before 0.4.0."""
    try:
        return tuple(int(part) for part in str(version).split(".")[:2]) < (0, 4)
    except ValueError:
        return False
