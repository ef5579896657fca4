"""How a record tells where a sandbox is, so that a gateway that is started anew finds it."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from harness.errors import SandboxError
from harness.host.identity import Identity
from harness.host.run import Run


def told(identity: Identity) -> Mapping[str, Any]:
    plain = ("id", "hostname", "machine_id", "mac", "prefix")
    return {
        **{name: getattr(identity, name) for name in plain},
        "address": str(identity.address),
        "key": identity.key.hex(),
        "lease": str(identity.lease),
    }


def identity_of(told: Mapping[str, Any]) -> Identity:
    return Identity(
        id=told["id"],
        hostname=told["hostname"],
        machine_id=told["machine_id"],
        mac=told["mac"],
        address=IPv4Address(told["address"]),
        prefix=told["prefix"],
        key=bytes.fromhex(told["key"]),
        lease=Path(told["lease"]),
    )


def port_of(about: Mapping[str, Any], network: object | None) -> str | None:
    """The name of a sandbox's port, None without a card. SandboxError where the gateway that had
    it gave cards and this one does not, or the other way: nobody would enforce its rules, or it
    would be where no rules are."""
    port: str | None = about["identity"].get("port")
    if bool(port) != (network is not None):
        has, does = ("a", "gives none") if port else ("no", "gives one")
        raise SandboxError(f"the sandbox has {has} card, and this gateway {does}")
    return port


def free_leases(run: Run, kept: Collection[Path]) -> None:
    """Give back the addresses that a run holds for sandboxes that it no longer has."""
    for lease in run.leases.iterdir() if run.leases.is_dir() else ():
        with contextlib.suppress(OSError):
            if lease not in kept and lease.read_text() == run.id:
                lease.unlink()


def born(pid: int) -> float:
    """When a process was started, in ticks since this host's boot: its number may come again.

    -1 for one that has ended, whether or not its parent has been told.
    """
    try:
        found = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return -1.0
    return -1.0 if found[0] in "ZX" else float(found[19])
