"""The little of QMP that this substrate needs, synchronous, on a socket that we already hold.

The library qemu.qmp is asyncio throughout; our callers are threads that time single exchanges,
and an event loop per thread would stand on the timed path.
"""

from __future__ import annotations

import json
import socket
import time
from typing import Any

from harness.errors import GuestDied, GuestTimeout, SandboxError


class Qmp:
    """One QMP connection, which it owns. Not for several threads at once."""

    def __init__(self, line: socket.socket, name: str) -> None:
        self.line = line
        self._name = name
        self._buffer = b""
        self._events: list[dict[str, Any]] = []
        self._unread_returns = 0
        self.version = (0, 0)
        """QEMU's major and minor; known once it has introduced itself."""

    def close(self) -> None:
        self.line.close()

    def _message(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise GuestTimeout(f"the VMM of {self._name} does not answer")
            self.line.settimeout(left)
            try:
                data = self.line.recv(1 << 16)
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
        """Wait for the VMM to introduce itself: it exists from then on.

        Its events come only after a negotiation, which is sent here and not waited for.
        """
        greeting = self._message(time.monotonic() + timeout_s)
        version = greeting["QMP"]["version"]["qemu"]
        self.version = (version["major"], version["minor"])
        self._unread_returns = 1
        self._send({"execute": "qmp_capabilities"})

    def _send(self, request: dict[str, Any], descriptor: int | None = None) -> None:
        data = json.dumps(request, separators=(",", ":")).encode() + b"\n"
        try:
            socket.send_fds(self.line, [data], [] if descriptor is None else [descriptor])
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
        """Run one command; its result. SandboxError carries what the VMM said.

        `descriptor` travels along with the command.
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
        """The next event of this name, from those that came already or from now on."""
        deadline = time.monotonic() + timeout_s
        while True:
            while self._events:
                event = self._events.pop(0)
                if event["event"] == name:
                    return event
            message = self._message(deadline)
            if "event" in message:
                self._events.append(message)
