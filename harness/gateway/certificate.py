"""The certificate of a gateway that speaks TLS on this host: signed by itself, for nobody else.

Some SDKs insist on https to a sandbox. Who shall believe it is told so with SSL_CERT_FILE.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from harness.host.process import run

DAYS = "800"
"""Some clients refuse more."""
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
    """Two files; `chain` is what a client is to believe."""

    chain: Path
    key: Path


def made(directory: Path, host: str, domain: str) -> Certificate:
    """A new one, at every start of a gateway, for `host` and all names below `domain`.

    Raises MissingTool without openssl.
    """
    directory.mkdir(exist_ok=True, mode=0o700)
    one = Certificate(directory / "certificate.pem", directory / "key.pem")
    below = domain.partition(":")[0]
    names = ["DNS:localhost", "IP:127.0.0.1", f"DNS:{below}", f"DNS:*.{below}", _name(host)]
    settings = directory / "settings"
    settings.write_text(_CONFIGURATION.format(names=",".join(dict.fromkeys(names))))
    run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
        "-noenc", "-days", DAYS, "-config", settings, "-out", one.chain, "-keyout", one.key,
    )  # fmt: skip
    return one


def _name(host: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(host)}"
    except ValueError:
        return f"DNS:{host}"
