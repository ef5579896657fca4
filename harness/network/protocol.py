"""The interface between cubenet and packet filters: nf_tables on Linux, pf on FreeBSD.

A policy is applied atomically: every packet obeys the old policy or the new one, and after `apply`
has returned, the new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from harness.errors import SandboxGone
from harness.network.policy import Destination, Policy


@dataclass(frozen=True)
class Member:
    """A sandbox as packet filters see it: its port's index, and the addresses it may send from."""

    id: str
    port: int
    mac: bytes
    address: IPv4Address
    address6: IPv6Address


def member_of(members: Mapping[str, Member], id: str) -> Member:
    """The member with this id. Raises SandboxGone."""
    try:
        return members[id]
    except KeyError:
        raise SandboxGone(
            f"{id} is not in the network", hint="it was detached, or never attached"
        ) from None


@dataclass(frozen=True)
class Counters:
    """Frames of one sandbox: sent from its own addresses (allowed or not), denied, and forged.

    A frame that is evaluated again, because the policy changed meanwhile, counts as sent twice.
    """

    sent: int
    sent_bytes: int
    denied: int
    spoofed: int


@dataclass(frozen=True)
class Change:
    """Entries that a change of policy added and removed. `cuts_established`: it also ends existing
    connections that are no longer allowed."""

    added: int
    removed: int
    cuts_established: bool


class PolicyEngine(Protocol):
    """A packet filter that enforces the policies of sandboxes. Thread-safe."""

    def admit(self, member: Member, policy: Policy) -> Change:
        """Add a sandbox with this policy, atomically."""

    def apply(self, id: str, policy: Policy) -> Change:
        """Replace a sandbox's policy, atomically. Raises SandboxGone."""

    def expel(self, id: str) -> None:
        """Remove a sandbox and its policy. Raises SandboxGone."""

    def counters(self) -> Mapping[str, Counters]:
        """The counters of every sandbox, by its id."""

    def holds(self, id: str, destination: Destination) -> bool:
        """Whether the kernel's entries that allow a sandbox something include exactly this one."""

    def empty_change(self) -> None:
        """Send a request that changes nothing, to measure its cost."""

    def close(self) -> None:
        """Remove the filter and all of its state from the system."""


class Network(Protocol):
    """Sandboxes on one bridge, and their policies."""

    def apply(self, id: str, policy: Policy) -> Change:
        """Replace a sandbox's policy, atomically. Raises SandboxGone."""

    def counters(self) -> Mapping[str, Counters]:
        """The counters of every sandbox, by its id."""

    def detach(self, *ids: str) -> None:
        """Detach sandboxes. Raises SandboxGone."""
