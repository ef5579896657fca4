"""The rules for frames on the bridge: the same few, whatever the number of sandboxes.

Everything that differs between sandboxes is an element of a hash set, keyed by the sandbox. So the
cost of a frame, and of adding a sandbox, does not depend on the number of sandboxes. Bridged frames
pass only the bridge family, which is used here without connection tracking: an answer to an allowed
packet is recognised by a lookup with source and destination exchanged.

    frame from a port -> its own MAC and IP address? -> neighbours          ARP, discovery
                                                     -> policy4, policy6
    policy: allow -> answer -> deny -> private ranges -> open (default allow) -> denied

The rules that a frame passes are those of the moment it arrived, but every lookup sees the set at
the moment of the lookup. A change that moves an entry from one set to another may come between two
lookups, so that neither finds it. Therefore a change in more than one place has a number, which is
in a rule and in the set `now`. They are compared where nothing was found; if they differ, the frame
is evaluated again, by later rules.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from harness.network import nft
from harness.network.nft import Base, Meta, Set, Table, Type
from harness.network.policy import Shape

PORTS = 1 << 14
"""Maximum size of a set with one element per sandbox."""
FLOWS = 1 << 16
"""Maximum number of UDP flows, each remembered for half a minute."""
_FLOW_MS = 30_000
_GATES = 4
ADDRESS: Mapping[int, Type] = {4: Type.IPV4, 6: Type.IPV6}
_MAC, _PRIORITY = 6, -200
AGAIN = b"cube"
"""The mark of a frame to evaluate again. A sandbox cannot set it: marks do not cross a NIC."""
_ICMP, _TCP, _UDP, _ICMP6 = 1, 6, 17, 58
_SYN, _SYN_ACK = 0x02, 0x12
_ANSWERS = {_ICMP: (0, 3, 11), _ICMP6: (1, 2, 3, 4, 129)}
"""ICMP types that answer a packet: echo replies and errors."""
_SOLICIT, _ADVERT = 135, 136
PRIVATE = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
        "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/3",
        "::/8", "64:ff9b::/96", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
    )
)  # fmt: skip
"""Ranges that a default of allow excludes: private, link-local, shared, multicast, reserved."""
_CHAINS = (
    "policy", "allow", "answer", "deny", "refuse", "near", "found",
    "out", "pass", "back", "reply",
)  # fmt: skip


@dataclass(frozen=True)
class Field:
    """The position of an address or number in a packet."""

    base: Base
    offset: int
    length: int

    def into(self, register: int) -> bytes:
        return nft.load(self.base, self.offset, self.length, register)


_ETHER_SOURCE = Field(Base.LINK, 6, 6)
_SOURCE = {4: Field(Base.NETWORK, 12, 4), 6: Field(Base.NETWORK, 8, 16)}
_DESTINATION = {4: Field(Base.NETWORK, 16, 4), 6: Field(Base.NETWORK, 24, 16)}
_SOURCE_PORT, _DESTINATION_PORT = Field(Base.TRANSPORT, 0, 2), Field(Base.TRANSPORT, 2, 2)
_ARP_MAC, _ARP_SOURCE = Field(Base.NETWORK, 8, 6), Field(Base.NETWORK, 14, 4)
_ARP_TARGET, _ND_TARGET = Field(Base.NETWORK, 24, 4), Field(Base.TRANSPORT, 8, 16)


@dataclass(frozen=True, eq=False)  # compared by identity: a change compares dozens
class Role:
    """A lookup in `chain`: do the entries of sandbox `own` have `peer`? If so, go to `then`."""

    name: str
    chain: str
    own: Field
    peer: Field
    then: str
    port: Field | None = None

    def rule(self, table: Table, shape: Shape) -> bytes:
        """The lookup in the set that all sandboxes share."""
        size = self.own.length
        keys = [self.own.into(0), *self._peer(shape, size // 4), *self._service(shape, size // 2)]
        asked = [*keys, nft.in_set(shape.name, 0), nft.goto(self.then)]
        return table.rule(self.chain, *asked, first=shape.is_host)

    def own_rule(self, table: Table, chain: str, shape: Shape, name: str) -> bytes:
        """The lookup in a set of one sandbox, in a chain of that sandbox."""
        keys = [*self._peer(shape, 0), *self._service(shape, self.peer.length // 4)]
        return table.rule(chain, *keys, nft.in_set(name, 0), nft.goto(self.then))

    def dispatch(self, table: Table) -> Sequence[bytes]:
        """The verdict map to chains of single sandboxes, and the rule that uses it."""
        own = ADDRESS[4 if self.own.length == 4 else 6]
        verdicts = Set(self.verdicts, (own,), verdicts=True)
        rule = table.rule(self.chain, self.own.into(0), nft.dispatch(self.verdicts, 0))
        return [table.set(verdicts), rule]

    @property
    def verdicts(self) -> str:
        """The name of the map from a sandbox's address to its own chain."""
        return f"{self.name}.own"

    def _peer(self, shape: Shape, register: int) -> Iterator[bytes]:
        yield self.peer.into(register)
        bits = 8 * self.peer.length
        if shape.length < bits:
            ones = ((1 << shape.length) - 1) << (bits - shape.length)
            yield nft.mask(register, ones.to_bytes(self.peer.length))

    def _service(self, shape: Shape, register: int) -> Iterator[bytes]:
        if shape.service:
            assert self.port
            yield nft.meta(Meta.L4PROTO, register)
            yield self.port.into(register + 1)


