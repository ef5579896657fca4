"""E2B's network rules as cubenet policies. Each sandbox has a port."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from typing import Any

from harness.errors import PolicyError, SandboxGone
from harness.gateway.fleets.fd_holder import FdHolder
from harness.host.identity import NETWORK, Identity
from harness.host.run import Run
from harness.network.cubenet import NOTHING, Cubenet, open_cubenet
from harness.network.nftables import Nftables
from harness.network.policy import DNS_PORT, Destination, Policy
from harness.network.uplink import RESOLVER

RULES = ".rules"
"""The name under which the nftables socket is held; not a sandbox's id."""
EVERYTHING = "*"
WHOLE = {4: "0.0.0.0/0", 6: "::/0"}


def policy(rules: Mapping[str, Any], resolver: IPv4Address | None = None) -> Policy:
    """The policy for E2B's rules: allowOut takes precedence over denyOut; other traffic is allowed
    unless internet access is denied. Private ranges are denied unless allowed explicitly.

    The outside's `resolver`, which sandboxes know by the bridge's address, is allowed as if that
    were public: if the rules allow or deny it, they decide.
    Raises PolicyError, also for host names: cubenet filters by address.
    """
    allowed, allow = _split(_list(rules, "allowOut"))
    denied, deny = _split(_list(rules, "denyOut"))
    if 4 in denied:  # E2B's own name for all traffic
        denied = {4, 6}
    closed = {4, 6} if rules.get("allow_internet_access") is False else denied
    closed -= allowed
    names = resolver and (_covers(allow, resolver) or not (4 in closed or _covers(deny, resolver)))
    if len(closed) == 1:  # the default is one for both families
        deny = [*deny, *(WHOLE[family] for family in closed)]
    return Policy.of(
        allow, deny, [str(RESOLVER)] if names else [],
        default="deny" if len(closed) == 2 else "allow",
    )  # fmt: skip


def _split(addresses: Sequence[str]) -> tuple[set[int], Sequence[str]]:
    """The address families, 4 and 6, that are named as a whole, and the other addresses."""
    families: set[int] = set()
    others = []
    for address in addresses:
        with contextlib.suppress(ValueError):
            if (network := ip_network(address)).prefixlen == 0:
                families.add(network.version)
                continue
        if address == EVERYTHING:
            families = {4, 6}
        else:
            others.append(address)
    return families, others


def _covers(destinations: Sequence[str], resolver: IPv4Address) -> bool:
    """Whether requests for names to a resolver, by either of its addresses, are among them."""
    for destination in map(Destination.parse, destinations):
        where = ip_network((destination.address, destination.length))
        if destination.port in (None, DNS_PORT) and (resolver in where or RESOLVER in where):
            return True
    return False


def _list(rules: Mapping[str, Any], name: str) -> Sequence[str]:
    addresses = rules.get(name) or []
    if not isinstance(addresses, list) or not all(
        isinstance(address, str) and address.isprintable() for address in addresses
    ):
        raise PolicyError(f"{name} must be a list of addresses")
    return addresses


class Network:
    """A fleet's cubenet."""

    def __init__(self, net: Cubenet, resolver: IPv4Address | None) -> None:
        self._net = net
        self._outer_resolver = resolver
        # E2B's default for sandboxes without rules; nothing where there is no outside network.
        self._default = policy({}, resolver) if net.outside else NOTHING

    @property
    def route(self) -> IPv4Address | None:
        """The gateway of a sandbox's default route, where there is an outside network."""
        return NETWORK[1] if self._net.outside else None

    @property
    def resolver(self) -> IPv4Address | None:
        """The resolver's address in sandboxes."""
        return RESOLVER if self._outer_resolver else None

    def attach(self, identity: Identity) -> int:
        """The descriptor of the tap device for a new sandbox's network interface."""
        port = self._net.attach_tap(identity, self._default)
        assert port.descriptor is not None
        return port.descriptor

    def attach_process(self, identity: Identity, pid: int) -> None:
        """Create the network interface in a process's namespace."""
        self._net.attach_netns(identity, pid, self._default)

    def port(self, id: str) -> str:
        """The name of a sandbox's port, for `adopt`."""
        return self._net.port(id).name

    def adopt(self, identity: Identity, name: str) -> None:
        """Take over the port of a killed gateway; it passes no traffic until `set_rules`."""
        self._net.adopt(identity, name)

    def detach(self, id: str) -> None:
        with contextlib.suppress(SandboxGone):
            self._net.detach(id)

    def set_rules(self, id: str, rules: Mapping[str, Any]) -> None:
        """Raises SandboxGone for a sandbox without a port."""
        self._net.apply(id, policy(rules, self._outer_resolver))


@contextlib.contextmanager
def opened(
    run: Run, outside: Path | int | None, resolver: IPv4Address | None, fd_holder: FdHolder
) -> Iterator[Network]:
    """The network of a run, new or taken over from a killed gateway.

    The kernel drops the rules when their netlink socket is closed. The fd holder has a copy of it,
    so the rules stay in force while no gateway runs.
    """
    with open_cubenet(run, outside, lambda: fd_holder.drop(RULES), resolver) as net:
        assert isinstance(net.engine, Nftables)
        fd_holder.keep(RULES, [net.engine.netlink])
        yield Network(net, resolver)
