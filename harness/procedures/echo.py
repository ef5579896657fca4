"""One packet to a sandbox and back: an ICMP echo request that carries a random payload."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

from harness.errors import GuestTimeout
from harness.network.namespace import inside

_REQUEST, _REPLY = 8, 0
_HEADER = 8
WAIT_S = 5.0


def checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Echo:
    """Asks sandboxes from one namespace on their network; not for several threads at once."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line

    def ask(self, address: IPv4Address) -> float:
        """Seconds until the payload had come back from `address`; GuestTimeout when it did not."""
        payload = os.urandom(16)
        head = struct.pack(">BBHHH", _REQUEST, 0, 0, 1, 1)
        packet = head[:2] + struct.pack(">H", checksum(head + payload)) + head[4:] + payload
        began = time.perf_counter()
        self._line.sendto(packet, (str(address), 0))
        while (left := began + WAIT_S - time.perf_counter()) > 0:
            self._line.settimeout(left)
            try:
                data, (source, _) = self._line.recvfrom(2048)
            except TimeoutError:
                break
            message = data[(data[0] & 0x0F) * 4 :]
            if source == str(address) and message[0] == _REPLY and message[_HEADER:] == payload:
                return time.perf_counter() - began
        raise GuestTimeout(f"{address} did not return a packet within {WAIT_S:.0f} s")


@contextlib.contextmanager
def echo(namespace: Path) -> Iterator[Echo]:
    """Ask from a namespace, such as an endpoint's."""
    with inside(namespace):
        line = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with line:
        yield Echo(line)
