"""A sandbox's envd: its processes, files and watches, as operations over the channel."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness.gateway.envd import limits
from harness.gateway.envd.channel import PIECE, EnvdChannel
from harness.gateway.envd.limits import encoded
from harness.gateway.envd.process import Listener, ProcessEvent, RunningProcess
from harness.gateway.envd.wire import (
    EVENT,
    STREAMS,
    EnvdTag,
    RequestKind,
    decode_fields,
    encode_field,
)
from harness.guest.protocol import Frame, FrameKind, Tag

OPENED = struct.Struct("<IQ")
FILE_TIMEOUT_S = 120.0
"""For writes, which wait for the sandbox's disk."""


@dataclass(frozen=True)
class OpenFile:
    """`size` is what the file claims, which in /proc and /sys is wrong; `path` is absolute."""

    handle: int
    size: int
    path: str


class Envd(EnvdChannel):
    """Made by `connect`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.processes: dict[int, RunningProcess] = {}
        self.connections: dict[int, RunningProcess] = {}
        """To servers in the sandbox (connections.py)."""
        self.watches: dict[int, Callable[[Frame | None], None]] = {}
        self.stale_connections = True
        """Whether envd may still have connections of a former gateway."""
        self._last_watch = 0

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        for process in (*self.processes.values(), *self.connections.values()):
            process.publish(None)
        for watch in list(self.watches.values()):
            watch(None)

    def handle_event(self, frame: Frame) -> bool:
        """Output, ends and file events."""
        if frame.kind == EVENT:
            if watch := self.watches.get(frame.id):
                watch(frame)
            return True
        if frame.kind not in STREAMS and frame.kind != FrameKind.EXIT:
            return False
        owner = self.connections if frame.id in self.connections else self.processes
        if process := owner.get(frame.id):
            if frame.kind == FrameKind.EXIT:
                code, signal = struct.unpack("<II", frame.payload)
                process.ended = ProcessEvent("exit", code=code, signal=signal)
                owner.pop(frame.id)
                process.publish(process.ended)
            else:
                process.publish(ProcessEvent(STREAMS[frame.kind], frame.payload))
        return True

    async def sync(self) -> None:
        """Ask which processes run: after a restore, a fork, or a restart of the gateway."""
        answers = await self.request(RequestKind.PROCESSES)
        for payload in answers[:-1]:
            fields = decode_fields(payload)
            by_tag = dict(fields)
            pid = int.from_bytes(by_tag[EnvdTag.PID], "little")
            argv = [value.decode(errors="replace") for tag, value in fields if tag == Tag.ARG]
            if pid not in self.processes:
                self.processes[pid] = RunningProcess(
                    self, pid, argv, by_tag[Tag.CWD].decode(), by_tag[EnvdTag.LABEL].decode(),
                    terminal=EnvdTag.COLUMNS in by_tag,
                )  # fmt: skip

    async def start(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        cwd: str = "",
        user: str = "",
        label: str = "",
        keep_input: bool = False,
        size: tuple[int, int] | None = None,
    ) -> tuple[RunningProcess, Listener]:
        """Start a process and listen from its first output. With a `size` it gets a terminal.

        Raises GuestRefused with the errno of what Linux does not accept.
        """
        variables = environment or {}
        payload = b"".join(
            (
                *(encode_field(Tag.ARG, encoded(text, "an argument")) for text in argv),
                *(
                    encode_field(Tag.ENV, encoded(f"{name}={value}", "a variable"))
                    for name, value in variables.items()
                ),
                encode_field(Tag.CWD, limits.path(cwd)),
                encode_field(EnvdTag.USER, encoded(user, "the user")),
                encode_field(EnvdTag.LABEL, encoded(label, "the tag")),
            )
        )
        payload += encode_field(EnvdTag.KEEP_INPUT, b"") if keep_input else b""
        if size:
            payload += encode_field(EnvdTag.COLUMNS, size[0]) + encode_field(EnvdTag.ROWS, size[1])
        listeners: list[Listener] = []

        def register(frame: Frame) -> None:
            (pid,) = struct.unpack("<I", frame.payload)
            process = RunningProcess(self, pid, argv, cwd, label, variables, size is not None)
            self.processes[pid] = process
            listeners.append(process.listen())

        await self.request(RequestKind.START, payload, on_answer=register)
        return listeners[0].process, listeners[0]

    async def input(self, pid: int, data: bytes) -> None:
        """Write to a process's input; waits while its buffer is full."""
        await self.send_data(RequestKind.INPUT, encode_field(EnvdTag.PID, pid), data)

    async def close_input(self, pid: int) -> None:
        await self.request(RequestKind.CLOSE_INPUT, encode_field(EnvdTag.PID, pid))

    async def signal(self, pid: int, number: int) -> None:
        """Signal a process and its group. After SIGKILL, returns once they are gone."""
        await self.request(
            RequestKind.SIGNAL,
            encode_field(EnvdTag.PID, pid) + encode_field(EnvdTag.NUMBER, number),
        )

    async def resize(self, pid: int, columns: int, rows: int) -> None:
        size = encode_field(EnvdTag.COLUMNS, columns) + encode_field(EnvdTag.ROWS, rows)
        await self.request(RequestKind.RESIZE, encode_field(EnvdTag.PID, pid) + size)

    async def path_request(
        self, kind: RequestKind, path: str, user: str = "", *, target: str = "", depth: int = 1
    ) -> list[bytes]:
        """Stat, list, make, move or remove; the encoded entries."""
        payload = _path_fields(path, user) + encode_field(EnvdTag.DEPTH, depth)
        payload += encode_field(EnvdTag.TARGET, limits.path(target))
        return await self.request(kind, payload)

    async def open(self, path: str, user: str, *, write: bool = False) -> OpenFile:
        payload = _path_fields(path, user) + (encode_field(Tag.TRUNCATE, b"") if write else b"")
        answer = (await self.request(RequestKind.OPEN, payload))[-1]
        handle, size = OPENED.unpack_from(answer)
        return OpenFile(handle, size, answer[OPENED.size :].decode("utf-8", "replace"))

    async def read(self, handle: int, offset: int) -> bytes:
        """PIECE bytes, or fewer at the end of the file."""
        payload = encode_field(EnvdTag.HANDLE, handle) + encode_field(Tag.OFFSET, offset)
        return (await self.request(RequestKind.READ, payload + encode_field(Tag.LENGTH, PIECE)))[-1]

    async def write(self, handle: int, data: bytes, length: int = 0) -> None:
        """Append to a file. `length`, with the first data, is that of the whole file if known: a
        file that exists keeps its content if the new one does not fit."""
        payload = encode_field(EnvdTag.HANDLE, handle) + encode_field(Tag.DATA, data)
        payload += encode_field(Tag.LENGTH, length)
        await self.request(RequestKind.WRITE, payload, FILE_TIMEOUT_S)

    async def close_handle(self, handle: int, keep: bool = True) -> None:
        """Close a file. A new one gets its name now, or is discarded unless `keep`."""
        payload = encode_field(EnvdTag.HANDLE, handle) + encode_field(Tag.MODE, int(keep))
        await self.request(RequestKind.CLOSE, payload, FILE_TIMEOUT_S)

    async def watch(
        self, path: str, user: str, recursive: bool, on_event: Callable[[Frame | None], None]
    ) -> int:
        """Watch a directory; `on_event` gets each event, and None when the sandbox is gone."""
        self._last_watch += 1
        number = self._last_watch
        payload = _path_fields(path, user) + encode_field(EnvdTag.HANDLE, number)
        payload += encode_field(EnvdTag.RECURSIVE, b"") if recursive else b""
        self.watches[number] = on_event
        try:
            await self.request(RequestKind.WATCH, payload)
        except BaseException:
            del self.watches[number]
            raise
        return number

    async def fetch_events(self) -> None:
        """Returns once the events of everything up to now have been delivered."""
        await self.request(RequestKind.EVENTS)

    def unwatch(self, number: int) -> None:
        self.watches.pop(number, None)
        self.send(RequestKind.UNWATCH, encode_field(EnvdTag.HANDLE, number))

    async def stats(self) -> str:
        """The guest's /proc/stat and /proc/meminfo, and a line `disk TOTAL USED` in bytes."""
        return (await self.request(RequestKind.STATS))[-1].decode(errors="replace")


def _path_fields(path: str, user: str) -> bytes:
    """Raises GuestRefused for a path that Linux does not accept."""
    name = encoded(user, "the user")
    return encode_field(Tag.PATH, limits.path(path)) + encode_field(EnvdTag.USER, name)
