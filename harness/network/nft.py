"""nf_tables netlink messages: tables, sets, chains and rules as bytes.

Only the parts that cubenet uses, for tables of any family. Numbers are those of
linux/netfilter/nf_tables.h. A concatenated key is its fields in sequence, each padded to four
bytes; registers are counted in four-byte units from 0.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from harness.network.netlink import (
    ACK,
    APPEND,
    CREATE,
    NESTED,
    attribute,
    attributes,
    message,
    nest,
    text,
)

INET, BRIDGE = 1, 7
_SUBSYSTEM = 10
OWNER = 2
"""NFT_TABLE_F_OWNER: only the socket that created the table can change it; it is removed with the
socket."""
MAP, TIMEOUT, EVAL = 0x08, 0x10, 0x20
_VERDICT_DATA = 0xFFFFFF00, 16
_FIRST_REGISTER = 8
"""The number of the first four-byte register (NFT_REG32_00)."""
_TYPE_BITS = 6
_ELEMENTS = 0xF000
"""Maximum bytes of elements per message: an attribute's length has sixteen bits."""


class MessageType(IntEnum):
    NEWTABLE = 0
    NEWCHAIN = 3
    DELCHAIN = 5
    NEWRULE = 6
    DELRULE = 8
    NEWSET = 9
    DELSET = 11
    NEWELEMENT = 12
    GETELEMENT = 13
    DELELEMENT = 14


class Hook(IntEnum):
    """Hooks of the bridge family."""

    PREROUTING = 0
    OUTPUT = 3


class Type(IntEnum):
    """Data types of key fields, by the numbers of the `nft` program, which prints sets by them."""

    IPV4 = 7
    IPV6 = 8
    ETHER = 9
    PROTOCOL = 12
    PORT = 13
    MARK = 19
    INTERFACE = 20

    @property
    def size(self) -> int:
        """Size in a key, in bytes with padding."""
        return {Type.IPV6: 16, Type.ETHER: 8}.get(self, 4)


@functools.lru_cache(1024)
def u32(kind: int, value: int) -> bytes:
    """An attribute with a 32-bit number in network byte order, as nf_tables has its numbers."""
    return attribute(kind, struct.pack(">I", value & 0xFFFFFFFF))


def request(family: int, kind: MessageType, flags: int, *parts: bytes) -> bytes:
    header = struct.pack("=BBH", family, 0, 0)
    return message(_SUBSYSTEM << 8 | kind, flags, header + b"".join(parts))


_BEGIN = message(0x10, 0, struct.pack(">BBH", 0, 0, _SUBSYSTEM))
_END = message(0x11, 0, struct.pack(">BBH", 0, 0, _SUBSYSTEM))


def transaction(messages: Sequence[bytes]) -> bytes:
    """An atomic batch of messages for `Netlink.send`; the last one is acknowledged."""
    if not messages:
        return _BEGIN + _END
    last = bytearray(messages[-1])
    last[6] |= ACK
    return b"".join((_BEGIN, *messages[:-1], last, _END))


# Expressions, which make up rules. Those without a set name are few, and cached.


def _expression(name: str, *parts: bytes) -> bytes:
    return nest(1, text(1, name), nest(2, *parts))


def _register(kind: int, number: int) -> bytes:
    return u32(kind, _FIRST_REGISTER + number)


class Meta(IntEnum):
    PROTOCOL = 1
    MARK = 3
    IIF = 4
    OIF = 5
    L4PROTO = 16


@functools.cache
def meta(key: Meta, register: int) -> bytes:
    return _expression("meta", u32(2, key), _register(1, register))


@functools.cache
def set_meta(key: Meta, register: int) -> bytes:
    return _expression("meta", u32(2, key), _register(3, register))


class Base(IntEnum):
    LINK = 0
    NETWORK = 1
    TRANSPORT = 2


@functools.cache
def load(base: Base, offset: int, length: int, register: int) -> bytes:
    """Load bytes of the packet into a register; packets that are too short do not match."""
    return _expression(
        "payload", _register(1, register), u32(2, base), u32(3, offset), u32(4, length)
    )


