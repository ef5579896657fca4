"""How a stored sandbox tells where it runs, so that the next gateway finds it again."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from harness.errors import SandboxError
from harness.host.file_system import entries
from harness.host.identity import Identity
from harness.host.run import Run

LOCATION_FIELDS = ("identity", "pid", "born", "came_from")
"""The fields of a stored sandbox that `location` fills."""


def location(
    identity: Identity,
    pid: int,
    ticks: float,
    port: str | None,
    came_from: str = "",
    **details: str,
) -> Mapping[str, Any]:
    """Where a sandbox runs: its process, the name of its network port, and its memory file."""
    plain = ("id", "hostname", "machine_id", "mac", "prefix")
    return {
        "identity": {
            **{name: getattr(identity, name) for name in plain},
            "address": str(identity.address),
            "key": identity.key.hex(),
            "lease": str(identity.lease),
            **details,
            "port": port,
        },
        "pid": pid,
        "born": ticks,
        "came_from": came_from,
    }


def check_location(
    location: Mapping[str, Any], network: object | None
) -> tuple[Identity, int, str | None]:
    """The identity, process and network port of a sandbox that still runs.

    SandboxError when it has ended, and when it has a network interface and this gateway has no
    network, or the other way round: its rules would not be enforced.
    """
    identity, pid = _identity(location["identity"]), int(location["pid"])
    if start_ticks(pid) != location["born"]:
        raise SandboxError(f"the sandbox {identity.id} has ended")
    port: str | None = location["identity"].get("port")
    if bool(port) != (network is not None):
        has, gives = ("has a", "gives none") if port else ("has no", "gives one to each")
        raise SandboxError(f"the sandbox {has} network interface, and this gateway {gives}")
    return identity, pid, port


def _identity(stored: Mapping[str, Any]) -> Identity:
    return Identity(
        id=stored["id"],
        hostname=stored["hostname"],
        machine_id=stored["machine_id"],
        mac=stored["mac"],
        address=IPv4Address(stored["address"]),
        prefix=stored["prefix"],
        key=bytes.fromhex(stored["key"]),
        lease=Path(stored["lease"]),
    )


def free_leases(run: Run, kept: Collection[Path]) -> None:
    """Release the addresses that a run has leased for sandboxes that no longer exist."""
    for lease in entries(run.leases):
        with contextlib.suppress(OSError):
            if lease not in kept and lease.read_text(encoding="utf-8") == run.id:
                lease.unlink()


def start_ticks(pid: int) -> float:
    """When a process was started, in ticks since boot: PIDs are reused.

    -1 for a process that has ended, reaped or not.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return -1.0
    return -1.0 if fields[0] in "ZX" else float(fields[19])
