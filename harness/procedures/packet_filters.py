"""The packet filter and network of this system, for rigs that measure policies.

Linux has nf_tables, and a namespace for each network. FreeBSD has pf, where all networks are below
one root anchor, and jails instead of namespaces.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from harness.host import freebsd
from harness.host.local import LocalHost
from harness.host.protocol import must
from harness.host.requirement import Requirement
from harness.host.run import Run
from harness.measure.record import Facts
from harness.network import links
from harness.network import requirements as linux
from harness.network.cubenet import NIC_NAME, NOTHING, Cubenet, open_cubenet
from harness.network.links import Links
from harness.network.namespace import inside, namespace
from harness.network.nftables import Nftables
from harness.network.pf import Pf
from harness.network.pf_cubenet import PfCubenet, open_pf_cubenet
from harness.network.policy import Policy
from harness.network.protocol import Network, PolicyEngine
from harness.procedures.jail_endpoint import JailEndpoint, jail_endpoint
from harness.procedures.namespace_endpoint import Endpoint, endpoint
from harness.procedures.peers import LocalPeer, jail_peer, namespace_peer

FREEBSD = sys.platform.startswith("freebsd")
FACTS: Facts = (
    {"mechanism": "pf", "transport": "pfctl"}
    if FREEBSD
    else {"mechanism": "nftables", "transport": "netlink"}
)
"""How records name this system's mechanism for changing a policy."""
TOOLS: Sequence[str] = ("pfctl",) if FREEBSD else ("nft",)
COMPILER: Sequence[str] = ("cc",) if FREEBSD else ("musl-gcc",)


def requirements() -> Sequence[Requirement]:
    """What cubenet needs on this host, for `coppice doctor`."""
    if not FREEBSD:
        return linux.requirements()
    host = LocalHost(None)
    return [
        freebsd.root(host),
        freebsd.vimage(host),
        *freebsd.bridging(host),
        *(need for need in freebsd.pf(host) if "limit" not in need.what),
    ]


@dataclass(frozen=True)
class PacketFilter:
    """A policy engine, and the context in which a thread is in its namespace."""

    engine: PolicyEngine
    inside: Callable[[], AbstractContextManager[None]]


@contextlib.contextmanager
def packet_filter(run: Run, name: str) -> Iterator[PacketFilter]:
    """A packet filter without a network, until the block ends: rule sets only.

    There is one pf for all networks, so members of different filters of a run must have different
    names. Their interfaces do not exist; pf limits an interface's name to 15 bytes.
    """
    if FREEBSD:
        pf = Pf(LocalHost(run), run, lambda port: f"none{port}")
        try:
            yield PacketFilter(pf, contextlib.nullcontext)
        finally:
            pf.close()
        return
    with namespace(run.directory, name) as where:
        with inside(where):
            engine = Nftables(name)
        try:
            yield PacketFilter(engine, lambda: inside(where))
        finally:
            engine.close()


@contextlib.contextmanager
def open_network(run: Run) -> Iterator[Network]:
    """Cubenet on this system, until the block ends."""
    if FREEBSD:
        with open_pf_cubenet(LocalHost(run), run) as pf:
            yield pf
        return
    with open_cubenet(run) as net:
        yield net


@contextlib.contextmanager
def open_endpoint(
    run: Run, net: Network, policy: Policy = NOTHING
) -> Iterator[Endpoint | JailEndpoint]:
    """An endpoint on a network of `open_network`, until the block ends."""
    if isinstance(net, PfCubenet):
        with jail_endpoint(run, net, policy) as jail:
            yield jail
        return
    assert isinstance(net, Cubenet)
    with endpoint(run, net, policy) as made:
        yield made


def peer(run: Run, at: Endpoint | JailEndpoint) -> AbstractContextManager[LocalPeer]:
    """A peer that runs programs in an endpoint, until the block ends."""
    if isinstance(at, JailEndpoint):
        return jail_peer(run, at.jail, at.address)
    return namespace_peer(run, at.namespace, at.address)


def introduce(run: Run, at: Endpoint | JailEndpoint, other: Endpoint | JailEndpoint) -> None:
    """Tell an endpoint the MAC address of another, so that it can send where its policy does not
    let it ask. Root inside a sandbox can do the same."""
    if isinstance(at, JailEndpoint):
        host = LocalHost(run)
        must(host, ["jexec", at.jail, "/usr/sbin/arp", "-s", other.address, other.identity.mac])
        return
    with inside(at.namespace):
        own = Links()
        try:
            nic = own.index(NIC_NAME)
            own.send(links.neighbour(nic, other.identity.address, other.identity.mac_bytes))
        finally:
            own.close()
