"""A self-signed certificate for a gateway on this host.

Some SDKs require HTTPS to sandboxes. Clients trust the certificate through SSL_CERT_FILE.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from harness.host.process import run

DAYS = "800"
"""The validity; some clients reject longer ones."""
_CONFIGURATION = """[req]
distinguished_name = name
x509_extensions = extensions
prompt = no
[name]
CN = coppice gateway
[extensions]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth
subjectAltName = {names}
"""


@dataclass(frozen=True)
class Certificate:
    """The files of a certificate (`chain`, which clients trust) and its private key."""

    chain: Path
    key: Path


def create(directory: Path, host: str, domain: str) -> Certificate:
    """A new certificate, at each start of a gateway, for `host` and all names below `domain`.

    Raises MissingTool without openssl.
    """
    directory.mkdir(exist_ok=True, mode=0o700)
    certificate = Certificate(directory / "certificate.pem", directory / "key.pem")
    below = domain.partition(":")[0]
    names = ["DNS:localhost", "IP:127.0.0.1", f"DNS:{below}", f"DNS:*.{below}", _name(host)]
    settings = directory / "settings"
    settings.write_text(
        _CONFIGURATION.format(names=",".join(dict.fromkeys(names))), encoding="utf-8"
    )
    run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
        "-noenc", "-days", DAYS, "-config", settings, "-out", certificate.chain,
        "-keyout", certificate.key,
    )  # fmt: skip
    return certificate


def _name(host: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(host)}"
    except ValueError:
        return f"DNS:{host}"
