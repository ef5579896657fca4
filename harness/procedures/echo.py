"""Round trips to a sandbox: ICMP echo requests with a random payload."""

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
    """The RFC 1071 checksum of an even number of bytes."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Echo:
    """Sends echo requests from one namespace on the sandboxes' network. Not thread-safe."""

    def __init__(self, raw: socket.socket) -> None:
        self._socket = raw

    def ask(self, address: IPv4Address) -> float:
        """The round-trip time to `address` in seconds. Raises GuestTimeout."""
        payload = os.urandom(16)
        head = struct.pack(">BBHHH", _REQUEST, 0, 0, 1, 1)
        packet = head[:2] + struct.pack(">H", checksum(head + payload)) + head[4:] + payload
        began = time.perf_counter()
        self._socket.sendto(packet, (str(address), 0))
        while (left := began + WAIT_S - time.perf_counter()) > 0:
            self._socket.settimeout(left)
            try:
                data, (source, _) = self._socket.recvfrom(2048)
            except TimeoutError:
                break
            message = data[(data[0] & 0x0F) * 4 :]
            if source == str(address) and message[0] == _REPLY and message[_HEADER:] == payload:
                return time.perf_counter() - began
        raise GuestTimeout(f"{address} did not answer an echo request within {WAIT_S:.0f} s")


@contextlib.contextmanager
def echo(namespace: Path) -> Iterator[Echo]:
    """An Echo in a namespace, such as an endpoint's."""
    with inside(namespace):
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with raw:
        yield Echo(raw)
