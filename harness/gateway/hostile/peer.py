"""A program in the place of a guest's envd that breaks the protocol in one way.

    python -m harness.gateway.hostile.peer BEHAVIOUR

Its standard input is the channel. What a behaviour does not replace is answered as envd would. It
ends with its channel.
"""

from __future__ import annotations

import itertools
import json
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping

from harness.gateway.envd.interpreter import DEFAULT, LABEL
from harness.gateway.envd.wire import (
    ENTRY,
    EVENT,
    EnvdTag,
    RequestKind,
    encode_field,
)
from harness.guest.answers import Fields
from harness.guest.protocol import (
    CHECK,
    HEADER,
    MAGIC,
    PAYLOAD_MAX,
    Decoder,
    Frame,
    FrameKind,
    Tag,
    checksum,
    encode,
)

OUTPUT = b"well\n"
"""What a process of a peer that behaves prints."""
CHUNK = 256 * 1024
"""Bytes that a flood sends at once."""
CONTEXT_PID = 50


class Peer:
    """The peer's end of the channel, and what a well-behaved envd answers."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self._pids = itertools.count(100)
        self._connections = itertools.count(1 << 30)

    def requests(self) -> Iterator[Frame]:
        decoder = Decoder()
        while data := self.channel.recv(1 << 16):
            yield from decoder.feed(data)

    def send(self, kind: int, id: int, payload: bytes = b"") -> None:
        self.channel.sendall(encode(kind, id, payload))

    def answer(self, request: Frame, payload: bytes = b"") -> None:
        self.send(FrameKind.ANSWER, request.id, payload)

    def flood(self, data: bytes) -> None:
        """Send the same bytes until the channel is closed."""
        data *= max(CHUNK // len(data), 1)
        while True:
            self.channel.sendall(data)

    def start(self, request: Frame) -> int:
        pid = next(self._pids)
        self.answer(request, struct.pack("<I", pid))
        return pid

    def dial(self, request: Frame) -> int:
        number = next(self._connections)
        self.answer(request, struct.pack("<I", number))
        return number

    def behave(self, request: Frame) -> None:
        match request.kind:
            case RequestKind.START:
                pid = self.start(request)
                self.send(FrameKind.STDOUT, pid, OUTPUT)
                self.send(FrameKind.EXIT, pid, struct.pack("<II", 0, 0))
            case RequestKind.LIST:
                for name in ("a", "b"):
                    self.send(ENTRY, request.id, entry(name))
                self.answer(request)
            case RequestKind.STAT | RequestKind.MAKE | RequestKind.MOVE:
                self.answer(request, entry("a"))
            case RequestKind.PROCESSES:
                self.send(ENTRY, request.id, process(CONTEXT_PID, f"{LABEL} {DEFAULT} python"))
                self.answer(request)
            case RequestKind.OPEN:
                self.answer(request, struct.pack("<IQ", 1, len(OUTPUT)) + b"/home/user/a")
            case RequestKind.READ:
                self.answer(request, OUTPUT)
            case RequestKind.STATS:
                self.answer(request, b"cpu 1 0 0 1\nMemTotal: 1 kB\ndisk 2 1\n")
            case RequestKind.DIAL:
                self.dial(request)
            case _:
                self.answer(request)


def entry(name: str) -> bytes:
    """The fields of a directory entry."""
    fields = ((EnvdTag.NAME, name), (Tag.PATH, f"/home/user/{name}"), (Tag.MODE, 0o100644),
              (EnvdTag.SIZE, 1), (EnvdTag.MTIME_NS, 0), (EnvdTag.OWNER, "user"),
              (EnvdTag.GROUP, "user"))  # fmt: skip
    return b"".join(encode_field(tag, value) for tag, value in fields)


def process(pid: int, label: str) -> bytes:
    """The fields of a process."""
    fields = ((EnvdTag.PID, pid), (EnvdTag.LABEL, label), (Tag.CWD, "/"), (Tag.ARG, "python3"))
    return b"".join(encode_field(tag, value) for tag, value in fields)


def header(kind: int, id: int, length: int) -> bytes:
    """A frame's header, of any length."""
    head = HEADER.pack(MAGIC, kind, 0, id, length)
    return head + CHECK.pack(checksum(head))


# What each behaviour does instead of answering.


def _endless_entries(peer: Peer, request: Frame) -> None:
    peer.flood(encode(ENTRY, request.id, entry("x" * 200)))


def _endless_processes(peer: Peer, request: Frame) -> None:
    for pid in itertools.count(1):
        peer.send(ENTRY, request.id, process(pid, "x" * 1000))


