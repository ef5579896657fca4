"""A service under test, as rigs and commands know it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError

if TYPE_CHECKING:
    import ssl

TEMPLATE = "code-interpreter-v1"
"""E2B's name for its template with a code interpreter; most services that copy its API have it."""
KEY_VARIABLE = "E2B_API_KEY"
FOREIGN = "endpoint"
"""The system's name if the user gives none."""


@dataclass(frozen=True)
class Limits:
    """What the user allows to be made at a service that is not ours."""

    most_sandboxes: int
    most_per_second: float


@dataclass(frozen=True)
class Endpoint:
    """`address` is that of the API. Sandboxes are reached at `sandbox_url` with headers that name
    them, or, if there is a `domain`, by hosts below it, which `sandbox_url` then serves all; if
    there is neither, as the answer to the creation says.

    `price` is for a sandbox and hour, as the user writes it. `machine` is what the user tells of
    the far end. No text of this object holds a secret.
    """

    name: str
    system: str
    address: str
    key: str = field(repr=False)
    key_variable: str = KEY_VARIABLE
    template: str = TEMPLATE
    sandbox_url: str | None = None
    domain: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca_file: Path | None = None
    verify: bool = True
    price: str | None = None
    tags: Sequence[str] = ()
    machine: str | None = None
    limits: Limits | None = None

    def redacted(self, text: str) -> str:
        """A text without this endpoint's secrets."""
        for secret in (self.key, *self.headers.values()):
            if len(secret) >= 6:
                text = text.replace(secret, "(left out)")
        return text

    def tls_context(self) -> ssl.SSLContext:
        """How certificates of the service are checked. Raises UsageError for a bad `ca_file`."""
        import ssl  # not in every Python

        if self.ca_file and self.ca_file.exists() and not self.ca_file.is_file():
            raise UsageError(f"the certificates in {self.ca_file} are no regular file")
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:  # SSLError is one
            why = getattr(error, "strerror", None) or error
            raise UsageError(f"the certificates in {self.ca_file} cannot be used: {why}") from error
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context
