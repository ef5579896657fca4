"""Netlink framing: attributes, messages, and a socket that sends them and reads the answers.

The kernel handles a request within sendto, so the answer is available when sendto returns. What the
messages mean is in `links` and `nft`.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import struct
from collections.abc import Iterator, Sequence

from harness.errors import MissingPrivilege, Unsupported

ROUTE, NETFILTER = 0, 12
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
REPLACE, EXCL, CREATE, APPEND = 0x100, 0x200, 0x400, 0x800
NESTED = 0x8000
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _STRICT = 270, 10, 11, 12
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_ERROR, _DONE = 2, 3
_ACK_TLVS = 0x200
_HEADER = struct.Struct("=IHHII")
BUFFER = 64 << 20
"""Socket buffer size in bytes: enough for a transaction of several hundred thousand addresses."""


class NetlinkError(OSError):
    """The kernel refused a message; with its extended error text, if any."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(number, why or os.strerror(number))


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return struct.pack("=HH", 4 + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def nest(kind: int, *parts: bytes) -> bytes:
    """An attribute that contains attributes."""
    return attribute(kind | NESTED, b"".join(parts))


@functools.lru_cache(1024)
def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def message(kind: int, flags: int, payload: bytes) -> bytes:
    return _HEADER.pack(16 + len(payload), kind, REQUEST | flags, 0, 0) + payload


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in `data` by kind; the last of several equal ones."""
    return dict(each_attribute(data))


def each_attribute(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        yield kind & 0x3FFF, data[at + 4 : at + length]
        at += (length + 3) & ~3


class Netlink:
    """A netlink socket in the network namespace that the calling thread is in."""

    def __init__(self, family: int) -> None:
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family
            )
        except OSError as error:
            raise Unsupported(f"this kernel has no netlink family {family}: {error}") from error
        for option in (_CAP_ACK, _EXT_ACK, _STRICT):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, option, BUFFER)
            except PermissionError as error:
                self.close()
                raise MissingPrivilege(
                    "networks need root", hint="run it again as root, or with sudo"
                ) from error
        self._socket.bind((0, 0))
        self.fileno = self._socket.fileno

    def close(self) -> None:
        self._socket.close()

    def send(self, messages: bytes | Sequence[bytes]) -> None:
        """Send messages, the last of which requests an acknowledgement.

        Raises NetlinkError for the first message that was refused.
        """
        whole = messages if isinstance(messages, bytes) else b"".join(messages)
        self._socket.send(whole)
        refused: NetlinkError | None = None
        while True:
            try:
                answer = self._socket.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            for kind, flags, payload in _split(answer):
                if kind == _ERROR:
                    number = -struct.unpack_from("=i", payload)[0]
                    if number and refused is None:
                        refused = NetlinkError(number, _error_text(flags, payload))
        if refused:
            raise refused

    def ask(self, request: bytes) -> Sequence[bytes]:
        """The answers to a request for an acknowledgement or a dump. Raises NetlinkError."""
        self._socket.send(request)
        found: list[bytes] = []
        while True:
            for kind, flags, payload in _split(self._socket.recv(1 << 20)):
                if kind == _ERROR:
                    number = -struct.unpack_from("=i", payload)[0]
                    if number:
                        raise NetlinkError(number, _error_text(flags, payload))
                if kind in (_DONE, _ERROR):
                    return found
                found.append(payload)


def _split(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    at = 0
    while at + 16 <= len(data):
        length, kind, flags, _, _ = _HEADER.unpack_from(data, at)
        yield kind, flags, data[at + 16 : at + length]
        at += (length + 3) & ~3


def _error_text(flags: int, payload: bytes) -> str:
    """The kernel's extended error text, if any."""
    if not flags & _ACK_TLVS:
        return ""
    return attributes(payload[20:]).get(1, b"").rstrip(b"\0").decode()


def missing(error: OSError) -> bool:
    """Whether an error means that the object does not exist."""
    return error.errno in (errno.ENOENT, errno.ENODEV, errno.ESRCH)
