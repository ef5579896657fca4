"""The processes of a sandbox: their events, and the listeners that receive them.

When a listener falls behind, envd is told to stop reading that process's pipes; other processes are
not delayed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.gateway.envd.channel import EnvdChannel
from harness.gateway.envd.wire import EnvdTag, RequestKind, encode_field

HIGH, LOW = 1 << 20, 1 << 18
"""Bytes queued for a listener at which its process is paused, and resumed."""


@dataclass(frozen=True)
class ProcessEvent:
    """`kind` is stdout, stderr or pty with `data`, or exit with `code` and `signal`."""

    kind: str
    data: bytes = b""
    code: int = 0
    signal: int = 0


class Listener:
    """Receives a process's events in order; `None` when the sandbox is gone."""

    def __init__(self, process: RunningProcess) -> None:
        self.process = process
        self.queued = 0
        self._events: asyncio.Queue[ProcessEvent | None] = asyncio.Queue()

    def put(self, event: ProcessEvent | None) -> None:
        self.queued += len(event.data) if event else 0
        self._events.put_nowait(event)

    async def get(self) -> ProcessEvent | None:
        event = await self._events.get()
        if event:
            self.queued -= len(event.data)
            self.process.resume_if_drained()
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

    def publish(self, event: ProcessEvent | None) -> None:
        """Give an event to all listeners, and pause the process if one of them falls behind."""
        for listener in self.listeners:
            listener.put(event)
        if any(listener.queued > HIGH for listener in self.listeners) and not self.paused:
            self.paused = True
            self.set_reading(False)

    def resume_if_drained(self) -> None:
        if self.paused and all(listener.queued < LOW for listener in self.listeners):
            self.paused = False
            self.set_reading(True)

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
