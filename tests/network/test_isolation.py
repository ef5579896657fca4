"""Isolation, tested with packets: what arrives at the receiver's NIC counts.

Frames are hand-made, so that a sandbox can forge any address.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from harness.network.cubenet import NOTHING, Cubenet
from harness.network.nftables import Nftables
from harness.network.policy import Policy
from harness.procedures.namespace_endpoint import Endpoint
from tests.network.conftest import Three
from tests.network.packets import (
    ARP,
    BROADCAST,
    ICMP,
    ICMP6,
    IPV4,
    IPV6,
    PATIENCE_S,
    TCP,
    UDP,
    WAIT_S,
    arp,
    client,
    frame,
    ipv4,
    ipv6,
    packets,
    raw,
    saw,
    tcp_server,
    transport,
    udp_server,
)

SYN, ACK = 0x02, 0x10
NAMES = {TCP: "tcp", UDP: "udp"}
FORGERIES = ("none", "mac", "address", "both")


@dataclass(frozen=True)
class Case:
    """One cell of the matrix. `rule`: what the sender's policy allows of the receiver."""

    family: int
    protocol: int
    rule: str
    forged: str

    @property
    def passes(self) -> bool:
        if self.forged != "none" or self.rule in ("nothing", "another"):
            return False
        return self.rule in ("host", "prefix", "service") or self.rule == NAMES.get(self.protocol)

    def __str__(self) -> str:
        names = {TCP: "tcp", UDP: "udp", ICMP: "icmp", ICMP6: "icmp6"}
        return f"ipv{self.family}-{names[self.protocol]}-{self.rule}-forged-{self.forged}"


PORT = 7007
RULES = ("nothing", "another", "host", "prefix", "service", "other-port")
CASES = [
    Case(family, protocol, rule, forged)
    for family in (4, 6)
    for protocol, rule, forged in itertools.product(
        (TCP, UDP, ICMP if family == 4 else ICMP6), RULES, FORGERIES
    )
    if not (protocol in (ICMP, ICMP6) and rule in ("service", "other-port"))
]


def address(one: Endpoint, family: int) -> str:
    return one.address if family == 4 else one.address6


def packed(one: Endpoint, family: int) -> bytes:
    return (one.identity.address if family == 4 else one.identity.address6).packed


def policy(case: Case, receiver: Endpoint, third: Endpoint) -> Policy:
    where = address(receiver, case.family)
    prefix = f"{where.rpartition('.')[0]}.0/24" if case.family == 4 else f"{where}/128"
    name = NAMES.get(case.protocol)
    return {
        "nothing": NOTHING,
        "another": Policy.of([address(third, case.family)]),
        "host": Policy.of([where]),
        "prefix": Policy.of([prefix]),
        "service": Policy.of([f"{where} {name}/{PORT}"] if name else []),
        "other-port": Policy.of([f"{where} {name}/{PORT + 1}"] if name else []),
    }[case.rule]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_matrix(case: Case, net: Cubenet, same_three: Three) -> None:
    sender, receiver, third = same_three
    net.apply(sender.id, policy(case, receiver, third))
    mark = os.urandom(12)
    mac, own = sender.identity.mac_bytes, packed(sender, case.family)
    if case.forged in ("mac", "both"):
        mac = third.identity.mac_bytes
    if case.forged in ("address", "both"):
        own = packed(third, case.family)
    body = transport(case.protocol, PORT, mark, 50000, SYN)
    build, kind = (ipv4, IPV4) if case.family == 4 else (ipv6, IPV6)
    packet = build(own, packed(receiver, case.family), case.protocol, body)
    before = net.counters()[sender.id]
    with raw(sender.namespace) as out, raw(receiver.namespace) as there:
        out.send(frame(receiver.identity.mac_bytes, mac, kind, packet))
        assert saw(there, mark, expected=case.passes) == case.passes
    after = net.counters()[sender.id]
    forged = case.forged != "none"
    # Its kernel sends too: multicast reports from no address, and neighbour advertisements.
    assert after.spoofed - before.spoofed >= int(forged)
    assert after.sent - before.sent >= int(not forged)
    assert after.denied - before.denied == int(not forged and not case.passes)