def _roles(family: int) -> dict[str, Sequence[Role]]:
    source, destination = _SOURCE[family], _DESTINATION[family]
    found, target = f"found{family}", _ARP_TARGET if family == 4 else _ND_TARGET
    asker = _ARP_SOURCE if family == 4 else source
    passing, reply, near = f"pass{family}", f"reply{family}", f"near{family}"
    neighbours = [
        Role(f"asks{family}", near, asker, target, found),
        Role(f"asked{family}", near, target, asker, found),
    ]
    if family == 6:
        neighbours += [
            Role("adverts6", "advert6", source, destination, passing),
            Role("advised6", "advert6", destination, source, passing),
        ]
    allow = [
        Role(f"allow{family}", f"allow{family}", source, destination, passing, _DESTINATION_PORT),
        Role(f"answer{family}", f"answer{family}", destination, source, reply, _SOURCE_PORT),
    ]
    deny = [
        Role(f"deny{family}", f"deny{family}", source, destination, "denied", _DESTINATION_PORT),
        Role(f"refuse{family}", f"refuse{family}", destination, source, "denied", _SOURCE_PORT),
    ]
    return {"allow": allow, "deny": deny, "near": neighbours}


_ROLES = {family: _roles(family) for family in (4, 6)}


@functools.cache
def roles(shape: Shape, near: bool = True) -> Sequence[Role]:
    """The lookups for entries of a shape; `near`: some of the entries are on the bridge itself."""
    known = _ROLES[shape.family]
    if shape.action == "allow" and near and not shape.service:
        return [*known["allow"], *known["near"]]
    return known["allow" if shape.action in ("allow", "dns") else shape.action]


def skeleton(table: Table) -> Iterator[bytes]:
    """The table without sandboxes."""
    yield table.create(nft.OWNER)
    yield from map(table.set, sets())
    for name in ("same", "again", "spoofed", "denied", "arp", "from6", "advert", "advert6"):
        yield table.chain(name)
    for family in (4, 6):
        for name in _CHAINS:
            yield table.chain(f"{name}{family}")
    for chain, hook, rules in (
        ("from-port", nft.Hook.PREROUTING, _from_port),
        ("to-port", nft.Hook.OUTPUT, _to_port),
    ):
        yield table.base_chain(chain, hook, _PRIORITY)
        yield from rules(table, chain)
        once_more = f"{chain}-again"
        yield table.base_chain(once_more, hook, _PRIORITY + 1)
        yield table.rule(once_more, nft.meta(Meta.MARK, 0), nft.differs(0, AGAIN), nft.ACCEPT)
        yield from rules(table, once_more)
    yield from _settling(table)
    yield from _refusing(table)
    yield from _neighbours(table)
    for family in (4, 6):
        yield from _policy(table, family)
        yield from _passing(table, family)


def sets() -> Iterator[Set]:
    """The initial sets; the set of a shape is created with its first entry.

    own4, own6   port, MAC, address: what a sandbox may send from; counts what it sent
    mac4, mac6   address to MAC address, for ARP and neighbour discovery
    spoofed, denied  port; counts the frames that were dropped
    open4, open6 addresses whose default is allow
    gate4, gate6 the bridge's own addresses, if there is an uplink
    now          the number of the latest change in several places
    """
    yield Set("now", (Type.MARK,), _GATES)
    for family, address in ADDRESS.items():
        yield Set(f"own{family}", (Type.INTERFACE, Type.ETHER, address), PORTS, counted=True)
        yield Set(f"mac{family}", (address,), PORTS, macs=True)
        yield Set(f"open{family}", (address,), PORTS)
        yield Set(f"gate{family}", (address,), _GATES)
        flow = (address, address, Type.PORT, Type.PORT)
        yield Set(f"flows{family}", flow, FLOWS, timeout=_FLOW_MS)
    for name in ("spoofed", "denied"):
        yield Set(name, (Type.INTERFACE,), PORTS, counted=True)


