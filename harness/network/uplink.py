"""Cubenet's uplink: the bridge as a gateway with address translation.

Outside, all sandboxes have the address of one end of a veth pair. The outer namespace gets the
other end and is not changed otherwise; whether it forwards packets is up to its owner.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from pathlib import Path

from harness.host.identity import NETWORK, NETWORK6
from harness.network import links, nft
from harness.network.links import Links
from harness.network.namespace import inside
from harness.network.netlink import NETFILTER, Netlink
from harness.network.nft import Meta, Table
from harness.network.settings import set_net

GATEWAYS: tuple[IPv4Address | IPv6Address, ...] = (NETWORK[1], NETWORK6[1])
GATEWAY_MAC = b"\x02\xc0" + NETWORK[1].packed
HERE = IPv4Interface("169.254.77.1/30"), IPv6Interface("fd77:c0bb:1cf::1/126")
THERE = IPv4Interface("169.254.77.2/30"), IPv6Interface("fd77:c0bb:1cf::2/126")
"""The addresses of the pair: that of all sandboxes as seen outside, and that of the outer end."""
UPLINK = "uplink"
_FAR_MAC = bytes.fromhex("02c0a9fe4d02")
_POSTROUTING, _SOURCE_NAT = 4, 100
_FORWARDING = ("ipv4/ip_forward", "ipv6/conf/all/forwarding")


@contextlib.contextmanager
def uplink(network: Path, own: Links, bridge: int, outside: Path | int) -> Iterator[None]:
    """Connect the namespace `network` to `outside`, until the block ends."""
    far = f"cube-{os.urandom(4).hex()}"
    where = f"/proc/{outside}/ns/net" if isinstance(outside, int) else outside
    handle = os.open(where, os.O_RDONLY)
    try:
        own.send(links.pair(UPLINK, far, handle, _FAR_MAC))
    finally:
        os.close(handle)
    near = own.index(UPLINK)
    for address in HERE:
        own.send(links.address(near, address.ip, address.network.prefixlen))
    own.send(links.up(near))
    for gateway, size in zip(GATEWAYS, (NETWORK.prefixlen, NETWORK6.prefixlen), strict=True):
        own.send(links.address(bridge, gateway, size))
    with inside(outside):
        there = Links()
        try:
            index = socket.if_nametoindex(far)
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
        translation.send(nft.transaction(list(_translate(near))))
        yield
    finally:
        translation.close()


def _translate(near: int) -> Iterator[bytes]:
    """Masquerade what leaves by the uplink."""
    table = Table(nft.INET, "uplink")
    yield table.create(nft.OWNER)
    yield table.base_chain("leaving", _POSTROUTING, _SOURCE_NAT, kind="nat", accept=True)
    leaves = [nft.meta(Meta.OIF, 0), nft.equal(0, struct.pack("=I", near))]
    yield table.rule("leaving", *leaves, nft.masquerade())
