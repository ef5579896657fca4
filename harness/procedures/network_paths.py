"""Network paths between two peers, from loopback to microVMs: each adds a layer and its cost.

loopback   inside one namespace
veth       two namespaces, connected by a veth pair
bridge     two namespaces, each a port of a bridge that filters nothing
policy     two sandboxes on cubenet: deny by default, one is allowed to reach the other
microvm    two microVMs on cubenet, under the same policy
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from harness.errors import Unsupported
from harness.host.cpus import usable
from harness.host.identity import Identity, allocate
from harness.host.run import Run
from harness.measure.record import Scalar
from harness.network import links
from harness.network.cubenet import NIC_NAME, Cubenet
from harness.network.links import Links
from harness.network.namespace import inside, namespace
from harness.network.policy import Policy
from harness.paths import cache_directory
from harness.procedures.namespace_endpoint import endpoint
from harness.procedures.peers import GuestPeer, Peer, namespace_peer
from harness.sandbox.protocol import Tier
from harness.sandbox.qemu import QemuSubstrate

Pair = tuple[Peer, Peer]
"""The peer that asks, and the one that answers."""
_ADDRESSES = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
"""Addresses of two peers on a network of their own."""
_MACS = bytes.fromhex("02c000000001"), bytes.fromhex("02c000000002")
_PREFIX = 24


@contextlib.contextmanager
def loopback(run: Run, net: Cubenet) -> Iterator[Pair]:
    with namespace(run.directory, "loopback") as path:
        with _links(path) as own:
            own.send(links.up(links.LOOPBACK))
            # netperf finds no host if all addresses are loopback addresses.
            own.send(links.address(links.LOOPBACK, _ADDRESSES[0], 32))
        address = str(_ADDRESSES[0])
        with (
            namespace_peer(run, path, address) as asks,
            namespace_peer(run, path, address) as answers,
        ):
            yield asks, answers


@contextlib.contextmanager
def veth(run: Run, net: Cubenet) -> Iterator[Pair]:
    with _two_namespaces(run, "veth") as (near, far):
        handle = os.open(far, os.O_RDONLY)
        try:
            with _links(near) as own:
                own.send(links.pair(NIC_NAME, NIC_NAME, handle, _MACS[1]))
                own.try_send(links.large_segments(own.index(NIC_NAME)))
        finally:
            os.close(handle)
        with _connected(run, near, far) as pair:
            yield pair


@contextlib.contextmanager
def bridge(run: Run, net: Cubenet) -> Iterator[Pair]:
    with (
        namespace(run.directory, "bridge") as middle,
        _two_namespaces(run, "bridged") as (near, far),
    ):
        with _links(middle) as own:
            own.send(links.bridge("bridge"))
            index = own.index("bridge")
            own.send(links.up(index))
            for number, (path, mac) in enumerate(zip((near, far), _MACS, strict=True)):
                handle = os.open(path, os.O_RDONLY)
                try:
                    own.send(links.pair(f"port{number}", NIC_NAME, handle, mac))
                finally:
                    os.close(handle)
                port = own.index(f"port{number}")
                own.send(links.plain_port(port, index))
                own.try_send(links.large_segments(port))
        with _connected(run, near, far) as pair:
            yield pair


@contextlib.contextmanager
def policy(run: Run, net: Cubenet) -> Iterator[Pair]:
    with (
        endpoint(run, net) as answers,
        endpoint(run, net, Policy.of([answers.address])) as asks,
        namespace_peer(run, asks.namespace, asks.address) as asking,
        namespace_peer(run, answers.namespace, answers.address) as answering,
    ):
        yield asking, answering


@contextlib.contextmanager
def microvm(run: Run, net: Cubenet) -> Iterator[Pair]:
    substrate = QemuSubstrate()
    template = substrate.prepare(run, cache_directory(), Tier.DURABLE_PREWARM_POOL)
    with contextlib.ExitStack() as stack:

        def guest(identity: Identity, allowed: Policy) -> GuestPeer:
            port = net.attach_tap(identity, allowed)
            stack.callback(net.detach, identity.id)
            sandbox = substrate.launch(
                run, template, Tier.DURABLE_PREWARM_POOL, identity, tap=port.descriptor
            )
            stack.callback(sandbox.destroy)
            sandbox.resume()
            return GuestPeer(sandbox)

        ids = [allocate(run.leases, run.id) for _ in range(2)]
        for identity in ids:
            stack.callback(identity.release)
        answers = guest(ids[0], Policy())
        yield guest(ids[1], Policy.of([answers.address])), answers


PATHS: Mapping[str, Callable[[Run, Cubenet], contextlib.AbstractContextManager[Pair]]] = {
    "loopback": loopback,
    "veth": veth,
    "bridge": bridge,
    "policy": policy,
    "microvm": microvm,
}


@dataclass(frozen=True)
class OpenPath:
    """An open network path with both peers on one core, or each on its own."""

    path: str
    cores: int
    asks: Peer
    answers: Peer

    @property
    def dimensions(self) -> dict[str, Scalar]:
        return {"path": self.path, "cores": self.cores}

    def pin(self) -> None:
        """Pin both peers, and their programs, to their cores."""
        self.answers.pin(0)
        self.asks.pin(self.cores - 1)


def open_paths(run: Run, net: Cubenet, stack: contextlib.ExitStack) -> Iterator[OpenPath]:
    """Every path that this host supports, on one core and on two; the stack closes them.

    Where microVMs cannot run their path is omitted; `coppice doctor` shows why.
    """
    here = range(1, min(2, usable()) + 1)
    for path, cores in itertools.product(PATHS, here):
        try:
            pair = stack.enter_context(PATHS[path](run, net))
        except Unsupported:
            if path != "microvm":
                raise
            continue
        yield OpenPath(path, cores, *pair)


@contextlib.contextmanager
def _links(path: Path) -> Iterator[Links]:
    with inside(path):
        own = Links()
    try:
        yield own
    finally:
        own.close()


@contextlib.contextmanager
def _two_namespaces(run: Run, name: str) -> Iterator[tuple[Path, Path]]:
    with namespace(run.directory, name) as near, namespace(run.directory, name) as far:
        yield near, far


@contextlib.contextmanager
def _connected(run: Run, near: Path, far: Path) -> Iterator[Pair]:
    """Two peers in namespaces whose NICs exist and have no addresses yet."""
    for path, own in zip((near, far), _ADDRESSES, strict=True):
        with _links(path) as there, inside(path):
            nic = socket.if_nametoindex(NIC_NAME)
            there.send(links.up(nic))
            there.send(links.address(nic, own, _PREFIX))
            there.try_send(links.large_segments(nic))
    with (
        namespace_peer(run, near, str(_ADDRESSES[0])) as asking,
        namespace_peer(run, far, str(_ADDRESSES[1])) as answering,
    ):
        yield asking, answering