def shared_set(shape: Shape) -> Set:
    """The set of a shape, whose keys are a sandbox's address and an entry."""
    return Set(shape.name, (ADDRESS[shape.family], *_entry(shape)))


def own_set(shape: Shape, name: str, size: int) -> Set:
    """A set of a single sandbox, whose keys are entries."""
    return Set(name, _entry(shape), size)


def _entry(shape: Shape) -> tuple[Type, ...]:
    address = ADDRESS[shape.family]
    return (address, Type.PROTOCOL, Type.PORT) if shape.service else (address,)


def own_key(port: int, mac: bytes, address: bytes) -> bytes:
    """A key of own4 or own6: the port's interface index, the MAC and the IP address."""
    return struct.pack("=I", port) + mac + b"\0\0" + address


def port_key(port: int) -> bytes:
    """A key of `spoofed` and `denied`."""
    return struct.pack("=I", port)


def _own(mac: Field, address: Field, name: str) -> Sequence[bytes]:
    """Match a frame whose port, MAC and IP address belong to one sandbox."""
    return [nft.meta(Meta.IIF, 0), mac.into(1), address.into(3), nft.in_set(name, 0)]


def _protocol(number: int) -> Sequence[bytes]:
    return [nft.meta(Meta.PROTOCOL, 0), nft.equal(0, struct.pack(">H", number))]


def _transport(number: int) -> Sequence[bytes]:
    return [nft.meta(Meta.L4PROTO, 0), nft.equal(0, bytes([number]))]


def _icmp(protocol: int, kind: int) -> Sequence[bytes]:
    return [*_transport(protocol), nft.load(Base.TRANSPORT, 0, 1, 0), nft.equal(0, bytes([kind]))]


def number(table: Table, new: int, old: int | None = None) -> Iterator[bytes]:
    """Number a transaction, so that a frame can detect that it came during its evaluation."""
    before, after = (struct.pack("=I", (value or 0) & 0xFFFFFFFF) for value in (old, new))
    if old is not None:
        yield table.empty_chain("same")
        yield from table.remove("now", [before])
    yield from table.add("now", [after])
    changed = [nft.constant(0, after), nft.not_in_set("now", 0), nft.goto("again")]
    yield table.rule("same", *changed)


def _settling(table: Table) -> Iterator[bytes]:
    """`same` returns if no change came meanwhile; else `again` accepts the frame for a second
    evaluation in a later hook, or drops it if this was the second."""
    yield from number(table, 0)
    marked = [nft.meta(Meta.MARK, 0), nft.equal(0, AGAIN)]
    yield table.rule("again", *marked, nft.DROP)
    yield table.rule("again", nft.constant(0, AGAIN), nft.set_meta(Meta.MARK, 0), nft.ACCEPT)


def _from_port(table: Table, chain: str) -> Iterator[bytes]:
    own4 = _own(_ETHER_SOURCE, _SOURCE[4], "own4")
    own6 = _own(_ETHER_SOURCE, _SOURCE[6], "own6")
    arp = _own(_ETHER_SOURCE, _ARP_SOURCE, "own4")
    yield table.rule(chain, *_protocol(0x0800), *own4, nft.goto("policy4"))
    yield table.rule(chain, *_protocol(0x86DD), *own6, nft.goto("from6"))
    yield table.rule(chain, *_protocol(0x0806), *arp, nft.goto("arp"))
    yield table.rule(chain, nft.goto("spoofed"))


def _refusing(table: Table) -> Iterator[bytes]:
    yield table.rule("denied", nft.jump("same"))
    for name in ("spoofed", "denied"):
        yield table.rule(name, nft.meta(Meta.IIF, 0), nft.in_set(name, 0), nft.DROP)
        yield table.rule(name, nft.DROP)


def _to_port(table: Table, chain: str) -> Iterator[bytes]:
    """Frames from the bridge itself, thus from outside, must answer an allowed packet."""
    for family, number in ((4, 0x0800), (6, 0x86DD)):
        protocol = _protocol(number)
        opened = [_DESTINATION[family].into(0), nft.in_set(f"open{family}", 0)]
        yield table.rule(chain, *protocol, nft.jump(f"answer{family}"))
        yield table.rule(chain, *protocol, nft.jump(f"refuse{family}"))
        yield table.rule(chain, *protocol, *opened, nft.goto(f"back{family}"))
    yield table.rule(chain, *_protocol(0x0806), nft.ACCEPT)
    yield table.rule(chain, *_icmp(_ICMP6, _ADVERT), nft.ACCEPT)
    yield table.rule(chain, nft.jump("same"))


