"""A network for sandboxes: a bridge in its own namespace, whose ports reach what policies allow.

    with open_cubenet(run) as net:
        port = net.attach_netns(identity, its_namespace, Policy.of(["10.77.3.4 tcp/80"]))
        tap = net.attach_tap(other_identity)          # the VMM inherits tap.descriptor
        net.apply(identity.id, Policy())              # nothing passes once it returns
        net.detach(identity.id)

A sandbox reaches nothing until a policy allows it, and can send only with its own addresses.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from harness.errors import NotEnoughMemory, SandboxGone, UsageError
from harness.host.identity import NETWORK6, Identity
from harness.host.run import Run
from harness.network import links
from harness.network.links import Links
from harness.network.namespace import inside, namespace
from harness.network.netlink import missing
from harness.network.nftables import Nftables
from harness.network.policy import Policy
from harness.network.protocol import Change, Counters, Member, PolicyEngine
from harness.network.settings import NET, set_net
from harness.network.uplink import GATEWAY_MAC, GATEWAYS, UPLINK, uplink

BRIDGE = "cubenet"
NIC_NAME = "eth0"
"""The NIC's name inside a namespace."""
NOTHING = Policy()


@dataclass(frozen=True)
class Port:
    """A sandbox's port on the bridge: the interface's name and index in cubenet's namespace.

    `descriptor` is a tap's, for a VMM to inherit, and None for a veth pair's. Cubenet closes it.
    """

    id: str
    name: str
    index: int
    descriptor: int | None = None


class Cubenet:
    """Ports and policies of one bridge, in the namespace `namespace`. Thread-safe.

    Open one with `open_cubenet`.
    """

    def __init__(
        self,
        namespace: Path,
        own: Links,
        bridge: int,
        engine: PolicyEngine,
        *,
        outside: bool,
        first: int = 1,
    ) -> None:
        self.namespace = namespace
        self.outside = outside
        self.engine = engine
        self._links = own
        self._bridge = bridge
        self._lock = threading.Lock()
        self._ports: dict[str, Port] = {}
        self._numbers = itertools.count(first)
        self._groups = itertools.count(1)

    def attach_netns(
        self, identity: Identity, target: Path | int, policy: Policy = NOTHING
    ) -> Port:
        """Create a NIC with the identity's addresses in a namespace, given as a path or a PID.

        Raises NotEnoughMemory when the bridge has no free port, UsageError when the identity is
        attached already.
        """
        handle = os.open(
            f"/proc/{target}/ns/net" if isinstance(target, int) else target, os.O_RDONLY
        )
        try:

            def make(name: str) -> Port:
                self._links.send(links.pair(name, NIC_NAME, handle, identity.mac_bytes))
                index = self._links.index(name)
                self._links.try_send(links.large_segments(index))
                return Port(identity.id, name, index)

            with self._attached(identity, policy, make) as port, inside(target):
                _configure(identity, GATEWAYS if self.outside else ())
                return port
        finally:
            os.close(handle)

    def attach_tap(self, identity: Identity, policy: Policy = NOTHING) -> Port:
        """A tap for a VMM, whose guest must use the identity's MAC and IP addresses."""

        def make(name: str) -> Port:
            with inside(self.namespace):
                handle = links.tap(name)
                return Port(identity.id, name, socket.if_nametoindex(name), handle)

        with self._attached(identity, policy, make) as port:
            return port

    def adopt(self, identity: Identity, name: str, policy: Policy = NOTHING) -> Port:
        """Attach a sandbox by an existing port, which a former owner of this network created."""

        def find(_: str) -> Port:
            return Port(identity.id, name, self._links.index(name))

        with self._attached(identity, policy, find) as port:
            return port

    def port(self, id: str) -> Port:
        """A sandbox's port. Raises SandboxGone."""
        with self._lock:
            if id in self._ports:
                return self._ports[id]
        raise SandboxGone(f"{id} is not in the network", hint="it was detached, or never attached")

    def apply(self, id: str, policy: Policy) -> Change:
        """Replace a sandbox's policy, atomically. Raises SandboxGone."""
        return self.engine.apply(id, policy)

    def counters(self) -> Mapping[str, Counters]:
        return self.engine.counters()

    def detach(self, *ids: str) -> None:
        """Detach sandboxes, their policies first, so that no packet passes meanwhile.

        Detaching many at once takes no longer than one. Raises SandboxGone.
        """
        with self._lock:
            gone = [id for id in ids if id not in self._ports]
            if gone:
                raise SandboxGone(
                    f"{', '.join(gone)} not in the network",
                    hint="it was detached, or never attached",
                )
            ports = [self._ports.pop(id) for id in ids]
        for id in ids:
            with contextlib.suppress(SandboxGone):  # attaching failed before it was admitted
                self.engine.expel(id)
        self._remove(ports)

    @contextlib.contextmanager
    def _attached(
        self, identity: Identity, policy: Policy, make: Callable[[str], Port]
    ) -> Iterator[Port]:
        """Create a port, and remove it if the block fails."""
        with self._lock:
            if identity.id in self._ports:
                raise UsageError(
                    f"{identity.id} is attached already",
                    hint="detach it first, or allocate another identity",
                )
            if len(self._ports) >= links.MOST_PORTS:
                raise NotEnoughMemory(
                    f"all {links.MOST_PORTS} ports of the bridge are taken",
                    hint="detach sandboxes, or open a second cubenet",
                )
            port = make(f"port{next(self._numbers)}")
            self._ports[identity.id] = port
        try:
            self._links.send(links.port(port.index, self._bridge, identity.mac_bytes))
            if self.outside:
                for own in (identity.address, identity.address6):
                    self._links.send(links.neighbour(self._bridge, own, identity.mac_bytes))
            member = Member(
                identity.id, port.index, identity.mac_bytes, identity.address, identity.address6
            )
            self.engine.admit(member, policy)
            yield port
        except BaseException:
            self.detach(identity.id)
            raise

    def _remove(self, ports: Sequence[Port]) -> None:
        try:
            self._links.send(links.delete([port.index for port in ports], next(self._groups)))
        except OSError as error:
            if not missing(error):  # a veth pair is deleted with the namespace of its peer
                raise
        finally:
            for port in ports:
                if port.descriptor is not None:
                    os.close(port.descriptor)

    def close(self) -> None:
        """Remove all ports: an open tap would keep the namespace alive."""
        with self._lock:
            ports = list(self._ports.values())
            self._ports.clear()
        if ports:
            self._remove(ports)


