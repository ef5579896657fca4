"""Links by rtnetlink: the bridge, its ports, veth pairs, addresses, and forwarding entries.

Many messages go in one send, and no program is started: a thousand ports take a moment.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address

from harness.errors import Unsupported
from harness.network.netlink import (
    ACK,
    CREATE,
    EXCL,
    REPLACE,
    ROUTE,
    Netlink,
    NetlinkError,
    attribute,
    message,
    nest,
    text,
)

_NEWLINK, _DELLINK, _GETLINK, _SETLINK = 16, 17, 18, 19
_NEWADDR, _NEWROUTE, _NEWNEIGH = 20, 24, 28
_PERMANENT = 0x80
_ADDRESS, _NAME, _MTU, _MASTER, _PROTINFO, _LINKINFO, _NETNS = 1, 3, 4, 10, 12, 18, 28
_AF_SPEC, _ADDR_GEN_MODE, _GROUP = 26, 8, 27
_GSO_SIZE, _GSO_SIZE_IPV4, _LARGEST = 41, 63, 524280
_UP = 1
_BRIDGE = 7
_TUN = "/dev/net/tun"
_TUNSETIFF, _TAP, _NO_PI = 0x400454CA, 0x0002, 0x1000
MOST_PORTS = 1023
"""Of one bridge, by the kernel's BR_MAX_PORTS."""
LOOPBACK = 1


def _link(index: int = 0, *, up: bool = False, family: int = 0) -> bytes:
    return struct.pack("=BBHiII", family, 0, 0, index, _UP if up else 0, _UP if up else 0)


def _byte(kind: int, value: int) -> bytes:
    return attribute(kind, bytes([value]))


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


class Links:
    """The links of the namespace that the calling thread is in when this is made.

    Threads may use one at once: each has its answers before the next one asks.
    """

    def __init__(self) -> None:
        self._netlink = Netlink(ROUTE)
        self._lock = threading.Lock()

    def close(self) -> None:
        self._netlink.close()

    def send(self, messages: Iterable[bytes]) -> None:
        """Messages made by this module's functions, in their order, in as few sends as may be.

        The first that the kernel refuses is raised; those after it are carried out nevertheless.
        """
        whole = b"".join(messages)
        with self._lock:
            self._netlink.send(whole)

    def try_send(self, messages: Iterable[bytes]) -> None:
        """The same for what is only an improvement: an older kernel goes on without."""
        with contextlib.suppress(NetlinkError):
            self.send(messages)

    def index(self, name: str) -> int:
        """The number of an interface."""
        with self._lock:
            answers = self._netlink.ask(message(_GETLINK, ACK, _link() + text(_NAME, name)))
        return int(struct.unpack_from("=i", answers[0], 4)[0])


def bridge(name: str, mac: bytes | None = None) -> Iterator[bytes]:
    """A bridge without spanning tree and multicast snooping, with the card `mac` if it matters."""
    kind = nest(_LINKINFO, text(1, "bridge"), nest(2, _byte(23, 0), _number(5, 0)))
    card = attribute(_ADDRESS, mac) if mac else b""
    yield message(_NEWLINK, ACK | CREATE | EXCL, _link() + text(_NAME, name) + card + kind)


def pair(name: str, peer: str, namespace: int, mac: bytes) -> Iterator[bytes]:
    """A veth pair: `name` here, `peer` with the card `mac` in the namespace of a descriptor."""
    there = _link() + text(_NAME, peer) + attribute(_ADDRESS, mac) + _number(_NETNS, namespace)
    kind = nest(_LINKINFO, text(1, "veth"), nest(2, nest(1, there)))
    yield message(_NEWLINK, ACK | CREATE | EXCL, _link() + text(_NAME, name) + kind)


def up(index: int) -> Iterator[bytes]:
    """Bring an interface up without an address of its own making.

    A sandbox sends as what it was given, and as nothing else.
    """
    silent = nest(_AF_SPEC, nest(socket.AF_INET6, _byte(_ADDR_GEN_MODE, 1)))
    yield message(_NEWLINK, ACK, _link(index, up=True) + silent)