def _neighbours(table: Table) -> Iterator[bytes]:
    """A request for a MAC address reaches only its target, and only if a policy allows traffic.

    The request is rewritten to a unicast frame for the target: nothing is flooded.
    """
    yield table.rule("arp", *_own(_ARP_MAC, _ARP_SOURCE, "own4"), nft.jump("near4"))
    yield table.rule("arp", nft.goto("denied"))
    yield table.rule("from6", *_icmp(_ICMP6, _SOLICIT), nft.jump("near6"), nft.goto("denied"))
    yield table.rule("from6", *_icmp(_ICMP6, _ADVERT), nft.goto("advert"))
    yield table.rule("from6", nft.goto("policy6"))
    told = _own(_ETHER_SOURCE, _ND_TARGET, "own6")
    to_gate = [_DESTINATION[6].into(0), nft.in_set("gate6", 0)]
    yield table.rule("advert", *told, nft.jump("advert6"))
    yield table.rule("advert", *told, *to_gate, nft.ACCEPT)
    yield table.rule("advert", nft.goto("denied"))
    for family, target in ((4, _ARP_TARGET), (6, _ND_TARGET)):
        asked = [target.into(0), nft.in_set(f"gate{family}", 0)]
        yield table.rule(f"near{family}", *asked, nft.goto(f"found{family}"))
        yield table.rule(
            f"found{family}",
            target.into(0),
            nft.look_up(f"mac{family}", 0, 4),
            nft.store(Base.LINK, 0, _MAC, 4),
            nft.ACCEPT,
        )
        yield table.rule(f"found{family}", nft.goto("denied"))


def _policy(table: Table, family: int) -> Iterator[bytes]:
    chain = f"policy{family}"
    for name in ("allow", "answer", "deny"):
        yield table.rule(chain, nft.jump(f"{name}{family}"))
    for network in PRIVATE:
        if network.version == family:
            yield table.rule(chain, *_within(network), nft.goto("denied"))
    opened = [_SOURCE[family].into(0), nft.in_set(f"open{family}", 0)]
    yield table.rule(chain, *opened, nft.goto(f"out{family}"))
    yield table.rule(chain, nft.goto("denied"))
    for way, then in (("out", "pass"), ("back", "reply")):
        yield table.rule(f"{way}{family}", nft.jump("same"))
        yield table.rule(f"{way}{family}", nft.goto(f"{then}{family}"))


def _within(network: IPv4Network | IPv6Network) -> Sequence[bytes]:
    field = _DESTINATION[network.version]
    bits = network.netmask.packed
    return [field.into(0), nft.mask(0, bits), nft.equal(0, network.network_address.packed)]


def _passing(table: Table, family: int) -> Iterator[bytes]:
    """Accept what is allowed, and its answers, but no new connection or unsolicited datagram."""
    word = _SOURCE[family].length // 4
    source, destination = _SOURCE[family], _DESTINATION[family]
    asked = [
        source.into(0), destination.into(word),
        _SOURCE_PORT.into(2 * word), _DESTINATION_PORT.into(2 * word + 1),
    ]  # fmt: skip
    answered = [
        destination.into(0), source.into(word),
        _DESTINATION_PORT.into(2 * word), _SOURCE_PORT.into(2 * word + 1),
    ]  # fmt: skip
    passing, reply, flows = f"pass{family}", f"reply{family}", f"flows{family}"
    yield table.rule(passing, nft.meta(Meta.L4PROTO, 0), nft.differs(0, bytes([_UDP])), nft.ACCEPT)
    yield table.rule(passing, *asked, nft.add_key(flows, 0))
    yield table.rule(passing, nft.ACCEPT)
    flags = [nft.load(Base.TRANSPORT, 13, 1, 0), nft.mask(0, bytes([_SYN_ACK]))]
    goes_on = nft.differs(0, bytes([_SYN]))
    yield table.rule(reply, *_transport(_TCP), *flags, goes_on, nft.ACCEPT)
    yield table.rule(reply, *_transport(_UDP), *answered, nft.in_set(flows, 0), nft.ACCEPT)
    icmp = _ICMP if family == 4 else _ICMP6
    for kind in _ANSWERS[icmp]:
        yield table.rule(reply, *_icmp(icmp, kind), nft.ACCEPT)
    yield table.rule(reply, nft.goto("denied"))
