"""Cubenet on FreeBSD: a bridge whose members pf judges; jails and microVMs plug into it.

    with open_pf_cubenet(host, run) as net:
        card = net.attach_epair(identity, Policy.of(["10.77.3.4 tcp/80"]))   # card.jail: for a jail
        tap = net.attach_tap(other_identity)                   # tap.descriptor: its number
        net.apply(identity.id, Policy())                       # from its return on, nothing passes
        net.detach(identity.id)

Every interface is of our group and is described by the name of what it belongs to, so that what a
killed run leaves is found (harness/host/leftovers_freebsd.py). A card is judged before anybody can
send by it: its anchor is loaded before it becomes a member of the bridge.
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
from harness.network.pf import Pf, way_out
from harness.network.policy import Policy
from harness.network.protocol import Change, Counters, Member

NOTHING = Policy()
CARD = "eth0"
"""What a sandbox calls its card."""


@dataclass(frozen=True)
class PfPort:
    """A sandbox's place on the bridge: the interface there, and the one that it has itself.

    `descriptor` is a tap's number, which names its device to bhyve.
    """

    id: str
    name: str
    jail: str = ""
    descriptor: int | None = None


class PfCubenet:
    """Ports and policies of one bridge; safe for many threads. Open one with `open_pf_cubenet`."""

    def __init__(self, host: Host, run: Run, bridge: str) -> None:
        self.bridge = bridge
        self._host = host
        self._run = run
        self._cards: dict[int, str] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._ports: dict[str, PfPort] = {}
        self.engine = Pf(host, run, lambda number: self._cards[number])

    def attach_epair(self, identity: Identity, policy: Policy = NOTHING) -> PfPort:
        """A pair of cards: one on the bridge, one for a jail with a network of its own."""
        with self._attaching(identity.id):
            near = make_interface(self._host, "epair", self._run.object_name(identity.id))
            return self._plug(identity, policy, PfPort(identity.id, near, near[:-1] + "b"))

    def attach_tap(self, identity: Identity, policy: Policy = NOTHING) -> PfPort:
        """A tap for a VMM, whose guest must have this identity's card and address."""
        with self._attaching(identity.id):
            name = make_interface(self._host, "tap", self._run.object_name(identity.id))
            return self._plug(
                identity, policy, PfPort(identity.id, name, descriptor=tap_number(name))
            )

    def apply(self, id: str, policy: Policy) -> Change:
        """Replace a sandbox's policy in one step. Raises SandboxGone."""
        return self.engine.apply(id, policy)

    def counters(self) -> Mapping[str, Counters]:
        return self.engine.counters()

    def detach(self, *ids: str) -> None:
        """Take sandboxes off the network: first their policies, so that no packet slips through."""
        with self._lock:
            gone = [id for id in ids if id not in self._ports]
            if gone:
                raise SandboxGone(f"{', '.join(gone)} not in the network", hint="it was detached")
            ports = [self._ports.pop(id) for id in ids]
        for port in ports:
            with contextlib.suppress(SandboxGone):  # it failed before it was admitted
                self.engine.expel(port.id)
            remove_interface(self._host, port.name)

    def close(self) -> None:
        """Take everything off."""
        self.detach(*list(self._ports))
        self.engine.close()

    @contextlib.contextmanager
    def _attaching(self, id: str) -> Iterator[None]:
        """When the block fails nothing of it stays."""
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
            self._cards[number] = port.name
        mac, address, address6 = identity.mac_bytes, identity.address, identity.address6
        self.engine.admit(Member(identity.id, number, mac, address, address6), policy)
        must(self._host, ["ifconfig", self.bridge, "addm", port.name])
        # Nobody may speak as another's card: this bridge learns none from what is sent.
        must(self._host, ["ifconfig", self.bridge, "static", port.name, identity.mac])
        return port


def make_interface(host: Host, kind: str, described: str) -> str:
    """A new interface of ours, up; its name.

    One command makes and names it: a connection that is lost leaves none that nobody can tell as
    ours.
    """
    words = ["ifconfig", kind, "create", "description", described, "group", GROUP, "up"]
    try:
        return must(host, words).text.strip()
    except CommandFailed as error:
        raise Unsupported(
            f"this kernel makes no {kind}: {error.error_text}", hint=f"kldload if_{kind}"
        ) from error


def remove_interface(host: Host, name: str) -> None:
    """It may have gone with whoever had it."""
    host.run(["ifconfig", name, "destroy"])


def tap_number(name: str) -> int:
    found = re.fullmatch(r"tap(\d+)", name)
    if not found:
        raise UsageError(f"{name!r} is no tap")
    return int(found[1])


@contextlib.contextmanager
def open_pf_cubenet(host: Host, run: Run, *, outside: bool = False) -> Iterator[PfCubenet]:
    """A network that belongs to a run and goes with the block.

    With `outside` sandboxes reach what lies behind this host, under its address, as far as their
    policies let them. Raises Unsupported where pf or the bridge are not ready for it.
    """
    for need in bridging(host):
        if not need.satisfied:
            raise Unsupported(f"{need.what}: {need.detail}", hint=need.remedy)
    if outside and ask(host, "sysctl", "-n", "net.inet.ip.forwarding") != "1":
        raise Unsupported("this host passes no packets on", hint="sysctl net.inet.ip.forwarding=1")
    with contextlib.ExitStack() as stack:
        bridge = make_interface(host, "bridge", run.object_name("bridge"))
        stack.callback(remove_interface, host, bridge)
        net = PfCubenet(host, run, bridge)
        stack.callback(net.close)
        if outside:
            must(host, ["ifconfig", bridge, "inet", f"{NETWORK[1]}/{NETWORK.prefixlen}"])
            net.engine.translate(way_out(host))
        yield net