def _endless_output(peer: Peer, request: Frame) -> None:
    peer.flood(encode(FrameKind.STDOUT, peer.start(request), bytes(PAYLOAD_MAX)))


def _empty_output(peer: Peer, request: Frame) -> None:
    peer.flood(encode(FrameKind.STDOUT, peer.start(request), b""))


def _endless_headers(peer: Peer, request: Frame) -> None:
    peer.flood(b"".join(header(FrameKind.ANSWER, 1 << 30 | id, 0) for id in range(1000)))


def _endless_length(peer: Peer, request: Frame) -> None:
    peer.channel.sendall(header(ENTRY, request.id, 0xFFFFFFFF))
    peer.flood(bytes(CHUNK))


def _noise(peer: Peer, request: Frame) -> None:
    peer.flood(struct.pack("<H", MAGIC))


def _never_reads(peer: Peer, request: Frame) -> None:
    peer.start(request)
    while True:
        time.sleep(60)


def _endless_events(peer: Peer, request: Frame) -> None:
    peer.answer(request)
    number = Fields(request.payload, "request").number(EnvdTag.HANDLE)
    fields = encode_field(EnvdTag.NAME, "x" * 1000) + encode_field(EnvdTag.EVENT, 1)
    peer.flood(encode(EVENT, number, fields))


def _many_events(peer: Peer, request: Frame) -> None:
    """64 MiB of them; then it behaves."""
    peer.answer(request)
    number = Fields(request.payload, "request").number(EnvdTag.HANDLE)
    fields = encode_field(EnvdTag.NAME, "x" * 60_000) + encode_field(EnvdTag.EVENT, 1)
    for _ in range(1100):
        peer.send(EVENT, number, fields)


def _endless_line(peer: Peer, request: Frame) -> None:
    peer.answer(request)
    data = Fields(request.payload, "request").bytes_of(Tag.DATA)
    begin = json.dumps({"type": "begin", "cell": json.loads(data)["cell"]}).encode()
    peer.send(FrameKind.STDOUT, CONTEXT_PID, begin + b'\n{"type": "result", "text": "')
    peer.flood(encode(FrameKind.STDOUT, CONTEXT_PID, b"x" * PAYLOAD_MAX))


def _http(head: bytes, endless: bytes) -> Callable[[Peer, Frame], None]:
    def serve(peer: Peer, request: Frame) -> None:
        number = peer.dial(request)
        peer.send(FrameKind.STDOUT, number, head)
        endless_piece = endless * (PAYLOAD_MAX // len(endless))
        peer.flood(encode(FrameKind.STDOUT, number, endless_piece))

    return serve


Handler = Callable[[Peer, Frame], None]
BEHAVIOURS: Mapping[str, Mapping[int, Handler]] = {
    "base": {},
    "endless-entries": {RequestKind.LIST: _endless_entries},
    "endless-processes": {RequestKind.PROCESSES: _endless_processes},
    "endless-output": {RequestKind.START: _endless_output},
    "empty-output": {RequestKind.START: _empty_output},
    "endless-headers": {RequestKind.LIST: _endless_headers},
    "endless-length": {RequestKind.LIST: _endless_length},
    "noise": {RequestKind.LIST: _noise},
    "never-reads": {RequestKind.START: _never_reads},
    "endless-events": {RequestKind.WATCH: _endless_events},
    "many-events": {RequestKind.WATCH: _many_events},
    "endless-line": {RequestKind.INPUT: _endless_line},
    "http-headers": {RequestKind.DIAL: _http(b"HTTP/1.1 200 OK\r\n", b"X-Y: z\r\n")},
    "http-header": {RequestKind.DIAL: _http(b"HTTP/1.1 200 OK\r\nX: ", b"x")},
    "http-interim": {RequestKind.DIAL: _http(b"", b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n")},
    "http-trailers": {
        RequestKind.DIAL: _http(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: ", b"x"
        )
    },
    "http-body": {RequestKind.DIAL: _http(b"HTTP/1.1 200 OK\r\n\r\n", b"x")},
    "http-upgrade": {
        RequestKind.DIAL: _http(
            b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", b"x"
        )
    },
    "http-status": {RequestKind.DIAL: _http(b"HTTP/1.1 799 Odd\r\n\r\n", b"x")},
}


def main() -> None:
    handlers = BEHAVIOURS[sys.argv[1]]
    peer = Peer(socket.socket(fileno=0))
    try:
        for request in peer.requests():
            handlers.get(request.kind, Peer.behave)(peer, request)
    except (BrokenPipeError, ConnectionResetError):
        return


if __name__ == "__main__":
    main()
