"""The gateway's side of envd's line (guest/envd.h): requests, and the output of processes.

One connection for all that goes on in a sandbox, on the event loop. What a process writes goes to
whoever listens to it; where a listener does not keep up, envd is told to leave that process's
output in its pipes, and nobody else waits.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.errors import GuestDied, GuestRefused
from harness.gateway.envd.wire import ENTRY, EVENT, STREAMS, Do, Name, encode, field_of, fields_of
from harness.guest.protocol import PAYLOAD_MAX, Decoder, Frame, FrameKind, Tag

TIMEOUT_S = 30.0
HIGH, LOW = 1 << 20, 1 << 18
"""Bytes that wait for a listener when its process is paused, and when it goes on."""
PIECE = 60 * 1024
"""Bytes of one read or write."""
FULL_S = 0.02
"""Seconds after which a full buffer is tried again."""


@dataclass(frozen=True)
class Said:
    """One event of a process: `what` is stdout, stderr, pty or exit (then code and signal)."""

    what: str
    data: bytes = b""
    code: int = 0
    signal: int = 0


class Listener:
    """Takes what a process says, in order; `None` when the sandbox is gone."""

    def __init__(self, process: RunningProcess) -> None:
        self.process = process
        self.waiting = 0
        self._said: asyncio.Queue[Said | None] = asyncio.Queue()

    def put(self, one: Said | None) -> None:
        self.waiting += len(one.data) if one else 0
        self._said.put_nowait(one)

    async def get(self) -> Said | None:
        one = await self._said.get()
        if one:
            self.waiting -= len(one.data)
            self.process.settle()
        return one

    def close(self) -> None:
        self.process.leave(self)


@dataclass
class RunningProcess:
    """A process of the sandbox as the gateway knows it."""

    envd: Envd
    pid: int
    words: Sequence[str]
    cwd: str
    label: str
    environment: Mapping[str, str] = field(default_factory=dict)
    terminal: bool = False
    paused: bool = False
    ended: Said | None = None
    listeners: list[Listener] = field(default_factory=list)

    def listen(self) -> Listener:
        listener = Listener(self)
        self.listeners.append(listener)
        if self.ended:
            listener.put(self.ended)
        return listener

    def leave(self, listener: Listener) -> None:
        if listener in self.listeners:
            self.listeners.remove(listener)
        self.settle()

    def hear(self, one: Said) -> None:
        for listener in self.listeners:
            listener.put(one)
        if any(listener.waiting > HIGH for listener in self.listeners) and not self.paused:
            self.paused = True
            self.flow(False)

    def settle(self) -> None:
        if self.paused and all(listener.waiting < LOW for listener in self.listeners):
            self.paused = False
            self.flow(True)

    def flow(self, on: bool) -> None:
        """Let its output come, or leave it where it is."""
        self.envd.tell(Do.RESUME if on else Do.PAUSE, field_of(Name.PID, self.pid))


class Envd(asyncio.Protocol):
    """One sandbox's envd. Made by `connect`; everything raises GuestDied once the line is gone."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.processes: dict[int, RunningProcess] = {}
        self.links: dict[int, RunningProcess] = {}
        """Connections to servers in the sandbox (links.py)."""
        self.watches: dict[int, Callable[[Frame | None], None]] = {}
        self.dialed = False
        self._decoder = Decoder()
        self._answers: dict[int, Callable[[Frame], None]] = {}
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._last_id = 0
        self._last_watch = 0
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self.gone = False

    @classmethod
    async def connect(cls, line: socket.socket, name: str) -> Envd:
        """Take over a line; it stays the caller's to close."""
        loop = asyncio.get_running_loop()
        own = line.dup()
        own.setblocking(False)
        _, made = await loop.create_unix_connection(lambda: cls(name), sock=own)
        return made

    # asyncio.Protocol.

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=1 << 20)

    def data_received(self, data: bytes) -> None:
        for frame in self._decoder.feed(data):
            self._take(frame)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.gone = True
        self._writable.set()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(self._died())
        for process in (*self.processes.values(), *self.links.values()):
            for listener in process.listeners:
                listener.put(None)
        for watch in list(self.watches.values()):
            watch(None)

    def _died(self) -> GuestDied:
        return GuestDied(f"the sandbox {self.name} is gone")

    def close(self) -> None:
        if self._transport:
            self._transport.abort()

    def _take(self, frame: Frame) -> None:
        if frame.kind in STREAMS or frame.kind == FrameKind.EXIT:
            process = self.processes.get(frame.id) or self.links.get(frame.id)
            if process is None:
                return
            if frame.kind == FrameKind.EXIT:
                code, signal = struct.unpack("<II", frame.payload)
                process.ended = Said("exit", code=code, signal=signal)
                (self.links if frame.id in self.links else self.processes).pop(frame.id)
                process.hear(process.ended)
            else:
                what = STREAMS[frame.kind]
                process.hear(Said(what, frame.payload))
        elif frame.kind == EVENT:
            watch = self.watches.get(frame.id)
            if watch:
                watch(frame)
        elif answer := self._answers.get(frame.id):
            answer(frame)

    # Requests.

    def tell(self, kind: Do, payload: bytes) -> int:
        """Send a request; its id. Nobody waits for the answer."""
        if self.gone or not self._transport:
            return 0
        self._last_id = self._last_id % 0xFFFFFFFF + 1
        self._transport.write(encode(kind, self._last_id, payload))
        return self._last_id

    async def ask(
        self,
        kind: Do,
        payload: bytes = b"",
        timeout_s: float = TIMEOUT_S,
        on_answer: Callable[[Frame], None] | None = None,
    ) -> list[bytes]:
        """The payloads of what answers a request: entries if any, and last the answer.

        Raises GuestRefused, GuestDied and TimeoutError. `on_answer` is called before anything that
        comes after the answer is looked at.
        """
        if self.gone:
            raise self._died()
        if not self._writable.is_set():
            await self._writable.wait()
        future: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
        entries: list[bytes] = []

        def take(frame: Frame) -> None:
            if frame.kind == ENTRY:
                entries.append(frame.payload)
            elif future.done():
                pass
            elif frame.kind == FrameKind.ERROR:
                number = struct.unpack_from("<I", frame.payload)[0]
                text = frame.payload[4:].decode(errors="replace")
                future.set_exception(GuestRefused(text, number))
            else:
                if on_answer:
                    on_answer(frame)
                entries.append(frame.payload)
                future.set_result(entries)

        id = self.tell(kind, payload)
        if not id:
            raise self._died()
        self._answers[id], self._waiting[id] = take, future
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        finally:
            self._answers.pop(id, None)
            self._waiting.pop(id, None)

    async def sync(self) -> None:
        """Learn which processes run: after a restore, a fork, or a restart of the gateway."""
        answers = await self.ask(Do.PROCESSES)
        for payload in answers[:-1]:
            one = fields_of(payload)
            by = dict(one)
            pid = int.from_bytes(by[Name.PID], "little")
            words = [value.decode(errors="replace") for tag, value in one if tag == Tag.ARG]
            if pid not in self.processes:
                self.processes[pid] = RunningProcess(
                    self, pid, words, by[Tag.CWD].decode(), by[Name.LABEL].decode(),
                    terminal=Name.COLUMNS in by,
                )  # fmt: skip

    async def start(
        self,
        words: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        cwd: str = "",
        user: str = "",
        label: str = "",
        keep_input: bool = False,
        size: tuple[int, int] | None = None,
    ) -> tuple[RunningProcess, Listener]:
        """Start a process and listen to it from its first word. `size` makes it a terminal's."""
        payload = b"".join(field_of(Tag.ARG, word) for word in words)
        given = environment or {}
        payload += b"".join(field_of(Tag.ENV, f"{name}={value}") for name, value in given.items())
        payload += field_of(Tag.CWD, cwd) + field_of(Name.USER, user) + field_of(Name.LABEL, label)
        payload += field_of(Name.KEEP_INPUT, b"") if keep_input else b""
        if size:
            payload += field_of(Name.COLUMNS, size[0]) + field_of(Name.ROWS, size[1])
        if len(payload) > PAYLOAD_MAX:
            raise GuestRefused(f"{words[0]}: its arguments are too long", errno.E2BIG)
        begun: list[Listener] = []

        def note(frame: Frame) -> None:
            (pid,) = struct.unpack("<I", frame.payload)
            process = RunningProcess(self, pid, words, cwd, label, given, size is not None)
            self.processes[pid] = process
            begun.append(process.listen())

        await self.ask(Do.START, payload, on_answer=note)
        return begun[0].process, begun[0]

    async def input(self, pid: int, data: bytes) -> None:
        """Give a process input; waits while its buffer is full."""
        await self.feed(Do.INPUT, field_of(Name.PID, pid), data)

    async def feed(self, kind: Do, which: bytes, data: bytes) -> None:
        """Hand data over in pieces; waits while there is no room for them."""
        for at in range(0, max(len(data), 1), PIECE):
            payload = which + field_of(Tag.DATA, data[at : at + PIECE])
            while True:
                try:
                    await self.ask(kind, payload)
                    break
                except GuestRefused as error:
                    if error.number != errno.EAGAIN:
                        raise
                    await asyncio.sleep(FULL_S)

    async def close_input(self, pid: int) -> None:
        await self.ask(Do.CLOSE_INPUT, field_of(Name.PID, pid))

    async def signal(self, pid: int, number: int) -> None:
        """Signal a process and those of its group."""
        await self.ask(Do.SIGNAL, field_of(Name.PID, pid) + field_of(Name.NUMBER, number))

    async def resize(self, pid: int, columns: int, rows: int) -> None:
        size = field_of(Name.COLUMNS, columns) + field_of(Name.ROWS, rows)
        await self.ask(Do.RESIZE, field_of(Name.PID, pid) + size)

    async def tree(
        self, kind: Do, path: str, user: str = "", *, target: str = "", depth: int = 1
    ) -> list[bytes]:
        """Stat, list, make, move or remove; entries as envd has them."""
        payload = field_of(Tag.PATH, path) + field_of(Name.USER, user)
        payload += field_of(Name.TARGET, target) + field_of(Name.DEPTH, depth)
        return await self.ask(kind, payload)

    async def open(self, path: str, user: str, *, write: bool = False) -> tuple[int, int]:
        """A handle of a file, and the file's size."""
        payload = field_of(Tag.PATH, path) + field_of(Name.USER, user)
        payload += field_of(Tag.TRUNCATE, b"") if write else b""
        handle, size = struct.unpack("<IQ", (await self.ask(Do.OPEN, payload))[-1])
        return handle, size

    async def read(self, handle: int, offset: int) -> bytes:
        payload = field_of(Name.HANDLE, handle) + field_of(Tag.OFFSET, offset)
        return (await self.ask(Do.READ, payload + field_of(Tag.LENGTH, PIECE)))[-1]

    async def write(self, handle: int, data: bytes) -> None:
        await self.ask(Do.WRITE, field_of(Name.HANDLE, handle) + field_of(Tag.DATA, data), 120)

    async def close_handle(self, handle: int, keep: bool = True) -> None:
        """Close a file; one that was written takes its name now, or goes away."""
        await self.ask(Do.CLOSE, field_of(Name.HANDLE, handle) + field_of(Tag.MODE, int(keep)), 120)

    async def watch(
        self, path: str, user: str, recursive: bool, hear: Callable[[Frame | None], None]
    ) -> int:
        """Watch a directory; `hear` gets each event, and None when the sandbox is gone."""
        self._last_watch += 1
        number = self._last_watch
        self.watches[number] = hear
        payload = (
            field_of(Tag.PATH, path) + field_of(Name.USER, user) + field_of(Name.HANDLE, number)
        )
        payload += field_of(Name.RECURSIVE, b"") if recursive else b""
        try:
            await self.ask(Do.WATCH, payload)
        except BaseException:
            del self.watches[number]
            raise
        return number

    def unwatch(self, number: int) -> None:
        self.watches.pop(number, None)
        self.tell(Do.UNWATCH, field_of(Name.HANDLE, number))

    async def stats(self) -> str:
        """/proc/stat, /proc/meminfo and a line `disk TOTAL USED`, in bytes."""
        return (await self.ask(Do.STATS))[-1].decode(errors="replace")