def store(base: Base, offset: int, length: int, register: int) -> bytes:
    """Write a register into the packet; checksums are not updated."""
    return _expression(
        "payload", _register(5, register), u32(2, base), u32(3, offset), u32(4, length)
    )


def equal(register: int, value: bytes) -> bytes:
    return _expression("cmp", _register(1, register), u32(2, 0), nest(3, attribute(1, value)))


def differs(register: int, value: bytes) -> bytes:
    return _expression("cmp", _register(1, register), u32(2, 1), nest(3, attribute(1, value)))


def constant(register: int, value: bytes) -> bytes:
    """Load a constant into a register."""
    return _expression("immediate", _register(1, register), nest(2, attribute(1, value)))


@functools.cache
def mask(register: int, bits: bytes) -> bytes:
    """Keep only these bits of a register."""
    return _expression(
        "bitwise",
        _register(1, register),
        _register(2, register),
        u32(3, len(bits)),
        nest(4, attribute(1, bits)),
        nest(5, attribute(1, bytes(len(bits)))),
    )


def in_set(name: str, register: int) -> bytes:
    """Match if the key in the registers is in the set; the element's counter then counts."""
    return _expression("lookup", text(1, name), _register(2, register))


def not_in_set(name: str, register: int) -> bytes:
    """Match if the key in the registers is not in the set."""
    return _expression("lookup", text(1, name), _register(2, register), u32(5, 1))


def look_up(name: str, register: int, into: int) -> bytes:
    """Load the value of a map's key into a register; match if the key is in the map."""
    return _expression("lookup", text(1, name), _register(2, register), _register(3, into))


def dispatch(name: str, register: int) -> bytes:
    """Apply the verdict that a verdict map has for the key."""
    return _expression("lookup", text(1, name), _register(2, register), u32(3, 0))


def add_key(name: str, register: int) -> bytes:
    """Add the key to a set from the packet path, or renew its timeout."""
    return _expression("dynset", text(1, name), u32(3, 1), _register(4, register))


def _code(code: int, chain: str | None = None) -> bytes:
    return nest(2, u32(1, code), *([text(2, chain)] if chain else []))


@functools.cache
def _verdict(code: int, chain: str | None = None) -> bytes:
    return _expression("immediate", u32(1, 0), nest(2, _code(code, chain)))


DROP, ACCEPT = _verdict(0), _verdict(1)


def jump(chain: str) -> bytes:
    return _verdict(-3, chain)


def goto(chain: str) -> bytes:
    return _verdict(-4, chain)


def masquerade() -> bytes:
    return _expression("masq")


def redirect4(register: int) -> bytes:
    """Translate the destination to the IPv4 address in a register."""
    return _expression("nat", u32(1, 1), u32(2, 2), _register(3, register))


@dataclass(frozen=True)
class Set:
    """A hash set: `key` has the types of its key fields, `size` is its maximum number of elements.

    With `size` the kernel uses a hash table of fixed size, where insertion is cheapest.
    `verdicts` or `macs` (Ethernet addresses) make it a map; `counted` gives every element a
    counter; with a `timeout`, in milliseconds, elements come from the packet path and expire.
    """

    name: str
    key: tuple[Type, ...]
    size: int | None = None
    verdicts: bool = False
    macs: bool = False
    counted: bool = False
    timeout: int | None = None

    @property
    def data(self) -> tuple[int, int] | None:
        """Type and length of a map's values; None for a set."""
        return _VERDICT_DATA if self.verdicts else (Type.ETHER, 6) if self.macs else None