@pytest.mark.parametrize("family", [4, 6])
def test_unsolicited_packets_are_not_answers(family: int, net: Cubenet, three: Three) -> None:
    """The receiver has nothing allowed: it may answer, but start no exchange."""
    sender, receiver, _ = three
    net.apply(sender.id, Policy.of([address(receiver, family)]))
    build, kind = (ipv4, IPV4) if family == 4 else (ipv6, IPV6)
    echo = ICMP if family == 4 else ICMP6
    for protocol, flags in ((TCP, SYN), (UDP, 0), (echo, 0)):
        mark = os.urandom(12)
        body = transport(protocol, PORT, mark, 50000, flags)
        packet = build(packed(receiver, family), packed(sender, family), protocol, body)
        with raw(receiver.namespace) as out, raw(sender.namespace) as there:
            out.send(frame(sender.identity.mac_bytes, receiver.identity.mac_bytes, kind, packet))
            assert not saw(there, mark), protocol


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_connection_ends_with_its_policy(family: int, net: Cubenet, three: Three) -> None:
    sender, receiver, _ = three
    where = address(receiver, 4 if family == socket.AF_INET else 6)
    net.apply(sender.id, Policy.of([f"{where} tcp/{PORT}"]))
    with ExitStack() as stack:
        server = stack.enter_context(tcp_server(receiver, PORT, family))
        line = stack.enter_context(client(sender, family, socket.SOCK_STREAM))
        line.connect((where, PORT))
        peer = stack.enter_context(server.accept()[0])
        line.sendall(b"question")
        assert peer.recv(64) == b"question"
        peer.sendall(b"answer")
        assert line.recv(64) == b"answer"
        change = net.apply(sender.id, NOTHING)
        assert change.cuts_established
        peer.settimeout(WAIT_S)
        line.settimeout(WAIT_S)
        line.sendall(b"still there?")
        peer.sendall(b"and you?")
        for end in (peer, line):
            with pytest.raises(TimeoutError):
                end.recv(64)
        net.apply(sender.id, Policy.of([where]))
        for end, words in ((peer, b"still there?"), (line, b"and you?")):
            end.settimeout(2 * PATIENCE_S)
            assert end.recv(64) == words, "TCP retransmits what was dropped"


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_datagram_is_answered_only_to_its_sender(family: int, net: Cubenet, three: Three) -> None:
    sender, receiver, _ = three
    where = address(receiver, 4 if family == socket.AF_INET else 6)
    net.apply(sender.id, Policy.of([f"{where} udp/{PORT}"]))
    with ExitStack() as stack:
        server = stack.enter_context(udp_server(receiver, PORT, family))
        line = stack.enter_context(client(sender, family, socket.SOCK_DGRAM))
        other = stack.enter_context(client(sender, family, socket.SOCK_DGRAM))
        own = address(sender, 4 if family == socket.AF_INET else 6)
        other.bind((own, 0))
        line.sendto(b"question", (where, PORT))
        words, asker = server.recvfrom(64)
        assert words == b"question"
        server.sendto(b"answer", asker)
        assert line.recv(64) == b"answer"
        for one in (line, other):
            one.settimeout(WAIT_S)
        server.sendto(b"unasked", other.getsockname())
        with pytest.raises(TimeoutError):
            other.recv(64)
        net.apply(sender.id, NOTHING)
        server.sendto(b"too late", asker)
        with pytest.raises(TimeoutError):
            line.recv(64)


def test_no_broadcasts_and_no_discovery_without_policy(net: Cubenet, three: Three) -> None:
    sender, receiver, third = three
    mac, own = sender.identity.mac_bytes, packed(sender, 4)
    asks = frame(BROADCAST, mac, ARP, arp(1, mac, own, bytes(6), packed(receiver, 4)))
    with (
        raw(sender.namespace) as out,
        raw(receiver.namespace) as there,
        raw(third.namespace) as beside,
    ):
        out.send(asks)
        assert not list(packets(there)), "without a policy not even an ARP request arrives"
        net.apply(sender.id, Policy.of([f"{receiver.address} tcp/80"]))
        out.send(asks)
        assert saw(there, own + bytes(6) + packed(receiver, 4), expected=True)
        assert not list(packets(beside)), "it is unicast"


def test_neighbour_spoofing_is_blocked(net: Cubenet, three: Three) -> None:
    sender, receiver, third = three
    net.apply(sender.id, Policy.of([receiver.address, receiver.address6]))
    mac, other = sender.identity.mac_bytes, third.identity.mac_bytes
    lies = [
        arp(2, mac, packed(third, 4), receiver.identity.mac_bytes, packed(receiver, 4)),
        arp(2, other, packed(sender, 4), receiver.identity.mac_bytes, packed(receiver, 4)),
    ]
    # An advertisement for another sandbox's address, from its own.
    advert = b"\x88\0\0\0\x60\0\0\0" + packed(third, 6) + b"\2\1" + mac
    with raw(sender.namespace) as out, raw(receiver.namespace) as there:
        for lie in lies:
            out.send(frame(receiver.identity.mac_bytes, mac, ARP, lie))
        packet = ipv6(packed(sender, 6), packed(receiver, 6), ICMP6, advert)
        out.send(frame(receiver.identity.mac_bytes, mac, IPV6, packet))
        assert not list(packets(there))