def large_segments(index: int) -> Iterator[bytes]:
    """Let TCP hand an interface the largest pieces that this kernel knows (BIG TCP).

    They are cut where a card that cannot take them is reached. Kernels before 6.3 refuse.
    """
    sizes = _number(_GSO_SIZE, _LARGEST) + _number(_GSO_SIZE_IPV4, _LARGEST)
    yield message(_NEWLINK, ACK, _link(index) + sizes)


def plain_port(index: int, bridge: int) -> Iterator[bytes]:
    """Make an interface a port of a bridge."""
    yield from up(index)
    yield message(_NEWLINK, ACK, _link(index) + _number(_MASTER, bridge))


def port(index: int, bridge: int, mac: bytes) -> Iterator[bytes]:
    """Make an interface a port for one card alone: nothing is learned, nothing flooded to it."""
    yield from plain_port(index, bridge)
    silent = [_byte(kind, 0) for kind in (8, 9, 27, 30)]  # learning; flooding of three kinds
    yield message(_SETLINK, ACK, _link(index, family=_BRIDGE) + nest(_PROTINFO, *silent))
    # A permanent, static entry (NUD_NOARP) of the bridge's own table (NTF_MASTER).
    entry = struct.pack("=BBHiHBB", _BRIDGE, 0, 0, index, 0x40, 0x04, 0)
    yield message(_NEWNEIGH, ACK | CREATE | REPLACE, entry + attribute(2, mac))


def delete(indexes: Iterable[int], group: int) -> Iterator[bytes]:
    """Delete interfaces all at once, by way of a group that has no others.

    The kernel waits for every packet under way before an interface goes: once, not once for each.
    """
    for index in indexes:
        yield message(_NEWLINK, ACK, _link(index) + _number(_GROUP, group))
    yield message(_DELLINK, ACK, _link() + _number(_GROUP, group))


def address(index: int, own: IPv4Address | IPv6Address, prefix: int) -> Iterator[bytes]:
    """Give an interface an address, at once valid: no other can have it."""
    family = socket.AF_INET if own.version == 4 else socket.AF_INET6
    no_detection = 0x02 if own.version == 6 else 0
    header = struct.pack("=BBBBi", family, prefix, no_detection, 0, index)
    both = attribute(1, own.packed) + attribute(2, own.packed)
    yield message(_NEWADDR, ACK | CREATE | REPLACE, header + both)


def default_route(gateway: IPv4Address | IPv6Address) -> Iterator[bytes]:
    """Send what is for elsewhere to a gateway."""
    family = socket.AF_INET if gateway.version == 4 else socket.AF_INET6
    # The main table, made by an administrator (RTPROT_STATIC), global, a gateway or direct route.
    header = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 254, 4, 0, 1, 0)
    yield message(_NEWROUTE, ACK | CREATE | REPLACE, header + attribute(5, gateway.packed))


def neighbour(index: int, own: IPv4Address | IPv6Address, mac: bytes) -> Iterator[bytes]:
    """Whose card an address is, for good: nobody needs to ask."""
    family = socket.AF_INET if own.version == 4 else socket.AF_INET6
    entry = struct.pack("=BBHiHBB", family, 0, 0, index, _PERMANENT, 0, 0)
    both = attribute(1, own.packed) + attribute(2, mac)
    yield message(_NEWNEIGH, ACK | CREATE | REPLACE, entry + both)


def tap(name: str) -> int:
    """A tap in the calling thread's namespace: its descriptor, with which it goes away.

    Frames have no header before them: a guest restored from a checkpoint that was taken without
    one goes on without.
    """
    try:
        handle = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise Unsupported(
            f"{_TUN} cannot be opened: {error.strerror}", hint="modprobe tun   (as root)"
        ) from error
    try:
        fcntl.ioctl(handle, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP | _NO_PI))
    except BaseException:
        os.close(handle)
        raise
    return handle