@dataclass(frozen=True)
class Table:
    """Messages about one table and its content."""

    family: int
    name: str

    def _request(self, kind: MessageType, flags: int, *parts: bytes) -> bytes:
        return request(self.family, kind, flags, text(1, self.name), *parts)

    def create(self, flags: int = 0) -> bytes:
        return self._request(MessageType.NEWTABLE, CREATE, u32(2, flags))

    def chain(self, name: str) -> bytes:
        return self._request(MessageType.NEWCHAIN, CREATE, text(3, name))

    def base_chain(
        self, name: str, hook: int, priority: int, *, kind: str = "filter", accept: bool = False
    ) -> bytes:
        """A chain for every packet at `hook`. Its policy is drop, or accept with `accept`."""
        return self._request(
            MessageType.NEWCHAIN,
            CREATE,
            text(3, name),
            nest(4, u32(1, hook), u32(2, priority)),
            u32(5, int(accept)),
            text(7, kind),
        )

    def delete_chain(self, name: str) -> bytes:
        """Delete a chain; it must be empty and no rule or map may refer to it."""
        return self._request(MessageType.DELCHAIN, 0, text(3, name))

    def rule(self, chain: str, *expressions: bytes, first: bool = False) -> bytes:
        """Append a rule to a chain, or insert it `first`."""
        flags = CREATE if first else CREATE | APPEND
        return self._request(MessageType.NEWRULE, flags, text(2, chain), nest(4, *expressions))

    def empty_chain(self, name: str) -> bytes:
        """Delete a chain's rules."""
        return self._request(MessageType.DELRULE, 0, text(2, name))

    def set(self, made: Set) -> bytes:
        flags = (MAP if made.data else 0) | (TIMEOUT | EVAL if made.timeout else 0)
        kind = functools.reduce(lambda types, field: types << _TYPE_BITS | field, made.key, 0)
        length = sum(field.size for field in made.key)
        parts = [text(2, made.name), u32(3, flags), u32(4, kind), u32(5, length)]
        if made.data:
            parts += [u32(6, made.data[0]), u32(7, made.data[1])]
        if made.size is not None:
            parts.append(nest(9, u32(1, made.size)))
        parts.append(u32(10, 1))
        if made.timeout:
            parts.append(attribute(11, struct.pack(">Q", made.timeout)))
        if made.counted:
            parts.append(nest(17, text(1, "counter")))
        return self._request(MessageType.NEWSET, CREATE, *parts)

    def delete_set(self, name: str) -> bytes:
        return self._request(MessageType.DELSET, 0, text(2, name))

    def add(self, name: str, keys: Sequence[bytes]) -> Iterator[bytes]:
        """Add elements to a set; all keys must have the same length."""
        return self._elements(MessageType.NEWELEMENT, CREATE, name, keys)

    def remove(self, name: str, keys: Sequence[bytes]) -> Iterator[bytes]:
        return self._elements(MessageType.DELELEMENT, 0, name, keys)

    def _elements(
        self, kind: MessageType, flags: int, name: str, keys: Sequence[bytes]
    ) -> Iterator[bytes]:
        if not keys:
            return
        size = len(keys[0])
        # All keys have the same header, so joining builds the message.
        before = struct.pack("=HHHHHH", 12 + size, 1 | NESTED, 8 + size, 1 | NESTED, 4 + size, 1)
        step = _ELEMENTS // (12 + size)
        for start in range(0, len(keys), step):
            body = before.join((b"", *keys[start : start + step]))
            yield self._request(kind, flags, text(2, name), attribute(3 | NESTED, body))

    def map_to(self, name: str, pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Add elements, pairs of key and value, to a map."""
        elements = [
            nest(1, nest(1, attribute(1, key)), nest(2, attribute(1, data))) for key, data in pairs
        ]
        return self._request(MessageType.NEWELEMENT, CREATE, text(2, name), nest(3, *elements))

    def send_to(self, name: str, key: bytes, chain: str) -> bytes:
        """Add an element to a verdict map: jump to `chain`."""
        element = nest(1, nest(1, attribute(1, key)), nest(2, _code(-3, chain)))
        return self._request(MessageType.NEWELEMENT, CREATE, text(2, name), nest(3, element))

    def query(self, name: str, keys: Iterable[bytes]) -> bytes:
        """Request elements of a set, with their counters (see `counted`)."""
        elements = [nest(1, nest(1, attribute(1, key))) for key in keys]
        return self._request(MessageType.GETELEMENT, ACK, text(2, name), nest(3, *elements))


def counted(answer: bytes) -> tuple[int, int]:
    """An element's counter, in packets and bytes, from the answer to a query."""
    element = attributes(attributes(attributes(answer[4:])[3])[1])
    counter = attributes(attributes(element[7])[2])
    count, packets = (struct.unpack(">Q", counter[kind])[0] for kind in (1, 2))
    return packets, count
