"""A sandbox's identity: names and addresses that are unique on this host."""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from harness.errors import NotEnoughMemory
from harness.host.run import LEASE_BEGUN

NETWORK = IPv4Network("10.77.0.0/16")
"""IPv4 addresses of sandboxes; the first is the gateway's, the last is broadcast."""
NETWORK6 = IPv6Network("fd77:c0bb:1ce::/64")
"""IPv6 addresses of sandboxes; they end with the IPv4 address."""
SHARED_LEASE = "lease"
NO_KEY = bytes(16)
"""The key of a guest before it gets an identity."""


@dataclass(frozen=True)
class Identity:
    """`key` (16 bytes) signs answers to nonces; `lease` is the file that reserves the address."""

    id: str
    hostname: str
    machine_id: str
    mac: str
    address: IPv4Address
    prefix: int
    key: bytes
    lease: Path

    @property
    def mac_bytes(self) -> bytes:
        return bytes.fromhex(self.mac.replace(":", ""))

    @property
    def address6(self) -> IPv6Address:
        return NETWORK6[int(self.address)]

    def release(self) -> None:
        """Free the address; safe to call twice."""
        self.lease.unlink(missing_ok=True)


def allocate(leases: Path, run_id: str) -> Identity:
    """A new identity. `leases` is shared by every run of this host and has one file per address.

    Linking the file into place is the lock, so threads and processes may call this at once. The
    file holds the run's id from the start: a killed process never leaves an unowned lease.
    All leases of a run are links to one file where they can be: ext4 without a journal looks at
    each file that was deleted in the last minutes before it makes another.
    Raises NotEnoughMemory when every address is in use.
    """
    shared = leases.parent / run_id / SHARED_LEASE
    if shared.exists():  # this lies on the path of what is timed
        with contextlib.suppress(OSError):
            return _take(leases, shared)
    leases.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):  # of a run that has no directory, or has very many leases
        return _take(leases, _shared(leases.parent / run_id, run_id))
    begun = leases / f"{LEASE_BEGUN}{run_id}.{secrets.token_hex(4)}"
    try:
        begun.write_text(run_id, encoding="utf-8")
        return _take(leases, begun)
    finally:
        begun.unlink(missing_ok=True)


def _shared(directory: Path, run_id: str) -> Path:
    """The file of a run that its leases are links to."""
    shared = directory / SHARED_LEASE
    if not shared.exists():
        own = directory / f"{SHARED_LEASE}.{secrets.token_hex(4)}"
        own.write_text(run_id, encoding="utf-8")
        own.replace(shared)
    return shared


def _take(leases: Path, begun: Path) -> Identity:
    first, usable = int(NETWORK.network_address), NETWORK.num_addresses - 3
    start = secrets.randbelow(usable)
    for step in range(usable):
        index = 2 + (start + step) % usable
        lease = leases / str(index)
        try:
            os.link(begun, lease)
        except FileExistsError:
            continue
        address = IPv4Address(first + index)
        fresh = secrets.token_bytes(38)  # one call: this lies on the path of what is timed
        id = fresh[:6].hex()
        return Identity(
            id=id,
            hostname=f"sandbox-{id}",
            machine_id=fresh[6:22].hex(),
            # Locally administered; the address makes it unique on this host's bridge.
            mac=(b"\x02\xc0" + address.packed).hex(":"),
            address=address,
            prefix=NETWORK.prefixlen,
            key=fresh[22:],
            lease=lease,
        )
    raise NotEnoughMemory(
        f"all {usable} addresses of {NETWORK} are in use",
        hint="coppice clean frees the addresses of dead runs",
    )
