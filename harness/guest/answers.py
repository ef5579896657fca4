"""Decodes what guests send. Nothing there is trusted: MalformedAnswer for what makes no sense.

The only place that turns a guest's bytes into numbers and text, for the agent and for envd.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from harness.errors import AnswerTooLong, GuestRefused, MalformedAnswer
from harness.guest.protocol import Frame, FrameKind

REASON_MAX = 5000
"""Characters of a guest's error message that are kept: a path and its reason."""
_NUMBER = re.compile(r"[0-9]{1,19}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_REFUSAL = struct.Struct("<I")


def unpack(layout: struct.Struct, payload: bytes, name: str) -> tuple[int, ...]:
    """The numbers of an answer that consists of them alone."""
    if len(payload) != layout.size:
        raise MalformedAnswer(f"{name} answered with {len(payload)} bytes instead of {layout.size}")
    return layout.unpack(payload)


def text(data: bytes, name: str) -> str:
    """UTF-8 text that the answer is useless without."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise MalformedAnswer(f"{name} sent text that is not UTF-8: {error.reason}") from error


def loose_text(data: bytes) -> str:
    """Text in which what is not UTF-8 is replaced."""
    return data.decode(errors="replace")


def shown(data: bytes) -> str:
    """Text for a person, without what a terminal would obey."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", data[:REASON_MAX].decode(errors="replace"))


def number(digits: str, name: str) -> int:
    """A decimal number of 64 bits."""
    if not _NUMBER.fullmatch(digits):
        raise MalformedAnswer(f"{name} sent {digits[:40]!r} in the place of a number")
    return int(digits)


def pairs(data: bytes, name: str) -> dict[str, str]:
    """Lines of `name=value`."""
    found = {}
    for line in text(data, name).splitlines():
        key, equals, value = line.partition("=")
        if not equals:
            raise MalformedAnswer(f"{name} sent a line without '=': {line[:40]!r}")
        found[key] = value
    return found


def refusal(frame: Frame, name: str, prefix: str = "") -> GuestRefused:
    """The error that an ERROR frame carries."""
    if len(frame.payload) < _REFUSAL.size:
        raise MalformedAnswer(f"{name} sent an error of {len(frame.payload)} bytes")
    reason = shown(frame.payload[_REFUSAL.size :])
    return GuestRefused(prefix + reason, _REFUSAL.unpack_from(frame.payload)[0])


def fields(payload: bytes, name: str) -> list[tuple[int, bytes]]:
    """The (tag, bytes) fields of an answer."""
    found, at = [], 0
    while at < len(payload):
        if at + 5 > len(payload):
            raise MalformedAnswer(f"{name} sent a field that is cut off")
        tag, length = struct.unpack_from("<BI", payload, at)
        value = payload[at + 5 : at + 5 + length]
        if len(value) < length:
            raise MalformedAnswer(f"{name} sent a field that is longer than its frame")
        found.append((tag, value))
        at += 5 + length
    return found


class Fields:
    """The fields of an answer by tag; the last of several with the same tag counts."""

    def __init__(self, payload: bytes, name: str) -> None:
        self._name = name
        self._all = fields(payload, name)
        self._by_tag = dict(self._all)

    def __contains__(self, tag: int) -> bool:
        return tag in self._by_tag

    def each(self, tag: int) -> Iterator[str]:
        """The text of all fields with a tag."""
        return (value.decode(errors="replace") for found, value in self._all if found == tag)

    def bytes_of(self, tag: int) -> bytes:
        try:
            return self._by_tag[tag]
        except KeyError:
            raise MalformedAnswer(f"{self._name} left out field {tag}") from None

    def text(self, tag: int) -> str:
        """Text of a name or path, which need not be UTF-8; "" if it is missing."""
        return self._by_tag.get(tag, b"").decode(errors="replace")

    def number(self, tag: int, bits: int = 64) -> int:
        value = self.bytes_of(tag)
        found = int.from_bytes(value[:9], "little")
        if len(value) > 8 or found >> bits:
            raise MalformedAnswer(f"{self._name} sent a field {tag} above {bits} bits")
        return found


def expect(frame: Frame, kind: FrameKind, name: str) -> bytes:
    """The payload of a frame that must be of this kind."""
    if frame.kind != kind:
        raise MalformedAnswer(f"{name} sent a frame of kind {frame.kind} instead of {kind}")
    return frame.payload


class Collected:
    """Pieces that a guest sends of one thing, up to a limit of bytes."""

    def __init__(self, limit: int, what: str) -> None:
        self._limit = limit
        self._what = what
        self._pieces: list[bytes] = []
        self.length = 0

    def add(self, piece: bytes) -> None:
        """AnswerTooLong when the limit is passed."""
        self.length += len(piece)
        if self.length > self._limit:
            raise AnswerTooLong(f"{self._what} is longer than {self._limit} bytes")
        if piece:
            self._pieces.append(piece)

    def whole(self) -> bytes:
        return b"".join(self._pieces)
