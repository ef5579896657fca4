"""The processes of a sandbox: their events, and the listeners that receive them.

When a listener falls behind, envd is told to stop reading that process's pipes; other processes are
not delayed. What is queued for the listeners of a sandbox counts towards its channel's budget: a
guest that sends on when it was told to stop loses its channel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.gateway.envd.budget import ITEM_BYTES, QUEUE_HIGH
from harness.gateway.envd.channel import EnvdChannel
from harness.gateway.envd.wire import EnvdTag, RequestKind, encode_field

HIGH, LOW = 1 << 20, 1 << 18
"""Bytes queued for a listener at which its process is paused, and resumed."""
EVENTS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class ProcessEvent:
    """`kind` is stdout, stderr or pty with `data`, or exit with `code` and `signal`."""

    kind: str
    data: bytes = b""
    code: int = 0
    signal: int = 0

    @property
    def weight(self) -> int:
        """The memory that it takes in a queue."""
        return len(self.data) + ITEM_BYTES


class Listener:
    """Receives a process's events in order."""

    def __init__(self, process: RunningProcess) -> None:
        self.process = process
        self.queued = 0
        self._received = 0
        self._events: asyncio.Queue[ProcessEvent | None] = asyncio.Queue()
        self._expired = False

    def put(self, event: ProcessEvent) -> None:
        self.queued += event.weight
        self._events.put_nowait(event)

    def end(self, drop: bool) -> None:
        """No event will follow: the sandbox is gone. `drop` what is queued, too."""
        while drop and not self._events.empty():
            self._events.get_nowait()
        self.queued = 0 if drop else self.queued
        self._events.put_nowait(None)

    def expire(self) -> None:
        """The caller's time is up: no event that follows is received."""
        self._expired = True
        self._events.put_nowait(None)

    async def get(self) -> ProcessEvent:
        """The next event. Once all have been received, raises TimeoutError if the caller's time was
        up, or else why the channel was closed."""
        event = await self._events.get()
        if event is None:
            self._events.put_nowait(None)
            raise TimeoutError if self._expired else self.process.channel.ended()
        self.queued -= event.weight
        self.process.resume_if_drained()
        self._received += 1
        if self._received % EVENTS_AT_ONCE == 0:
            await asyncio.sleep(0)  # other sandboxes have their turn
        return event

    def close(self) -> None:
        self.process.remove(self)


@dataclass
class RunningProcess:
    """A process of the sandbox."""

    channel: EnvdChannel
    pid: int
    argv: Sequence[str]
    cwd: str
    label: str
    environment: Mapping[str, str] = field(default_factory=dict)
    terminal: bool = False
    paused: bool = False
    ended: ProcessEvent | None = None
    listeners: list[Listener] = field(default_factory=list)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a request to an interpreter is written."""
    cut_off: bool = False
    """Whether the last request was not written to its end."""
    _held: int = 0
    """Bytes that its listeners keep from being freed; they share the data of an event."""

    def listen(self) -> Listener:
        listener = Listener(self)
        self.listeners.append(listener)
        if self.ended:
            listener.put(self.ended)
        return listener

    def remove(self, listener: Listener) -> None:
        if listener in self.listeners:
            self.listeners.remove(listener)
        self.resume_if_drained()

    def publish(self, event: ProcessEvent) -> None:
        """Give an event to all listeners, and pause the process if one of them falls behind.

        Raises AnswerTooLong when the guest has sent more than the gateway keeps.
        """
        for listener in self.listeners:
            listener.put(event)
        self._count()
        full = self._held > HIGH or (self._held and self.channel.queued.used > QUEUE_HIGH)
        if full and not self.paused:
            self.paused = True
            self.set_reading(False)

    def end_listeners(self, drop: bool) -> None:
        """The sandbox is gone."""
        for listener in self.listeners:
            listener.end(drop)
        self._count()

    def resume_if_drained(self) -> None:
        self._count()
        if self.paused and all(listener.queued < LOW for listener in self.listeners):
            self.paused = False
            self.set_reading(True)

    def _count(self) -> None:
        before = self._held
        if len(self.listeners) == 1:
            self._held = self.listeners[0].queued
        else:
            self._held = max((listener.queued for listener in self.listeners), default=0)
        if self._held > before:
            self.channel.queued.take(self._held - before)
        elif self._held < before:
            self.channel.queued.give(before - self._held)

    def set_reading(self, on: bool) -> None:
        """Tell envd to read its output, or to leave it in the pipes."""
        kind = RequestKind.RESUME if on else RequestKind.PAUSE
        self.channel.send(kind, encode_field(EnvdTag.PID, self.pid))


@dataclass(frozen=True)
class Context:
    """A context of the code interpreter (interpreter.py); its process may have ended. `used` once
    a cell has begun in this process."""

    id: str
    language: str
    cwd: str
    process: RunningProcess
    used: bool = False

    def as_json(self) -> Mapping[str, str]:
        return {"id": self.id, "language": self.language, "cwd": self.cwd}
