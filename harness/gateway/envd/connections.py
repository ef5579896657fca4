"""Connections to servers that run in a sandbox: made by envd, over the line that all else uses."""

from __future__ import annotations

import asyncio
import struct

from harness.gateway.envd.client import Envd, Listener, RunningProcess
from harness.gateway.envd.wire import Do, Name, field_of
from harness.guest.protocol import Frame


class Link(RunningProcess):
    """What the server says is its stdout, its end an exit whose code is an errno."""

    def flow(self, on: bool) -> None:
        self.envd.tell(Do.LET if on else Do.HOLD, field_of(Name.HANDLE, self.pid))

    async def send(self, data: bytes) -> None:
        """Raises GuestRefused (EPIPE) when the server takes no more."""
        await self.envd.feed(Do.SEND, field_of(Name.HANDLE, self.pid), data)

    def drop(self) -> None:
        """Close it; safe to call twice."""
        if self.envd.links.pop(self.pid, None):
            self.envd.tell(Do.DROP, field_of(Name.HANDLE, self.pid))


async def dial(envd: Envd, port: int) -> tuple[Link, Listener]:
    """Connect to a server at a port of the sandbox. GuestRefused where none listens."""
    if not envd.dialed:
        # Those of a former gateway, or of who this sandbox is a copy of, are nobody's.
        envd.dialed = True
        envd.tell(Do.DROP, field_of(Name.HANDLE, 0))
    made: list[tuple[Link, Listener]] = []

    def note(frame: Frame) -> None:
        (number,) = struct.unpack("<I", frame.payload)
        link = Link(envd, number, (), "", "")
        envd.links[number] = link
        made.append((link, link.listen()))

    asking = asyncio.ensure_future(
        envd.ask(Do.DIAL, field_of(Name.NUMBER, port), on_answer=note)
    )  # fmt: skip
    try:
        await asyncio.shield(asking)
    except asyncio.CancelledError:
        # Who asked is gone before the server has answered.
        asking.add_done_callback(lambda done: _discard(done, made))
        raise
    return made[0]


def _discard(done: asyncio.Future[list[bytes]], made: list[tuple[Link, Listener]]) -> None:
    if not done.cancelled():
        done.exception()
    for link, _ in made:
        link.drop()
