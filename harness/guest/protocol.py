"""The protocol of the guest's agent: the Python side of agent/frame.h and agent/doorbell.c.

PROTOCOL.md, next to this file, is the reference. This module does no input or output.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass

HEADER = struct.Struct("<HBBII")
CHECK = struct.Struct("<I")
HEADER_LENGTH = HEADER.size + CHECK.size
MAGIC = 0xC0B1
PAYLOAD_MAX = 64 * 1024
REQUEST_MAX = 3 << 20
"""Bytes of a request in several frames: Linux accepts 2 MiB of arguments."""
KEEP_STDIN = 1
"""Flag of EXEC: STDIN frames will follow."""
MORE = 2
"""Flag of a request's frame: the next frame, of the same kind and id, continues its payload."""


class FrameKind(enum.IntEnum):
    """The kind of a frame; from 128 on, frames come from the guest."""

    HELLO = 1
    PING = 2
    IDENTITY = 3
    EXEC = 4
    STDIN = 5
    SIGNAL = 6
    READ = 7
    WRITE = 8
    TOUCH = 9
    MEMORY = 10
    SHUTDOWN = 11
    ARM = 12
    ANSWER = 128
    STDOUT = 129
    STDERR = 130
    EXIT = 131
    ERROR = 255


class Tag(enum.IntEnum):
    """The tag of a request's field."""

    HOSTNAME = 1
    MACHINE_ID = 2
    MAC = 3
    ADDRESS = 4
    WALL_NS = 5
    ENTROPY = 6
    KEY = 7
    WALL_AT_RING_NS = 8
    ROUTE = 9
    ARG = 16
    ENV = 17
    CWD = 18
    TIMEOUT_MS = 19
    STDIN = 20
    PATH = 32
    OFFSET = 33
    LENGTH = 34
    MODE = 35
    DATA = 36
    TRUNCATE = 37


@dataclass(frozen=True)
class Frame:
    kind: int
    id: int
    payload: bytes


def checksum(data: bytes | bytearray) -> int:
    """The 32-bit FNV-1a hash."""
    value = 2166136261
    for byte in data:
        value = (value ^ byte) * 16777619 & 0xFFFFFFFF
    return value


