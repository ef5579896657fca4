"""Addresses of services as users write them."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from dataclasses import dataclass
from urllib.parse import urlsplit

from harness import option_types
from harness.errors import UsageError

SUPPORTED_SANDBOX_DOMAINS = ("e2b.app", "e2b.dev", "e2b.pro", "e2b-staging.dev")
"""Domains at which E2B has one host for all sandboxes, told by headers which is meant."""
ENVD, INTERPRETER = 49983, 49999
"""The ports of a sandbox's envd and its code interpreter."""


@dataclass(frozen=True)
class Origin:
    """Where connections go: what a URL says before its path."""

    tls: bool
    host: str
    port: int

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"http{'s' if self.tls else ''}://{self.authority}"


def checked(text: str, what: str) -> str:
    """An http or https URL of a service, without a slash at its end. Raises UsageError."""
    if "@" in text.partition("://")[2].partition("/")[0]:
        raise UsageError(
            f"{what}: an address with a name or a password in it would be in every record",
            hint="a key comes from a variable: --api-key-env VARIABLE",
        )
    if re.match(r"(?!https?://)[a-z][a-z0-9+.-]*://", text, re.I):
        scheme = text.partition(":")[0]
        raise UsageError(f"{what} {text}: the scheme {scheme} is neither http nor https")
    try:
        return option_types.directory_url(text).rstrip("/")
    except ArgumentTypeError as error:
        raise UsageError(f"{what}: {error}", hint="such as https://api.example.org") from error


def split(url: str) -> tuple[Origin, str]:
    """The origin of a URL that was checked, and the path below which the API lies."""
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    port = parts.port or (443 if tls else 80)
    return Origin(tls, parts.hostname or "", port), parts.path.rstrip("/")
