"""Only processes of this run may join a cluster that it starts.

Anyone who reaches a scheduler of dask can run code in its workers, so a port on the loopback
interface would open this process to every user of the host. Both sides therefore show a
certificate, whose key only this run can read.
"""

from __future__ import annotations

from pathlib import Path

from distributed import Security

from harness.host.process import run

_CERTIFICATE, _KEY = "certificate.pem", "key.pem"


def create(directory: Path) -> Security:
    """A new certificate in a directory of this user alone. MissingTool without openssl."""
    directory.chmod(0o700)
    run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc",
        "-days", "2", "-subj", "/CN=coppice", "-out", directory / _CERTIFICATE,
        "-keyout", directory / _KEY,
    )  # fmt: skip
    return security(directory)


def security(directory: Path) -> Security:
    """What scheduler, workers and client need to know each other."""
    certificate, key = str(directory / _CERTIFICATE), str(directory / _KEY)
    return Security(
        require_encryption=True,
        tls_ca_file=certificate,
        tls_scheduler_cert=certificate,
        tls_scheduler_key=key,
        tls_worker_cert=certificate,
        tls_worker_key=key,
        tls_client_cert=certificate,
        tls_client_key=key,
    )
