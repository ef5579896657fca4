"""The protocol between the gateway and envd: the Python side of guest/envd.h.

Frames are the agent's (harness/guest/protocol.py); the kinds and most fields are envd's own.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping

from harness.guest.protocol import FrameKind


class RequestKind(enum.IntEnum):
    """The kind of a request frame."""

    HELLO = 1
    START = 2
    INPUT = 3
    CLOSE_INPUT = 4
    SIGNAL = 5
    RESIZE = 6
    PROCESSES = 7
    PAUSE = 8
    RESUME = 9
    STAT = 10
    LIST = 11
    MAKE = 12
    MOVE = 13
    REMOVE = 14
    OPEN = 15
    READ = 16
    WRITE = 17
    CLOSE = 18
    WATCH = 19
    UNWATCH = 20
    STATS = 21
    DIAL = 22
    SEND = 23
    PAUSE_CONNECTION = 24
    RESUME_CONNECTION = 25
    DROP = 26
    EVENTS = 27


ENTRY, EVENT, PTY = 132, 133, 134
STREAMS: Mapping[int, str] = {FrameKind.STDOUT: "stdout", FrameKind.STDERR: "stderr", PTY: "pty"}


class EnvdTag(enum.IntEnum):
    """Tags of fields, in addition to the agent's."""

    PID = 64
    NAME = 65
    USER = 66
    COLUMNS = 67
    ROWS = 68
    DEPTH = 69
    TARGET = 70
    TYPE = 71
    SIZE = 72
    OWNER = 73
    GROUP = 74
    MTIME_NS = 75
    RECURSIVE = 76
    HANDLE = 77
    NUMBER = 78
    LABEL = 79
    KEEP_INPUT = 80
    EVENT = 81


def encode_field(tag: int, value: bytes | str | int) -> bytes:
    """A field; integers take eight bytes."""
    if isinstance(value, int):
        value = struct.pack("<Q", value)
    elif isinstance(value, str):
        value = value.encode("utf-8", "surrogateescape")
    return struct.pack("<BI", tag, len(value)) + value
