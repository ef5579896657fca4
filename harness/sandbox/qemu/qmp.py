"""A small synchronous QMP client on a connected socket.

The library qemu.qmp is asyncio throughout; the callers here are threads that time single exchanges,
and an event loop per thread would be on the timed path.
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

from harness.errors import GuestDied, GuestTimeout, SandboxError

LINE_MAX = 1 << 20
"""Bytes that a VMM may send without ending a line."""
EVENTS_MAX = 256
"""Events that are kept for `wait_event`: a guest can cause more than anybody waits for."""


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
        message: dict[str, Any] = json.loads(line)
        if "return" in message and self._unread_returns:
            self._unread_returns -= 1
            return self._message(deadline)
        return message

    def greeting(self, timeout_s: float) -> None:
        """Wait for QMP's greeting: the VMM exists from then on.

        Events need a capabilities negotiation, which is sent here and not waited for.
        """
        greeting = self._message(time.monotonic() + timeout_s)
        version = greeting["QMP"]["version"]["qemu"]
        self.version = (version["major"], version["minor"])
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
                    raise SandboxError(f"{self._name}: {command}: {message['error']['desc']}")
                else:
                    return message["return"]

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

    def drain(self) -> bool:
        """Read what has arrived without waiting; False, and nothing is read, while a command is
        carried out, which reads it itself."""
        if not self._busy.acquire(blocking=False):
            return False
        try:
            self.channel.settimeout(0)
            while len(self._buffer) < LINE_MAX and (data := self.channel.recv(1 << 16)):
                self._buffer += data
                *lines, self._buffer = self._buffer.split(b"\n")
                for message in map(json.loads, lines):
                    if "event" in message:
                        self._events.append(message)
                    elif "return" in message:
                        self._unread_returns -= 1
        except (OSError, ValueError, TypeError):
            pass  # nothing more; or the VMM has ended or sends no QMP, which others notice
        finally:
            with contextlib.suppress(OSError):
                self.channel.settimeout(None)
            self._busy.release()
        return True
