"""The network that this system has: rigs of policies say what they measure, and this what with.

Linux has nf_tables, and a namespace for each network. FreeBSD has pf, where all networks lie side
by side below our root anchor, and jails stand for namespaces.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from harness.host import freebsd
from harness.host.local import LocalHost
from harness.host.requirement import Requirement
from harness.host.run import Run
from harness.measure.record import Facts
from harness.network import requirements as linux
from harness.network.cubenet import NOTHING, Cubenet, open_cubenet
from harness.network.endpoint import Endpoint, endpoint
from harness.network.namespace import inside, namespace
from harness.network.nftables import Nftables
from harness.network.pf import Pf
from harness.network.pf_cubenet import PfCubenet, open_pf_cubenet
from harness.network.pf_endpoint import JailEndpoint, jail_endpoint
from harness.network.policy import Policy
from harness.network.protocol import Network, PolicyEngine
from harness.procedures.endpoints import Local as LocalParty
from harness.procedures.endpoints import jailed, local

FREEBSD = sys.platform.startswith("freebsd")
FACTS: Facts = (
    {"mechanism": "pf", "transport": "pfctl"}
    if FREEBSD
    else {"mechanism": "nftables", "transport": "netlink"}
)
"""How a record names this system's way of changing a policy."""
TOOLS: Sequence[str] = ("pfctl",) if FREEBSD else ("nft",)
COMPILER: Sequence[str] = ("cc",) if FREEBSD else ("musl-gcc",)


def requirements() -> Sequence[Requirement]:
    """What networks of ours need of this host, for the doctor."""
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
    """An engine, and how a thread gets to where it works."""

    engine: PolicyEngine
    inside: Callable[[], AbstractContextManager[None]]


@contextlib.contextmanager
def packet_filter(run: Run, name: str) -> Iterator[PacketFilter]:
    """A filter without a network to judge, until the block ends: rule sets and no more.

    pf has one for all: names of members must differ between filters of one run. Their cards are
    none that there are; a name of one has at most 15 bytes.
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
    """Cubenet on this system; goes with the block."""
    if FREEBSD:
        with open_pf_cubenet(LocalHost(run), run) as pf:
            yield pf
        return
    with open_cubenet(run) as net:
        yield net


@contextlib.contextmanager
def plugged(run: Run, net: Network, policy: Policy = NOTHING) -> Iterator[Endpoint | JailEndpoint]:
    """The least sandbox on a network of `open_network`, until the block ends."""
    if isinstance(net, PfCubenet):
        with jail_endpoint(run, net, policy) as jail:
            yield jail
        return
    assert isinstance(net, Cubenet)
    with endpoint(run, net, policy) as made:
        yield made


def party(run: Run, one: Endpoint | JailEndpoint) -> AbstractContextManager[LocalParty]:
    """Who runs programs in an endpoint, until the block ends."""
    if isinstance(one, JailEndpoint):
        return jailed(run, one.jail, one.address)
    return local(run, one.namespace, one.address)
