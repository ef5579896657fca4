"""Connections to servers in a sandbox: opened by envd, carried over its channel."""

from __future__ import annotations

import asyncio

from harness.errors import AnswerTooLong, MalformedAnswer
from harness.gateway.envd.budget import CONNECTIONS_MAX
from harness.gateway.envd.client import PID, Envd
from harness.gateway.envd.process import Listener, RunningProcess
from harness.gateway.envd.wire import EnvdTag, RequestKind, encode_field
from harness.guest import answers
from harness.guest.protocol import Frame


class ServerConnection(RunningProcess):
    """What the server sends arrives as stdout, its close as an exit whose code is an errno."""

    channel: Envd

    def set_reading(self, on: bool) -> None:
        kind = RequestKind.RESUME_CONNECTION if on else RequestKind.PAUSE_CONNECTION
        self.channel.send(kind, encode_field(EnvdTag.HANDLE, self.pid))

    async def write(self, data: bytes) -> None:
        """Raises GuestRefused (EPIPE) once the server accepts no more."""
        await self.channel.send_data(RequestKind.SEND, encode_field(EnvdTag.HANDLE, self.pid), data)

    def drop(self) -> None:
        """Close it; safe to call twice."""
        if self.channel.connections.pop(self.pid, None):
            self.channel.send(RequestKind.DROP, encode_field(EnvdTag.HANDLE, self.pid))


async def dial(envd: Envd, port: int) -> tuple[ServerConnection, Listener]:
    """Connect to a server at a port of the sandbox. Raises GuestRefused where nothing listens."""
    if envd.stale_connections:
        # Left by a former gateway, or by the sandbox that this is a copy of.
        envd.stale_connections = False
        envd.send(RequestKind.DROP, encode_field(EnvdTag.HANDLE, 0))
    opened: list[tuple[ServerConnection, Listener]] = []

    def register(frame: Frame) -> None:
        (number,) = answers.unpack(PID, frame.payload, envd.name)
        if number in envd.connections:
            raise MalformedAnswer(f"the sandbox {envd.name} gave a connection's number twice")
        if len(envd.connections) >= CONNECTIONS_MAX:
            raise AnswerTooLong(f"the sandbox {envd.name} has too many connections")
        connection = ServerConnection(envd, number, (), "", "")
        envd.connections[number] = connection
        opened.append((connection, connection.listen()))

    dialing = asyncio.ensure_future(
        envd.request(
            RequestKind.DIAL, encode_field(EnvdTag.NUMBER, port), on_answer=register
        )
    )  # fmt: skip
    try:
        await asyncio.shield(dialing)
    except asyncio.CancelledError:
        # The caller left before the server answered.
        dialing.add_done_callback(lambda done: _discard(done, opened))
        raise
    return opened[0]


def _discard(
    done: asyncio.Future[list[bytes]], opened: list[tuple[ServerConnection, Listener]]
) -> None:
    if not done.cancelled():
        done.exception()
    for connection, _ in opened:
        connection.drop()
