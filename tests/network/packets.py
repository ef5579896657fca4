"""Frames made by hand, and sockets in namespaces: what isolation is tested with."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.network.cubenet import CARD
from harness.network.endpoint import Endpoint
from harness.network.namespace import inside

WAIT_S = 0.15
"""A frame that is coming is there within microseconds: so long is waited for one that is not."""
PATIENCE_S = 30.0
"""One that must come may be held up by whoever else uses this machine."""
BROADCAST = b"\xff" * 6
ALL_PACKETS, IPV4, ARP, IPV6 = 0x0003, 0x0800, 0x0806, 0x86DD
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(source: bytes, destination: bytes, protocol: int, payload: bytes) -> bytes:
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0)
    head += source + destination
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def ipv6(source: bytes, destination: bytes, protocol: int, payload: bytes) -> bytes:
    return (
        struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64) + source + destination + payload
    )


def transport(protocol: int, port: int, mark: bytes, source_port: int, flags: int) -> bytes:
    """A datagram, a segment, or an echo request, with a mark to know it by."""
    if protocol == UDP:
        return struct.pack(">HHHH", source_port, port, 8 + len(mark), 0) + mark
    if protocol == TCP:
        return struct.pack(">HHIIBBHHH", source_port, port, 1, 1, 0x50, flags, 512, 0, 0) + mark
    kind = 8 if protocol == ICMP else 128
    return struct.pack(">BBHHH", kind, 0, 0, 7, 1) + mark


def arp(operation: int, mac: bytes, source: bytes, target_mac: bytes, target: bytes) -> bytes:
    return struct.pack(">HHBBH", 1, IPV4, 6, 4, operation) + mac + source + target_mac + target


def patiently(attempt: Callable[[], bool]) -> bool:
    """Whether what must succeed in the end does; each attempt takes its own time."""
    deadline = time.monotonic() + 2 * PATIENCE_S
    while not attempt():
        if time.monotonic() > deadline:
            return False
    return True


@contextmanager
def raw(where: Path) -> Iterator[socket.socket]:
    """All that a sandbox's card sees, and a way to send whatever one likes."""
    with inside(where):
        line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PACKETS))
        line.bind((CARD, 0))
    try:
        yield line
    finally:
        line.close()


def frame(destination: bytes, source: bytes, kind: int, payload: bytes) -> bytes:
    return destination + source + struct.pack(">H", kind) + payload


def packets(line: socket.socket, seconds: float = WAIT_S) -> Iterator[bytes]:
    """Frames that came in from others, until nothing has come for so long."""
    while select.select([line], [], [], seconds)[0]:
        data, address = line.recvfrom(65536)
        if address[2] != socket.PACKET_OUTGOING:
            yield data


def saw(line: socket.socket, mark: bytes, *, expected: bool = False) -> bool:
    """Whether a frame with the mark has come; one that is expected is waited for patiently."""
    return any(mark in one for one in packets(line, PATIENCE_S if expected else WAIT_S))


def udp_server(one: Endpoint, port: int, family: int) -> socket.socket:
    with inside(one.namespace):
        server = socket.socket(family, socket.SOCK_DGRAM)
        server.bind(("", port))
    server.settimeout(PATIENCE_S)
    return server


def tcp_server(one: Endpoint, port: int, family: int) -> socket.socket:
    with inside(one.namespace):
        server = socket.socket(family, socket.SOCK_STREAM)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("", port))
        server.listen(4)
    return server


def client(one: Endpoint, family: int, kind: int) -> socket.socket:
    with inside(one.namespace):
        line = socket.socket(family, kind)
    line.settimeout(PATIENCE_S)
    return line
