"""Hand-made frames, and sockets in namespaces, for tests of isolation."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.network.cubenet import NIC_NAME
from harness.network.namespace import inside
from harness.procedures.namespace_endpoint import Endpoint

WAIT_S = 0.15
"""How long to wait for a frame that must not arrive; others arrive within microseconds."""
PATIENCE_S = 30.0
"""How long to wait for a frame that must arrive: this machine may be busy."""
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
    """A datagram, a segment or an echo request that contains a mark."""
    if protocol == UDP:
        return struct.pack(">HHHH", source_port, port, 8 + len(mark), 0) + mark
    if protocol == TCP:
        return struct.pack(">HHIIBBHHH", source_port, port, 1, 1, 0x50, flags, 512, 0, 0) + mark
    kind = 8 if protocol == ICMP else 128
    return struct.pack(">BBHHH", kind, 0, 0, 7, 1) + mark


def arp(operation: int, mac: bytes, source: bytes, target_mac: bytes, target: bytes) -> bytes:
    return struct.pack(">HHBBH", 1, IPV4, 6, 4, operation) + mac + source + target_mac + target


def patiently(attempt: Callable[[], bool]) -> bool:
    """Retry an attempt that must succeed eventually, however long each takes."""
    deadline = time.monotonic() + 2 * PATIENCE_S
    while not attempt():
        if time.monotonic() > deadline:
            return False
    return True


@contextmanager
def raw(where: Path) -> Iterator[socket.socket]:
    """A raw socket on a sandbox's NIC."""
    with inside(where):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PACKETS))
        sock.bind((NIC_NAME, 0))
    try:
        yield sock
    finally:
        sock.close()


def frame(destination: bytes, source: bytes, kind: int, payload: bytes) -> bytes:
    return destination + source + struct.pack(">H", kind) + payload


def packets(sock: socket.socket, seconds: float = WAIT_S) -> Iterator[bytes]:
    """Received frames, until none has come for `seconds`."""
    while select.select([sock], [], [], seconds)[0]:
        data, address = sock.recvfrom(65536)
        if address[2] != socket.PACKET_OUTGOING:
            yield data


def saw(sock: socket.socket, mark: bytes, *, expected: bool = False) -> bool:
    """Whether a frame with the mark arrives; an `expected` one may take long."""
    return any(mark in data for data in packets(sock, PATIENCE_S if expected else WAIT_S))


def udp_server(at: Endpoint, port: int, family: int) -> socket.socket:
    with inside(at.namespace):
        server = socket.socket(family, socket.SOCK_DGRAM)
        server.bind(("", port))
    server.settimeout(PATIENCE_S)
    return server


def tcp_server(at: Endpoint, port: int, family: int) -> socket.socket:
    with inside(at.namespace):
        server = socket.socket(family, socket.SOCK_STREAM)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("", port))
        server.listen(4)
    return server


def client(at: Endpoint, family: int, kind: int) -> socket.socket:
    with inside(at.namespace):
        sock = socket.socket(family, kind)
    sock.settimeout(PATIENCE_S)
    return sock