def _configure(identity: Identity, gateways: Iterable[IPv4Address | IPv6Address]) -> None:
    """In the calling thread's namespace: bring the NIC up with its addresses."""
    own = Links()
    try:
        nic = socket.if_nametoindex(NIC_NAME)
        messages = itertools.chain(
            links.up(links.LOOPBACK),
            links.up(nic),
            links.address(nic, identity.address, identity.prefix),
            links.address(nic, identity.address6, NETWORK6.prefixlen),
            *map(links.default_route, gateways),
        )
        own.send(messages)
        own.try_send(links.large_segments(nic))
    finally:
        own.close()


def bypass_iptables() -> None:
    """In the calling thread's namespace: keep bridged frames out of iptables and its kin.

    With br_netfilter they would pass both rule sets. Raises Unsupported.
    """
    for family in ("iptables", "ip6tables", "arptables"):
        setting = f"bridge/bridge-nf-call-{family}"
        if (NET / setting).exists():
            set_net(setting, "0")


def _remove_bridge(own: Links) -> int:
    """In the calling thread's namespace: delete a former owner's bridge and uplink.

    Its ports stay, connected to nothing. Returns the first free port number.
    """
    there = {name: index for index, name in socket.if_nameindex()}
    last = max((int(name[4:]) for name in there if re.fullmatch(r"port\d+", name)), default=0)
    gone = [there[name] for name in (BRIDGE, UPLINK) if name in there]
    if gone:
        own.send(links.delete(gone, last + 1))
    return last + 2


@contextlib.contextmanager
def open_cubenet(
    run: Run,
    outside: Path | int | None = None,
    again: Callable[[], object] | None = None,
    resolver: IPv4Address | None = None,
) -> Iterator[Cubenet]:
    """A network of a run, until the block ends. Its namespace is mounted in the run's directory.

    `outside` is a namespace (a path, or the PID of a process in it) that sandboxes reach through
    address translation, within their policies (see `uplink`); without it nothing leaves the bridge.
    `resolver` is there: sandboxes whose policies have `dns` for the bridge's address may ask it.
    `again` takes over the network of a killed process of this run: it is called once no packet
    passes there any more, and must release that process's rules; afterwards attach the sandboxes
    that remain (`Cubenet.adopt`). It stays if the run goes on without this process. Raises
    MissingPrivilege, and Unsupported where the kernel lacks a feature.
    """
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(
            namespace(run.directory, BRIDGE, again=again is not None, stays=lambda: run.goes_on)
        )
        first = 1
        with inside(path):
            bypass_iptables()
            own = Links()
            stack.callback(own.close)
            if again:
                first = _remove_bridge(own)
                again()
            own.send(links.bridge(BRIDGE, GATEWAY_MAC))
            bridge = own.index(BRIDGE)
            own.send(links.up(bridge))
            engine = Nftables(f"coppice-{run.id}")
            stack.callback(engine.close)
        if outside is not None:
            stack.enter_context(uplink(path, own, bridge, outside, resolver))
            engine.open_gate(GATEWAY_MAC, GATEWAYS)
        net = Cubenet(path, own, bridge, engine, outside=outside is not None, first=first)
        stack.callback(lambda: None if run.goes_on else net.close())
        yield net
