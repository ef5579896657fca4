"""Cubenet on FreeBSD: a bridge, filtered by pf, for jails and microVMs.

    with open_pf_cubenet(host, run) as net:
        port = net.attach_epair(identity, Policy.of(["10.77.3.4 tcp/80"]))   # port.jail: for a jail
        tap = net.attach_tap(other_identity)                   # tap.descriptor: its unit
        net.apply(identity.id, Policy())                       # nothing passes once it returns
        net.detach(identity.id)

Every interface is in the group of this harness and its description names its owner, so that those
of a killed run are found (harness/host/leftovers_freebsd.py). A port's anchor is loaded before the
port joins the bridge, so that no packet passes unfiltered.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from harness.errors import CommandFailed, SandboxGone, Unsupported, UsageError
from harness.host.freebsd import ask, bridging
from harness.host.identity import NETWORK, Identity
from harness.host.leftovers_freebsd import GROUP
from harness.host.protocol import Host, must
from harness.host.run import Run
from harness.network.pf import Pf, egress_interface
from harness.network.policy import Policy
from harness.network.protocol import Change, Counters, Member

NOTHING = Policy()
NIC_NAME = "eth0"
"""The NIC's name inside a jail."""


@dataclass(frozen=True)
class PfPort:
    """A sandbox's port: the interface on the bridge, and `jail`, the jail's end of the pair.

    `descriptor` is a tap's unit number, by which bhyve finds it.
    """

    id: str
    name: str
    jail: str = ""
    descriptor: int | None = None


class PfCubenet:
    """Ports and policies of one bridge. Thread-safe. Open one with `open_pf_cubenet`."""

    def __init__(self, host: Host, run: Run, bridge: str) -> None:
        self.bridge = bridge
        self._host = host
        self._run = run
        self._interfaces: dict[int, str] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._ports: dict[str, PfPort] = {}
        self.engine = Pf(host, run, lambda number: self._interfaces[number])

    def attach_epair(self, identity: Identity, policy: Policy = NOTHING) -> PfPort:
        """An epair: one end on the bridge, the other for a jail with its own network stack."""
        with self._attaching(identity.id):
            near = make_interface(self._host, "epair", self._run.object_name(identity.id))
            return self._plug(identity, policy, PfPort(identity.id, near, near[:-1] + "b"))

    def attach_tap(self, identity: Identity, policy: Policy = NOTHING) -> PfPort:
        """A tap for a VMM, whose guest must use the identity's MAC and IP addresses."""
        with self._attaching(identity.id):
            name = make_interface(self._host, "tap", self._run.object_name(identity.id))
            return self._plug(
                identity, policy, PfPort(identity.id, name, descriptor=tap_number(name))
            )

    def apply(self, id: str, policy: Policy) -> Change:
        """Replace a sandbox's policy, atomically. Raises SandboxGone."""
        return self.engine.apply(id, policy)

    def counters(self) -> Mapping[str, Counters]:
        return self.engine.counters()

    def detach(self, *ids: str) -> None:
        """Detach sandboxes, their policies first, so that no packet passes meanwhile."""
        with self._lock:
            gone = [id for id in ids if id not in self._ports]
            if gone:
                raise SandboxGone(f"{', '.join(gone)} not in the network", hint="it was detached")
            ports = [self._ports.pop(id) for id in ids]
        for port in ports:
            with contextlib.suppress(SandboxGone):  # attaching failed before it was admitted
                self.engine.expel(port.id)
            remove_interface(self._host, port.name)

    def close(self) -> None:
        """Detach every sandbox and close the packet filter."""
        self.detach(*list(self._ports))
        self.engine.close()

    @contextlib.contextmanager
    def _attaching(self, id: str) -> Iterator[None]:
        """Detach the sandbox if the block fails."""
        with self._lock:
            if id in self._ports:
                raise UsageError(f"{id} is attached already", hint="detach it first")
        try:
            yield
        except BaseException:
            with contextlib.suppress(SandboxGone):
                self.detach(id)
            raise

    def _plug(self, identity: Identity, policy: Policy, port: PfPort) -> PfPort:
        with self._lock:
            self._ports[identity.id] = port
            number = next(self._numbers)
            self._interfaces[number] = port.name
        mac, address, address6 = identity.mac_bytes, identity.address, identity.address6
        self.engine.admit(Member(identity.id, number, mac, address, address6), policy)
        must(self._host, ["ifconfig", self.bridge, "addm", port.name])
        # A static entry: the bridge must not learn MAC addresses from forged frames.
        must(self._host, ["ifconfig", self.bridge, "static", port.name, identity.mac])
        return port


def make_interface(host: Host, kind: str, described: str) -> str:
    """Create an interface, up, and return its name.

    One command creates and marks it, so that a lost connection leaves no unmarked interface.
    """
    argv = ["ifconfig", kind, "create", "description", described, "group", GROUP, "up"]
    try:
        return must(host, argv).text.strip()
    except CommandFailed as error:
        raise Unsupported(
            f"this kernel cannot create {kind} interfaces: {error.error_text}",
            hint=f"kldload if_{kind}",
        ) from error


def remove_interface(host: Host, name: str) -> None:
    """Destroy an interface; it may be gone already, with its jail."""
    host.run(["ifconfig", name, "destroy"])


def tap_number(name: str) -> int:
    found = re.fullmatch(r"tap(\d+)", name)
    if not found:
        raise UsageError(f"{name!r} is not the name of a tap")
    return int(found[1])


@contextlib.contextmanager
def open_pf_cubenet(host: Host, run: Run, *, outside: bool = False) -> Iterator[PfCubenet]:
    """A network of a run, until the block ends.

    With `outside` sandboxes reach other networks under this host's address, within their policies.
    Raises Unsupported where pf or bridging is not set up.
    """
    for need in bridging(host):
        if not need.satisfied:
            raise Unsupported(f"{need.what}: {need.detail}", hint=need.remedy)
    if outside and ask(host, "sysctl", "-n", "net.inet.ip.forwarding") != "1":
        raise Unsupported("IP forwarding is off", hint="sysctl net.inet.ip.forwarding=1")
    with contextlib.ExitStack() as stack:
        bridge = make_interface(host, "bridge", run.object_name("bridge"))
        stack.callback(remove_interface, host, bridge)
        net = PfCubenet(host, run, bridge)
        stack.callback(net.close)
        if outside:
            must(host, ["ifconfig", bridge, "inet", f"{NETWORK[1]}/{NETWORK.prefixlen}"])
            net.engine.translate(egress_interface(host))
        yield net
