"""A small synchronous QMP client on a connected socket.

The library qemu.qmp is asyncio throughout; the callers here are threads that time single exchanges,
and an event loop per thread would be on the timed path.

A VMM may have been taken over by its guest: what it sends is bounded, and checked before use.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from harness.errors import AnswerTooLong, GuestDied, GuestTimeout, MalformedAnswer, SandboxError

MESSAGE_MAX = 1 << 20
"""Bytes of a message."""
DRAINED_AT_ONCE = 16
"""Reads of one VMM before another has its turn: one may send without end."""
EVENTS_MAX = 256
"""Events kept for `wait_event`; a guest can cause any number, so older ones are dropped."""


class Qmp:
    """One QMP connection; it owns the socket. Only `drain` may be called from another thread."""

    def __init__(self, channel: socket.socket, name: str) -> None:
        self.channel = channel
        self._name = name
        self._buffer = b""
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_MAX)
        self._busy = threading.Lock()
        self._unread_returns = 0
        self.on_close: Callable[[], object] = bool
        """Called before the channel is closed."""
        self.version = (0, 0)
        """QEMU's major and minor version; known once the greeting has been read."""

    def fileno(self) -> int:
        """This side's descriptor of the channel; -1 once it is closed."""
        return self.channel.fileno()

    def close(self) -> None:
        self.on_close()
        self.channel.close()

    def _message(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            if len(self._buffer) > MESSAGE_MAX:
                raise AnswerTooLong(f"the VMM of {self._name} sent an endless message")
            left = deadline - time.monotonic()
            if left <= 0:
                raise GuestTimeout(f"the VMM of {self._name} does not answer")
            self.channel.settimeout(left)
            try:
                data = self.channel.recv(1 << 16)
            except TimeoutError:
                continue
            except OSError as error:
                raise GuestDied(f"the VMM of {self._name} went away") from error
            if not data:
                raise GuestDied(f"the VMM of {self._name} went away")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        message = self._parsed(line)
        if "return" in message and self._unread_returns:
            self._unread_returns -= 1
            return self._message(deadline)
        return message

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            message: dict[str, Any] = json.loads(line)
            if not isinstance(message, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError) as error:
            raise self._malformed(f"what is no message of QMP: {error}") from error
        return message

    def _malformed(self, what: str) -> MalformedAnswer:
        return MalformedAnswer(f"the VMM of {self._name} sent {what}")

    def _inner(self, message: Any, *path: str) -> Any:
        """What lies in an object at a path of names."""
        for name in path:
            if not isinstance(message, dict) or name not in message:
                raise self._malformed(f"a message without {name!r}")
            message = message[name]
        return message

    def greeting(self, timeout_s: float) -> None:
        """Wait for QMP's greeting: the VMM exists from then on.

        Events need a capabilities negotiation, which is sent here and not waited for.
        """
        version = self._inner(self._message(time.monotonic() + timeout_s), "QMP", "version", "qemu")
        major, minor = self._inner(version, "major"), self._inner(version, "minor")
        if not isinstance(major, int) or not isinstance(minor, int):
            raise self._malformed("a version that is not of numbers")
        self.version = (major, minor)
        self._unread_returns = 1
        self._send({"execute": "qmp_capabilities"})

    def _send(self, request: dict[str, Any], descriptor: int | None = None) -> None:
        data = json.dumps(request, separators=(",", ":")).encode() + b"\n"
        try:
            socket.send_fds(self.channel, [data], [] if descriptor is None else [descriptor])
        except OSError as error:
            raise GuestDied(f"the VMM of {self._name} went away") from error

    def execute(
        self,
        command: str,
        *,
        timeout_s: float = 30,
        descriptor: int | None = None,
        **arguments: Any,
    ) -> Any:
        """Run one command and return its result. SandboxError has the VMM's error message.

        `descriptor` is passed along with the command.
        """
        with self._busy:
            self._send(
                {"execute": command} | ({"arguments": arguments} if arguments else {}), descriptor
            )
            deadline = time.monotonic() + timeout_s
            while True:
                message = self._message(deadline)
                if "event" in message:
                    self._events.append(message)
                elif "error" in message:
                    reason = self._inner(message, "error", "desc")
                    raise SandboxError(f"{self._name}: {command}: {reason}")
                else:
                    return self._inner(message, "return")

    def wait_event(self, name: str, timeout_s: float = 30) -> dict[str, Any]:
        """The next event of this name, among those received and those to come."""
        deadline = time.monotonic() + timeout_s
        with self._busy:
            while True:
                while self._events:
                    event = self._events.popleft()
                    if event["event"] == name:
                        return event
                message = self._message(deadline)
                if "event" in message:
                    self._events.append(message)

    def wait_status(self, timeout_s: float) -> str:
        """The next status of a migration."""
        return str(self._inner(self.wait_event("MIGRATION", timeout_s), "data", "status"))

    def wait_resumed(self, timeout_s: float) -> float:
        """When the next RESUME event was sent, in Unix time."""
        stamp = self._inner(self.wait_event("RESUME", timeout_s), "timestamp")
        parts = [self._inner(stamp, name) for name in ("seconds", "microseconds")]
        if not all(isinstance(part, int) and abs(part) < 1 << 50 for part in parts):
            raise self._malformed("an event without its time")
        return float(parts[0] + parts[1] / 1e6)

    def drain(self) -> bool:
        """Read what has arrived without waiting. False if there may be more: while a command is
        carried out, which reads itself, and after DRAINED_AT_ONCE."""
        if not self._busy.acquire(blocking=False):
            return False
        try:
            self.channel.settimeout(0)
            for _ in range(DRAINED_AT_ONCE):
                data = self.channel.recv(1 << 16)
                if not data or len(self._buffer) > MESSAGE_MAX:
                    return True
                self._buffer += data
                *lines, self._buffer = self._buffer.split(b"\n")
                for message in map(self._parsed, lines):
                    if "event" in message:
                        self._events.append(message)
                    elif "return" in message and self._unread_returns:
                        self._unread_returns -= 1
            return False
        except (OSError, MalformedAnswer):
            return True  # nothing more; or the VMM has ended or sends no QMP: others notice
        finally:
            with contextlib.suppress(OSError):
                self.channel.settimeout(None)
            self._busy.release()