def test_other_ethertypes_are_dropped(net: Cubenet, three: Three) -> None:
    sender, receiver, _ = three
    net.apply(sender.id, Policy.of([receiver.address], default="allow"))
    mac, to = sender.identity.mac_bytes, receiver.identity.mac_bytes
    inner = ipv4(packed(sender, 4), packed(receiver, 4), UDP, transport(UDP, PORT, b"x", 1, 0))
    with raw(sender.namespace) as out, raw(receiver.namespace) as there:
        out.send(frame(to, mac, 0x88B5, bytes(60)))
        out.send(frame(to, mac, 0x8100, b"\0\5\x88\xb5" + bytes(60)))
        out.send(frame(BROADCAST, mac, IPV4, inner[:16] + b"\xff" * 4 + inner[20:]))
        assert not list(packets(there))


def test_later_fragments_do_not_match_a_service(net: Cubenet, three: Three) -> None:
    sender, receiver, _ = three
    net.apply(sender.id, Policy.of([f"{receiver.address} udp/{PORT}"]))
    mark = os.urandom(16)
    packet = bytearray(ipv4(packed(sender, 4), packed(receiver, 4), UDP, mark))
    packet[6:8] = b"\0\x10"  # a later fragment
    to, mac = receiver.identity.mac_bytes, sender.identity.mac_bytes
    with raw(sender.namespace) as out, raw(receiver.namespace) as there:
        out.send(frame(to, mac, IPV4, bytes(packet)))
        assert not saw(there, mark)


@pytest.mark.parametrize("length", [2, 600])
def test_precedence_of_allow_deny_and_default(length: int, net: Cubenet, three: Three) -> None:
    """Destinations outside the bridge are checked by counters: nothing leaves the machine."""
    sender, *_ = three
    fill = [f"192.0.2.{1 + n % 250} tcp/{n + 1}" for n in range(length)]
    policy = Policy.of(
        [*fill, "198.51.100.7"], ["198.51.100.0/24", "203.0.113.9"], ["9.9.9.9"], "allow"
    )
    net.apply(sender.id, policy)
    expected = {
        "198.51.100.7": True, "198.51.100.8": False, "203.0.113.9": False, "203.0.113.8": True,
        "10.1.2.3": False, "192.168.1.1": False, "172.16.0.1": False, "169.254.1.1": False,
        "127.0.0.1": False, "224.0.0.1": False, "100.64.0.1": False, "8.8.8.8": True,
    }  # fmt: skip
    for where, passes in expected.items():
        assert _denied(net, sender, where, PORT) is not passes, where


def test_a_change_during_evaluation_evaluates_the_frame_again(net: Cubenet, three: Three) -> None:
    """The number in `now` is made to differ from the rule's, as during a change."""
    sender, *_ = three
    engine = net.engine
    assert isinstance(engine, Nftables)
    net.apply(sender.id, Policy.of(["192.0.2.1"], default="allow"))
    number = struct.pack("=I", engine._known.number)
    before = net.counters()[sender.id]
    engine._commit(list(engine._table.remove("now", [number])))
    try:
        for where in ("198.51.100.1", "10.1.2.3"):  # by the default, and private
            send_udp(sender, where, PORT)
        after = net.counters()[sender.id]
        assert after.sent == before.sent + 4, "evaluated again, then dropped"
        assert after.denied == before.denied
        assert not _denied(net, sender, "192.0.2.1", PORT), "an entry that is found decides"
    finally:
        engine._commit(list(engine._table.add("now", [number])))
    assert not _denied(net, sender, "198.51.100.1", PORT)
    assert _denied(net, sender, "10.1.2.3", PORT)


def test_dns_allows_port_53_only(net: Cubenet, three: Three) -> None:
    sender, *_ = three
    net.apply(sender.id, Policy.of(dns=["10.77.0.1"]))
    assert not _denied(net, sender, "10.77.0.1", 53)
    assert _denied(net, sender, "10.77.0.1", 80)
    assert _denied(net, sender, "10.77.0.2", 53)


def _denied(net: Cubenet, sender: Endpoint, where: str, port: int) -> bool:
    """Whether policy denies a datagram with correct source addresses to an address."""
    before = net.counters()[sender.id]
    send_udp(sender, where, port)
    after = net.counters()[sender.id]
    assert after.sent == before.sent + 1
    return after.denied == before.denied + 1


def send_udp(sender: Endpoint, where: str, port: int) -> None:
    """A datagram with correct source addresses, to an address that need not exist."""
    packet = ipv4(
        packed(sender, 4), socket.inet_aton(where), UDP, transport(UDP, port, b"x", 50000, 0)
    )
    with raw(sender.namespace) as out:
        out.send(frame(b"\x02\xc0\0\0\0\1", sender.identity.mac_bytes, IPV4, packet))
