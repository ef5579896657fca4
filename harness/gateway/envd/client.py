"""A sandbox's envd: its processes, files and watches, as operations over the channel."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness.errors import (
    AnswerTooLong,
    DirectoryRefused,
    GuestRefused,
    GuestTimeout,
    MalformedAnswer,
    SandboxError,
)
from harness.gateway.envd import limits
from harness.gateway.envd.budget import ANSWER_MAX, PROCESSES_MAX, WATCHES_MAX
from harness.gateway.envd.channel import PIECE, EnvdChannel
from harness.gateway.envd.limits import encoded
from harness.gateway.envd.process import Context, Listener, ProcessEvent, RunningProcess
from harness.gateway.envd.wire import (
    EVENT,
    STREAMS,
    EnvdTag,
    RequestKind,
    encode_field,
)
from harness.guest import answers
from harness.guest.answers import Fields
from harness.guest.protocol import Frame, FrameKind, Tag

PID, ENDING, OPENED = struct.Struct("<I"), struct.Struct("<II"), struct.Struct("<IQ")
LISTINGS = 2
"""Listings of directories at once, of a sandbox; each may take ANSWER_MAX bytes of memory."""
REFUSED_DIRECTORY = "cwd "
"""How envd's errors begin that are about the directory where a process was to start."""
EVENTS_S = 5.0
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
        self.contexts: dict[str, Context] = {}
        """The interpreter's, also those whose process has ended."""
        self.starting: dict[str, asyncio.Future[Context]] = {}
        self.ending: set[asyncio.Future[None]] = set()
        """Cells whose callers have left."""
        self.unreported: dict[str, str] = {}
        """Why contexts were restarted that no caller has been told of, by their ids."""
        self.on_end: Callable[[RunningProcess], None] | None = None
        """Called when a process has ended."""
        self.watches: dict[int, Callable[[Frame | SandboxError], None]] = {}
        self.stale_connections = True
        """Whether envd may still have connections of a former gateway."""
        self.listings = asyncio.Semaphore(LISTINGS)
        self._last_watch = 0

    def connection_lost(self, error: Exception | None) -> None:
        if self.gone:
            return  # it was ended here
        super().connection_lost(error)
        for process in (*self.processes.values(), *self.connections.values()):
            process.end_listeners(drop=self.broken)
        for watch in list(self.watches.values()):
            watch(self.ended())

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
                code, signal = answers.unpack(ENDING, frame.payload, self.name)
                process.ended = ProcessEvent("exit", code=code, signal=signal)
                owner.pop(frame.id)
                process.publish(process.ended)
                if self.on_end:
                    self.on_end(process)
            else:
                process.publish(ProcessEvent(STREAMS[frame.kind], frame.payload))
        return True

    async def sync(self) -> None:
        """Ask which processes run: after a restore, a fork, or a restart of the gateway."""

        kept = 0

        # While the answer arrives: the end of a process may follow at once.
        def register(entry: bytes) -> None:
            nonlocal kept
            kept += len(entry)
            if kept > ANSWER_MAX:
                raise AnswerTooLong(f"the sandbox {self.name} reports too much of its processes")
            fields = Fields(entry, self.name)
            pid = fields.number(EnvdTag.PID, 32)
            argv = tuple(fields.each(Tag.ARG))
            if not argv:
                raise MalformedAnswer(f"the sandbox {self.name} reports a process without argv")
            if pid not in self.processes:
                self._add(RunningProcess(
                    self, pid, argv, fields.text(Tag.CWD), fields.text(EnvdTag.LABEL),
                    terminal=EnvdTag.COLUMNS in fields,
                ))  # fmt: skip

        await self.request(RequestKind.PROCESSES, on_entry=register)

    def _add(self, process: RunningProcess) -> None:
        if process.pid in self.processes:
            raise MalformedAnswer(f"the sandbox {self.name} reports two processes with one PID")
        if len(self.processes) >= PROCESSES_MAX:
            raise AnswerTooLong(f"the sandbox {self.name} reports over {PROCESSES_MAX} processes")
        self.processes[process.pid] = process

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
            (pid,) = answers.unpack(PID, frame.payload, self.name)
            process = RunningProcess(self, pid, argv, cwd, label, variables, size is not None)
            self._add(process)
            listeners.append(process.listen())

        try:
            await self.request(RequestKind.START, payload, on_answer=register)
        except GuestRefused as error:
            if str(error).startswith(REFUSED_DIRECTORY):
                raise DirectoryRefused(str(error), error.number) from error
            raise
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
        self,
        kind: RequestKind,
        path: str,
        user: str = "",
        *,
        target: str = "",
        depth: int = 1,
        on_entry: Callable[[bytes], None] | None = None,
    ) -> list[bytes]:
        """Stat, list, make, move or remove; the encoded entries, unless `on_entry` takes them."""
        payload = _path_fields(path, user) + encode_field(EnvdTag.DEPTH, depth)
        payload += encode_field(EnvdTag.TARGET, limits.path(target))
        return await self.request(kind, payload, on_entry=on_entry)

    async def open(self, path: str, user: str, *, write: bool = False) -> OpenFile:
        payload = _path_fields(path, user) + (encode_field(Tag.TRUNCATE, b"") if write else b"")
        answer = (await self.request(RequestKind.OPEN, payload))[-1]
        handle, size = answers.unpack(OPENED, answer[: OPENED.size], self.name)
        absolute = answer[OPENED.size :]
        if not absolute.startswith(b"/") or len(absolute) >= limits.PATH_MAX:
            raise MalformedAnswer(f"the sandbox {self.name} opened a file without a path")
        return OpenFile(handle, size, answers.loose_text(absolute))

    async def read(self, handle: int, offset: int) -> bytes:
        """PIECE bytes, or fewer at the end of the file."""
        payload = encode_field(EnvdTag.HANDLE, handle) + encode_field(Tag.OFFSET, offset)
        piece = (await self.request(RequestKind.READ, payload + encode_field(Tag.LENGTH, PIECE)))[
            -1
        ]
        if len(piece) > PIECE:
            raise MalformedAnswer(f"the sandbox {self.name} sent more than was requested")
        return piece

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
        self,
        path: str,
        user: str,
        recursive: bool,
        on_event: Callable[[Frame | SandboxError], None],
    ) -> int:
        """Watch a directory; `on_event` gets each event, and why the channel was closed."""
        if len(self.watches) >= WATCHES_MAX:
            raise GuestRefused("the sandbox has too many watches", errno.EMFILE)
        self._last_watch += 1
        number = self._last_watch
        payload = _path_fields(path, user) + encode_field(EnvdTag.HANDLE, number)
        payload += encode_field(EnvdTag.RECURSIVE, b"") if recursive else b""
        self.watches[number] = on_event
        try:
            await self.request(RequestKind.WATCH, payload)
        except BaseException:
            self.watches.pop(number, None)
            raise
        return number

    async def fetch_events(self) -> None:
        """Returns once the events of everything up to now have been delivered. A guest that takes
        longer than EVENTS_S delivers the rest later."""
        with contextlib.suppress(GuestTimeout):
            await self.request(RequestKind.EVENTS, timeout_s=EVENTS_S)

    def unwatch(self, number: int) -> None:
        self.watches.pop(number, None)
        self.send(RequestKind.UNWATCH, encode_field(EnvdTag.HANDLE, number))

    async def stats(self) -> str:
        """The guest's /proc/stat and /proc/meminfo, and a line `disk TOTAL USED` in bytes."""
        return answers.loose_text((await self.request(RequestKind.STATS))[-1])


def _path_fields(path: str, user: str) -> bytes:
    """Raises GuestRefused for a path that Linux does not accept."""
    name = encoded(user, "the user")
    return encode_field(Tag.PATH, limits.path(path)) + encode_field(EnvdTag.USER, name)
