"""Isolation of a microVM: a guest with a NIC on cubenet, and a namespace next to it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from harness.host.identity import allocate
from harness.host.run import Run
from harness.network.cubenet import NOTHING, Cubenet
from harness.network.namespace import inside
from harness.network.policy import Policy
from harness.paths import cache_directory
from harness.procedures.namespace_endpoint import Endpoint, endpoint
from harness.sandbox.protocol import Tier, load
from harness.sandbox.qemu import QemuSubstrate
from harness.sandbox.qemu.sandbox import QemuSandbox
from tests.host.processes import eventually
from tests.network.packets import (
    ICMP,
    IPV4,
    PATIENCE_S,
    TCP,
    UDP,
    WAIT_S,
    packets,
    patiently,
    raw,
)

pytestmark = pytest.mark.skipif(
    not all(need.satisfied for need in load("qemu").requirements()),
    reason="QEMU is not installed: bin/mise run setup",
)
TIER = Tier.DURABLE_PREWARM_POOL
PORT = 7007


@pytest.fixture(scope="module")
def guest(run: Run, net: Cubenet, accelerator: str) -> Iterator[QemuSandbox]:
    substrate = QemuSubstrate()
    template = substrate.prepare(run, cache_directory(), TIER)
    identity = allocate(run.leases, run.id)
    port = net.attach_tap(identity)
    sandbox = substrate.launch(run, template, TIER, identity, tap=port.descriptor)
    try:
        sandbox.resume()
        yield sandbox
    finally:
        sandbox.destroy()
        net.detach(identity.id)


@pytest.fixture
def beside(run: Run, net: Cubenet, guest: QemuSandbox) -> Iterator[Endpoint]:
    with endpoint(run, net) as one:
        yield one
    net.apply(guest.id, NOTHING)


def pings(guest: QemuSandbox, where: str) -> bool:
    return guest.agent.run(("/bin/ping", "-c1", "-W1", where)).code == 0


def reaches(guest: QemuSandbox, where: str) -> bool:
    """Retried: after a failed neighbour discovery a guest waits before the next."""
    return patiently(lambda: pings(guest, where))


def connect(one: Endpoint, to: tuple[str, int]) -> socket.socket:
    """Connect from a namespace to a server that is starting in the guest."""
    deadline = time.monotonic() + 2 * PATIENCE_S
    while True:
        try:
            with inside(one.namespace):
                return socket.create_connection(to, PATIENCE_S)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def set_address(guest: QemuSandbox, *words: str) -> None:
    done = guest.agent.run(("/bin/ip", *words))
    assert done.code == 0, done.stderr


def test_a_guest_reaches_what_policy_allows_and_nothing_else(
    net: Cubenet, guest: QemuSandbox, beside: Endpoint
) -> None:
    with raw(beside.namespace) as there:
        assert not pings(guest, beside.address)
        assert not list(packets(there)), "not even an ARP request"
        net.apply(guest.id, Policy.of([beside.address]))
        assert reaches(guest, beside.address)
        assert list(packets(there))
    net.apply(guest.id, NOTHING)
    assert not pings(guest, beside.address)


PROGRAMS = {
    "icmp": "/bin/ping -c1 -W1 {where}",
    "tcp": "/bin/busybox nc -w1 {where} {port} </dev/null",
    "udp": "/bin/busybox tftp -g -r x -l /tmp/x {where} {port}",
}
NUMBERS = {"icmp": ICMP, "tcp": TCP, "udp": UDP}
RULES = ("nothing", "another", "host", "prefix", "service", "other-port")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("protocol", PROGRAMS)
def test_the_matrix_from_a_guest(
    protocol: str, rule: str, net: Cubenet, guest: QemuSandbox, beside: Endpoint
) -> None:
    where, service = beside.address, "udp" if protocol == "icmp" else protocol
    allow = {
        "nothing": (),
        "another": ("10.77.255.254",),
        "host": (where,),
        "prefix": (f"{where.rpartition('.')[0]}.0/24",),
        "service": (f"{where} {service}/{PORT}",),
        "other-port": (f"{where} {service}/{PORT + 1}",),
    }[rule]
    passes = rule in ("host", "prefix") or (rule == "service" and protocol != "icmp")
    net.apply(guest.id, Policy.of(allow))
    before = net.counters()[guest.id].denied
    command = PROGRAMS[protocol].format(where=where, port=PORT)
    with raw(beside.namespace) as there:

        def comes() -> bool:
            """Retried: a guest may have to repeat neighbour discovery."""
            with _running(guest, command):
                return any(_is(one, NUMBERS[protocol]) for one in packets(there, 1))

        if passes:
            assert patiently(comes)
            return
        with _running(guest, command):
            eventually(lambda: net.counters()[guest.id].denied > before)  # it was sent
            assert not any(_is(one, NUMBERS[protocol]) for one in packets(there))


@contextmanager
def _running(guest: QemuSandbox, command: str) -> Iterator[None]:
    """A program that runs in the guest until the block ends."""
    script = f"{command} >/dev/null 2>&1 & echo $!"
    pid = guest.agent.run(("/bin/sh", "-c", script)).stdout.decode().strip()
    try:
        yield
    finally:
        guest.agent.run(("/bin/sh", "-c", f"kill -9 {pid}"))


def _is(one: bytes, protocol: int) -> bool:
    return one[12:14] == IPV4.to_bytes(2) and one[23] == protocol


def test_a_guest_is_reached_as_policy_allows(
    net: Cubenet, guest: QemuSandbox, beside: Endpoint
) -> None:
    where = str(guest.identity.address)
    net.apply(beside.id, Policy.of([f"{where} tcp/{PORT}"]))
    guest.agent.run(("/bin/sh", "-c", f"/bin/busybox nc -l -p {PORT} >/tmp/heard &"))
    with connect(beside, (where, PORT)) as line:
        line.sendall(b"heard\n")
    with inside(beside.namespace), socket.socket() as other:
        other.settimeout(WAIT_S)
        with pytest.raises(TimeoutError):
            other.connect((where, PORT + 1))


def test_forged_addresses_of_a_guest_are_dropped(
    net: Cubenet, guest: QemuSandbox, beside: Endpoint
) -> None:
    net.apply(guest.id, Policy.of(["10.77.0.0/16", "fd77:c0bb:1ce::/64"]))
    assert reaches(guest, beside.address)
    own, mac = str(guest.identity.address), guest.identity.mac
    forged = "10.77.255.9"
    before = net.counters()[guest.id].spoofed
    with raw(beside.namespace) as there:
        for _ in packets(there):
            pass
        set_address(guest, "link", "set", "eth0", "address", "02:c0:0a:4d:ff:09")
        assert not pings(guest, beside.address)
        set_address(guest, "link", "set", "eth0", "address", mac)
        _readdress(guest, own, forged)
        assert not pings(guest, beside.address)
        heard = list(packets(there))
        _readdress(guest, forged, own)
    assert not heard
    assert net.counters()[guest.id].spoofed > before
    assert reaches(guest, beside.address)


def _readdress(guest: QemuSandbox, old: str, new: str) -> None:
    set_address(guest, "addr", "del", f"{old}/16", "dev", "eth0")
    set_address(guest, "addr", "add", f"{new}/16", "dev", "eth0")


def test_ipv6_follows_the_same_policy(net: Cubenet, guest: QemuSandbox, beside: Endpoint) -> None:
    own = str(guest.identity.address6)
    for setting in ("disable_ipv6", "accept_dad"):
        guest.agent.write_file(f"/proc/sys/net/ipv6/conf/eth0/{setting}", b"0")
    set_address(guest, "-6", "addr", "add", f"{own}/64", "dev", "eth0")
    assert not pings(guest, beside.address6)
    net.apply(guest.id, Policy.of([beside.address6]))
    assert reaches(guest, beside.address6)
    net.apply(guest.id, NOTHING)
    assert not pings(guest, beside.address6)


def test_large_segments_from_a_namespace_reach_a_guest_whole(
    net: Cubenet, guest: QemuSandbox, beside: Endpoint
) -> None:
    """The veth accepts larger segments than a tap: they are split on the way."""
    where = str(guest.identity.address)
    net.apply(beside.id, Policy.of([where]))
    guest.agent.run(("/bin/sh", "-c", f"/bin/busybox nc -l -p {PORT + 2} >/tmp/all &"))
    size = 2_000_000
    with connect(beside, (where, PORT + 2)) as line:
        line.sendall(bytes(size))
        line.shutdown(socket.SHUT_WR)
        line.recv(1)
    # nc closes its direction at once, before it has written everything.
    deadline = time.monotonic() + 2 * PATIENCE_S
    while (came := int(guest.agent.run(("/bin/wc", "-c", "/tmp/all")).stdout.split()[0])) < size:
        assert time.monotonic() < deadline, came
    assert came == size