def encode(kind: int, id: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """The bytes of a frame, or of several if the payload is longer than PAYLOAD_MAX.

    ValueError when it exceeds REQUEST_MAX.
    """
    if len(payload) <= PAYLOAD_MAX:
        return _frame(kind, id, payload, flags)
    if len(payload) > REQUEST_MAX:
        raise ValueError(f"a payload of {len(payload)} bytes exceeds the limit of {REQUEST_MAX}")
    last = (len(payload) - 1) // PAYLOAD_MAX * PAYLOAD_MAX
    return b"".join(
        _frame(kind, id, payload[at : at + PAYLOAD_MAX], flags if at == last else flags | MORE)
        for at in range(0, last + 1, PAYLOAD_MAX)
    )


def _frame(kind: int, id: int, payload: bytes, flags: int) -> bytes:
    head = HEADER.pack(MAGIC, kind, flags, id, len(payload))
    return head + CHECK.pack(checksum(head)) + payload


def field(tag: Tag, value: bytes | str | int) -> bytes:
    """The bytes of a field: tag, length, value. Numbers are 64-bit little-endian."""
    if isinstance(value, int):
        value = struct.pack("<Q", value)
    elif isinstance(value, str):
        value = value.encode()
    return struct.pack("<BI", tag, len(value)) + value


class Decoder:
    """Turns a stream of bytes into frames. Skips noise between them; `noise` counts its bytes."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.noise = 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Add bytes; yields the frames that are complete."""
        self._buffer += data
        while frame := self.next_frame():
            yield frame

    def next_frame(self, more: bytes = b"") -> Frame | None:
        """Add bytes; the next frame that is complete."""
        buffer = self._buffer
        buffer += more
        while len(buffer) >= HEADER_LENGTH:
            magic, kind, _flags, id, length = HEADER.unpack_from(buffer)
            if (
                magic != MAGIC
                or length > PAYLOAD_MAX
                or CHECK.unpack_from(buffer, HEADER.size)[0] != checksum(buffer[: HEADER.size])
            ):
                self._skip_noise()
                continue
            end = HEADER_LENGTH + length
            if len(buffer) < end:
                return None
            payload = bytes(buffer[HEADER_LENGTH:end])
            del buffer[:end]
            return Frame(kind, id, payload)
        return None

    def _skip_noise(self) -> None:
        """Drop what cannot begin a frame."""
        start = self._buffer.find(_MAGIC_BYTES, 1)
        if start < 0:  # the last byte may be half of the magic
            start = len(self._buffer) - (self._buffer[-1] == _MAGIC_BYTES[0])
        self.noise += start
        del self._buffer[:start]


_MAGIC_BYTES = struct.pack("<H", MAGIC)


# The doorbell.

RING = struct.Struct("<HHQ")
RING_MAGIC = 0xC0BE
RING_DATED = 0xC0BF
MASKED, UNMASKED = b"\xc0R", b"\xc0U"
"""What an armed guest sends: its interrupts are masked, or could not be."""
RING_ANSWER_LENGTH = 4
_TWICE = 0x1_0000_0001


def ring(nonce: bytes) -> bytes:
    """The doorbell message for a nonce of 8 bytes; send none that is not `sendable`."""
    number = int.from_bytes(nonce, "little")
    check = (number + (number >> 16) + (number >> 32) + (number >> 48)) & 0xFFFF
    return RING.pack(RING_MAGIC, check, number)


def ring_dated(nonce: bytes, wall_ns: int) -> bytes:
    """The doorbell message for a nonce of 4 bytes and the wall clock, which the guest sets before
    it answers; send none that is not `sendable`. The guest signs all but the first two bytes."""
    hidden = wall_ns ^ int.from_bytes(nonce, "little") * _TWICE
    return struct.pack("<H4sQ", RING_DATED, nonce, hidden)


def sendable(message: bytes) -> bool:
    """Whether no byte of a doorbell message is zero: a UART that has received nothing reads so.
    One in twenty is not; take another nonce then."""
    return 0 not in message


def ring_answer(key: bytes, nonce: bytes) -> bytes:
    """The answer on the doorbell of a guest with this key."""
    return struct.pack("<I", siphash(key, nonce) & 0xFFFFFFFF)


_MASK = 0xFFFFFFFFFFFFFFFF


def siphash(key: bytes, data: bytes) -> int:
    """SipHash-2-4 (Aumasson and Bernstein, 2012) of `data`; the key has 16 bytes."""
    k0, k1 = struct.unpack("<QQ", key)
    v0, v1 = k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D
    v2, v3 = k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573
    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) & 0xFF])

    def mix(v0: int, v1: int, v2: int, v3: int, rounds: int) -> tuple[int, int, int, int]:
        for _ in range(rounds):
            v0 = (v0 + v1) & _MASK
            v1 = ((v1 << 13 | v1 >> 51) & _MASK) ^ v0
            v0 = (v0 << 32 | v0 >> 32) & _MASK
            v2 = (v2 + v3) & _MASK
            v3 = ((v3 << 16 | v3 >> 48) & _MASK) ^ v2
            v0 = (v0 + v3) & _MASK
            v3 = ((v3 << 21 | v3 >> 43) & _MASK) ^ v0
            v2 = (v2 + v1) & _MASK
            v1 = ((v1 << 17 | v1 >> 47) & _MASK) ^ v2
            v2 = (v2 << 32 | v2 >> 32) & _MASK
        return v0, v1, v2, v3

    for (word,) in struct.iter_unpack("<Q", padded):
        v3 ^= word
        v0, v1, v2, v3 = mix(v0, v1, v2, v3, 2)
        v0 ^= word
    v0, v1, v2, v3 = mix(v0, v1, v2 ^ 0xFF, v3, 4)
    return v0 ^ v1 ^ v2 ^ v3
