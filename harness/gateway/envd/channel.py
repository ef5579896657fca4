"""The channel to envd: requests with their answers, and frames that envd sends by itself."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable
from typing import Any, Self

from harness.errors import GuestDied, GuestRefused
from harness.gateway.envd.limits import refusal
from harness.gateway.envd.wire import ENTRY, RequestKind, encode_field
from harness.guest.protocol import REQUEST_MAX, Decoder, Frame, FrameKind, Tag, encode

TIMEOUT_S = 30.0
PIECE = 60 * 1024
"""Bytes of a single read or write."""
FULL_S = 0.02
"""Seconds after which a write to a full buffer is tried again."""


class EnvdChannel(asyncio.Protocol):
    """A sandbox's channel, on the event loop; calls raise GuestDied once it is closed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.gone = False
        self._decoder = Decoder()
        self._answers: dict[int, Callable[[Frame], None]] = {}
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._last_id = 0
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    @classmethod
    async def connect(cls, channel: socket.socket, name: str) -> Self:
        """Use a socket; the caller still closes it."""
        loop = asyncio.get_running_loop()
        own = channel.dup()
        own.setblocking(False)
        _, envd = await loop.create_unix_connection(lambda: cls(name), sock=own)
        return envd

    def handle_event(self, frame: Frame) -> bool:
        """For subclasses: handle a frame that does not answer a request; False for others."""
        return False

    # asyncio.Protocol.

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=1 << 20)

    def data_received(self, data: bytes) -> None:
        for frame in self._decoder.feed(data):
            if not self.handle_event(frame) and (answer := self._answers.get(frame.id)):
                answer(frame)

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

    def _died(self) -> GuestDied:
        return GuestDied(f"the sandbox {self.name} is gone")

    def close(self) -> None:
        if self._transport:
            self._transport.abort()

    # Requests.

    def send(self, kind: RequestKind, payload: bytes) -> int:
        """Send a request and ignore its answer; its id, or 0 when the channel is closed."""
        if self.gone or not self._transport:
            return 0
        self._last_id = self._last_id % 0xFFFFFFFF + 1
        self._transport.write(encode(kind, self._last_id, payload))
        return self._last_id

    async def request(
        self,
        kind: RequestKind,
        payload: bytes = b"",
        timeout_s: float = TIMEOUT_S,
        on_answer: Callable[[Frame], None] | None = None,
    ) -> list[bytes]:
        """Send a request; the payloads of its entries, if any, and last that of its answer.

        Raises GuestRefused, GuestDied and TimeoutError. `on_answer` is called before any later
        frame is handled.
        """
        if len(payload) > REQUEST_MAX:
            raise refusal(f"a request of {len(payload)} bytes", errno.E2BIG)
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

        id = self.send(kind, payload)
        if not id:
            raise self._died()
        self._answers[id], self._waiting[id] = take, future
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        finally:
            self._answers.pop(id, None)
            self._waiting.pop(id, None)

    async def send_data(self, kind: RequestKind, target: bytes, data: bytes) -> None:
        """Send data in pieces; waits while the buffer of the target is full."""
        for at in range(0, max(len(data), 1), PIECE):
            payload = target + encode_field(Tag.DATA, data[at : at + PIECE])
            while True:
                try:
                    await self.request(kind, payload)
                    break
                except GuestRefused as error:
                    if error.number != errno.EAGAIN:
                        raise
                    await asyncio.sleep(FULL_S)
