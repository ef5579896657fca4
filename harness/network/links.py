"""rtnetlink messages: bridges, ports, veth pairs, addresses, and forwarding entries.

Many messages go into one send, and no program is started.
"""

from __future__ import annotations

import contextlib
import errno
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
"""Ports of one bridge (the kernel's BR_MAX_PORTS)."""
LOOPBACK = 1


def _link(index: int = 0, *, up: bool = False, family: int = 0) -> bytes:
    return struct.pack("=BBHiII", family, 0, 0, index, _UP if up else 0, _UP if up else 0)


def _byte(kind: int, value: int) -> bytes:
    return attribute(kind, bytes([value]))


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


class Links:
    """An rtnetlink socket in the namespace that the calling thread is in when this is created.

    Thread-safe: one exchange at a time.
    """

    def __init__(self) -> None:
        self._netlink = Netlink(ROUTE)
        self._lock = threading.Lock()

    def close(self) -> None:
        self._netlink.close()

    def send(self, messages: Iterable[bytes]) -> None:
        """Send messages made by this module's functions, in order, in one send.

        Raises NetlinkError for the first that the kernel refuses; the later ones still take effect.
        Raises Unsupported where IPv6 is disabled.
        """
        whole = b"".join(messages)
        try:
            with self._lock:
                self._netlink.send(whole)
        except NetlinkError as error:
            if error.errno != errno.EAFNOSUPPORT and "IPv6 is disabled" not in str(error):
                raise
            raise Unsupported(
                f"IPv6 is disabled on this host, and sandboxes have addresses of it: {error}",
                hint="boot the kernel without ipv6.disable=1 and ipv6.disable_ipv6=1",
            ) from error

    def try_send(self, messages: Iterable[bytes]) -> None:
        """`send` for optional settings: refusals by older kernels are ignored."""
        with contextlib.suppress(NetlinkError):
            self.send(messages)

    def index(self, name: str) -> int:
        """The index of an interface."""
        with self._lock:
            answers = self._netlink.ask(message(_GETLINK, ACK, _link() + text(_NAME, name)))
        return int(struct.unpack_from("=i", answers[0], 4)[0])


def bridge(name: str, mac: bytes | None = None) -> Iterator[bytes]:
    """A bridge without spanning tree and multicast snooping; `mac` is its MAC address, if given."""
    kind = nest(_LINKINFO, text(1, "bridge"), nest(2, _byte(23, 0), _number(5, 0)))
    lladdr = attribute(_ADDRESS, mac) if mac else b""
    yield message(_NEWLINK, ACK | CREATE | EXCL, _link() + text(_NAME, name) + lladdr + kind)


def pair(name: str, peer: str, namespace: int, mac: bytes) -> Iterator[bytes]:
    """A veth pair: `name` here, `peer` with the address `mac` in the namespace of a descriptor."""
    there = _link() + text(_NAME, peer) + attribute(_ADDRESS, mac) + _number(_NETNS, namespace)
    kind = nest(_LINKINFO, text(1, "veth"), nest(2, nest(1, there)))
    yield message(_NEWLINK, ACK | CREATE | EXCL, _link() + text(_NAME, name) + kind)


def up(index: int) -> Iterator[bytes]:
    """Bring an interface up without an IPv6 link-local address.

    A sandbox must send only with the addresses of its identity.
    """
    silent = nest(_AF_SPEC, nest(socket.AF_INET6, _byte(_ADDR_GEN_MODE, 1)))
    yield message(_NEWLINK, ACK, _link(index, up=True) + silent)


def large_segments(index: int) -> Iterator[bytes]:
    """Allow TCP the largest segments that this kernel supports (BIG TCP).

    They are split before a NIC that cannot take them. Kernels before 6.3 refuse this.
    """
    sizes = _number(_GSO_SIZE, _LARGEST) + _number(_GSO_SIZE_IPV4, _LARGEST)
    yield message(_NEWLINK, ACK, _link(index) + sizes)


def plain_port(index: int, bridge: int) -> Iterator[bytes]:
    """Make an interface a port of a bridge."""
    yield from up(index)
    yield message(_NEWLINK, ACK, _link(index) + _number(_MASTER, bridge))


def port(index: int, bridge: int, mac: bytes) -> Iterator[bytes]:
    """Make an interface a port for a single MAC address: no learning, no flooding to it."""
    yield from plain_port(index, bridge)
    silent = [_byte(kind, 0) for kind in (8, 9, 27, 30)]  # learning; flooding of three kinds
    yield message(_SETLINK, ACK, _link(index, family=_BRIDGE) + nest(_PROTINFO, *silent))
    # A permanent, static entry (NUD_NOARP) of the bridge's own table (NTF_MASTER).
    entry = struct.pack("=BBHiHBB", _BRIDGE, 0, 0, index, 0x40, 0x04, 0)
    yield message(_NEWNEIGH, ACK | CREATE | REPLACE, entry + attribute(2, mac))


def delete(indexes: Iterable[int], group: int) -> Iterator[bytes]:
    """Delete interfaces in one request, by putting them into the otherwise empty group `group`.

    The kernel waits for packets in flight once per request instead of once per interface.
    """
    for index in indexes:
        yield message(_NEWLINK, ACK, _link(index) + _number(_GROUP, group))
    yield message(_DELLINK, ACK, _link() + _number(_GROUP, group))


def address(index: int, own: IPv4Address | IPv6Address, prefix: int) -> Iterator[bytes]:
    """Give an interface an address without duplicate address detection."""
    family = socket.AF_INET if own.version == 4 else socket.AF_INET6
    no_detection = 0x02 if own.version == 6 else 0
    header = struct.pack("=BBBBi", family, prefix, no_detection, 0, index)
    both = attribute(1, own.packed) + attribute(2, own.packed)
    yield message(_NEWADDR, ACK | CREATE | REPLACE, header + both)


def default_route(gateway: IPv4Address | IPv6Address) -> Iterator[bytes]:
    """A default route via a gateway."""
    family = socket.AF_INET if gateway.version == 4 else socket.AF_INET6
    # The main table, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST.
    header = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 254, 4, 0, 1, 0)
    yield message(_NEWROUTE, ACK | CREATE | REPLACE, header + attribute(5, gateway.packed))


def neighbour(index: int, own: IPv4Address | IPv6Address, mac: bytes) -> Iterator[bytes]:
    """A permanent neighbour entry, which makes ARP and neighbour discovery unnecessary."""
    family = socket.AF_INET if own.version == 4 else socket.AF_INET6
    entry = struct.pack("=BBHiHBB", family, 0, 0, index, _PERMANENT, 0, 0)
    both = attribute(1, own.packed) + attribute(2, mac)
    yield message(_NEWNEIGH, ACK | CREATE | REPLACE, entry + both)


def tap(name: str) -> int:
    """A tap in the calling thread's namespace, which lasts as long as the returned descriptor.

    Frames have no virtio header: a restored guest's NIC works with the format of its checkpoint,
    which was taken without a tap.
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
