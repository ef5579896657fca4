"""What a packet filter does for cubenet: nf_tables does it here, pf on FreeBSD.

A policy is applied whole and atomically: every packet obeys the old one or the new one, and from
the return of `apply` on, the new one.
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
    """A sandbox to a packet filter: the number of its port, and what it may send as."""

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
    """Frames of one sandbox: sent as itself (allowed or not), refused by policy, and forged.

    A frame that is judged again, because its policy changed meanwhile, counts again as sent.
    """

    sent: int
    sent_bytes: int
    denied: int
    spoofed: int


@dataclass(frozen=True)
class Change:
    """What a change of policy did. `cuts_established`: connections that it no longer allows end."""

    added: int
    removed: int
    cuts_established: bool


class PolicyEngine(Protocol):
    """A packet filter that enforces the policies of sandboxes; safe for many threads."""

    def admit(self, member: Member, policy: Policy) -> Change:
        """Begin to let a sandbox send, under this policy, in one step."""

    def apply(self, id: str, policy: Policy) -> Change:
        """Replace a sandbox's policy in one step. Raises SandboxGone."""

    def expel(self, id: str) -> None:
        """Forget a sandbox and all that it was allowed. Raises SandboxGone."""

    def counters(self) -> Mapping[str, Counters]:
        """The counters of every sandbox, by its id."""

    def holds(self, id: str, destination: Destination) -> bool:
        """Whether the kernel has exactly this entry in what it allows a sandbox."""

    def empty_change(self) -> None:
        """Ask for no change at all: what asking costs."""

    def close(self) -> None:
        """Take the filter and all of its state off the system."""


class Network(Protocol):
    """Sandboxes' ports on one bridge, and the policies that they send under."""

    def apply(self, id: str, policy: Policy) -> Change:
        """Replace a sandbox's policy in one step. Raises SandboxGone."""

    def counters(self) -> Mapping[str, Counters]:
        """The counters of every sandbox, by its id."""

    def detach(self, *ids: str) -> None:
        """Take sandboxes off the network. Raises SandboxGone."""
