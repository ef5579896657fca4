"""Cubenet's uplink: the bridge as a gateway with address translation.

Outside, all sandboxes have the address of one end of a veth pair. The outer namespace gets the
other end and is not changed otherwise; whether it forwards packets is up to its owner. Inside, the
outside's resolver has the bridge's own address: no sandbox depends on which one it is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from pathlib import Path

from harness.errors import UsageError
from harness.host.identity import NETWORK, NETWORK6
from harness.network import links, nft
from harness.network.links import Links
from harness.network.namespace import inside
from harness.network.netlink import NETFILTER, Netlink, NetlinkError
from harness.network.nft import Base, Meta, Table
from harness.network.policy import DNS_PORT, PROTOCOLS
from harness.network.settings import set_net

GATEWAYS: tuple[IPv4Address | IPv6Address, ...] = (NETWORK[1], NETWORK6[1])
GATEWAY_MAC = b"\x02\xc0" + NETWORK[1].packed
HERE = IPv4Interface("169.254.77.1/30"), IPv6Interface("fd77:c0bb:1cf::1/126")
THERE = IPv4Interface("169.254.77.2/30"), IPv6Interface("fd77:c0bb:1cf::2/126")
"""The addresses of the pair: that of all sandboxes as seen outside, and that of the outer end."""
UPLINK, OUTER = "uplink", "coppice-uplink"
"""The names of its ends. The outer one is the lock on its namespace: the addresses are always the
same, so a second uplink there would take the answers of the first."""
RESOLVER = NETWORK[1]
_FAR_MAC = bytes.fromhex("02c0a9fe4d02")
_PREROUTING, _DESTINATION_NAT = 0, -100
_POSTROUTING, _SOURCE_NAT = 4, 100
_IPV4, _ADDRESS_AT, _PORT_AT = 0x0800, 16, 2
_NAMESPACE_KIND, _NETWORK_KIND = 0xB703, 0x40000000
"""From Linux's ioctl_ns(2) and clone(2)."""
_FORWARDING = ("ipv4/ip_forward", "ipv6/conf/all/forwarding")


@contextlib.contextmanager
def uplink(
    network: Path, own: Links, bridge: int, outside: Path | int, resolver: IPv4Address | None
) -> Iterator[None]:
    """Connect the namespace `network` to `outside`, until the block ends. Requests to RESOLVER go
    to `resolver`. Raises UsageError for a namespace that is in use, or does not exist."""
    _connect(own, outside)
    near = own.index(UPLINK)
    try:
        with _configured(network, own, bridge, near, outside, resolver):
            yield
    finally:
        # Otherwise the outer end would stay until the kernel frees the namespace, some time later.
        with contextlib.suppress(OSError):
            own.send(links.delete([near], near))


def open_outside(outside: Path | int) -> int:
    """The descriptor of an outside namespace. Raises UsageError where there is none."""
    where = f"/proc/{outside}/ns/net" if isinstance(outside, int) else outside
    hint = "name a network namespace by its path, or a process in it by its PID"
    try:
        handle = os.open(where, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"there is no outside network at {where}: {why}", hint=hint) from error
    try:
        if fcntl.ioctl(handle, _NAMESPACE_KIND) == _NETWORK_KIND:
            return handle
    except OSError:
        pass  # a file, a directory or a device
    os.close(handle)
    raise UsageError(f"{where} is not a network namespace", hint=hint)


def _connect(own: Links, outside: Path | int) -> None:
    handle = open_outside(outside)
    try:
        own.send(links.pair(UPLINK, OUTER, handle, _FAR_MAC))
    except NetlinkError as error:
        if error.errno == errno.EEXIST:
            raise UsageError(
                f"another gateway uses the network namespace {outside}: it has a {OUTER}",
                hint="stop that gateway, or use another namespace; if it was killed: coppice clean",
            ) from error
        raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def _configured(
    network: Path,
    own: Links,
    bridge: int,
    near: int,
    outside: Path | int,
    resolver: IPv4Address | None,
) -> Iterator[None]:
    """Addresses, routes and translation."""
    for address in HERE:
        own.send(links.address(near, address.ip, address.network.prefixlen))
    own.send(links.up(near))
    for gateway, size in zip(GATEWAYS, (NETWORK.prefixlen, NETWORK6.prefixlen), strict=True):
        own.send(links.address(bridge, gateway, size))
    with inside(outside):
        there = Links()
        try:
            index = socket.if_nametoindex(OUTER)
            for address in THERE:
                there.send(links.address(index, address.ip, address.network.prefixlen))
            there.send(links.up(index))
        finally:
            there.close()
    for address in THERE:
        own.send(links.default_route(address.ip))
    with inside(network):
        for setting in _FORWARDING:
            set_net(setting, "1")
        translation = Netlink(NETFILTER)
    try:
        translation.send(nft.transaction(list(_translate(near, bridge, resolver))))
        yield
    finally:
        translation.close()


def _translate(near: int, bridge: int, resolver: IPv4Address | None) -> Iterator[bytes]:
    """Masquerade what leaves by the uplink, and redirect what asks the bridge for names."""
    table = Table(nft.INET, "uplink")
    yield table.create(nft.OWNER)
    yield table.base_chain("leaving", _POSTROUTING, _SOURCE_NAT, kind="nat", accept=True)
    leaves = [nft.meta(Meta.OIF, 0), nft.equal(0, struct.pack("=I", near))]
    yield table.rule("leaving", *leaves, nft.masquerade())
    if resolver is None:
        return
    yield table.base_chain("asking", _PREROUTING, _DESTINATION_NAT, kind="nat", accept=True)
    asks = [
        nft.meta(Meta.IIF, 0), nft.equal(0, struct.pack("=I", bridge)),
        nft.meta(Meta.PROTOCOL, 0), nft.equal(0, struct.pack(">H", _IPV4)),
        nft.load(Base.NETWORK, _ADDRESS_AT, 4, 0), nft.equal(0, RESOLVER.packed),
    ]  # fmt: skip
    for protocol in (PROTOCOLS["udp"], PROTOCOLS["tcp"]):
        yield table.rule(
            "asking",
            *asks,
            nft.meta(Meta.L4PROTO, 0),
            nft.equal(0, bytes([protocol])),
            nft.load(Base.TRANSPORT, _PORT_AT, 2, 0),
            nft.equal(0, struct.pack(">H", DNS_PORT)),
            nft.constant(0, resolver.packed),
            nft.redirect4(0),
        )
