"""A small synchronous QMP client on a connected socket.

The library qemu.qmp is asyncio throughout; the callers here are threads that time single exchanges,
and an event loop per thread would be on the timed path.
"""

from __future__ import annotations

import json
import socket
import time
from typing import Any

from harness.errors import GuestDied, GuestTimeout, SandboxError


class Qmp:
    """One QMP connection; it owns the socket. Not thread-safe."""

    def __init__(self, channel: socket.socket, name: str) -> None:
        self.channel = channel
        self._name = name
        self._buffer = b""
        self._events: list[dict[str, Any]] = []
        self._unread_returns = 0
        self.version = (0, 0)
        """QEMU's major and minor version; known once the greeting has been read."""

    def fileno(self) -> int:
        """This side's descriptor of the channel; -1 once it is closed."""
        return self.channel.fileno()

    def close(self) -> None:
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
        while True:
            while self._events:
                event = self._events.pop(0)
                if event["event"] == name:
                    return event
            message = self._message(deadline)
            if "event" in message:
                self._events.append(message)
