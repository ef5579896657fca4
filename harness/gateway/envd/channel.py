"""The channel to envd: requests with their answers, and frames that envd sends by itself.

A guest may be hostile. What it sends is decoded by harness/guest/answers.py and kept up to the
limits of budget.py; a guest that passes one loses its channel, and its callers get the reason.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Any, Self

from harness.errors import (
    AnswerTooLong,
    BrokenGuest,
    GuestDied,
    GuestRefused,
    GuestTimeout,
    MalformedAnswer,
    SandboxError,
)
from harness.gateway.envd.budget import (
    ANSWER_MAX,
    ITEM_BYTES,
    NOISE_MAX,
    QUEUE_MAX,
    WRITE_MAX,
    Budget,
)
from harness.gateway.envd.limits import refusal
from harness.gateway.envd.wire import ENTRY, RequestKind, encode_field
from harness.guest import answers
from harness.guest.protocol import REQUEST_MAX, Decoder, Frame, FrameKind, Tag, encode

log = logging.getLogger("coppice.gateway")
TIMEOUT_S = 30.0
PIECE = 60 * 1024
"""Bytes of a single read or write."""
FULL_S = 0.02
"""Seconds after which a write to a full buffer is tried again."""
FULL_MAX_S = 300.0
"""Seconds after which a buffer that stays full is given up."""
FRAMES_AT_ONCE, BYTES_AT_ONCE = 256, 1 << 20
"""Frames, and bytes, that are handled before other sandboxes have their turn."""


class _Pending:
    """A request that has not been answered yet."""

    def __init__(
        self,
        name: str,
        on_answer: Callable[[Frame], None] | None,
        on_entry: Callable[[bytes], None] | None,
    ) -> None:
        self.future: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
        self._name = name
        self._on_answer = on_answer
        self._on_entry = on_entry
        self._entries: list[bytes] = []
        self._kept = 0

    def take(self, frame: Frame) -> None:
        """Handle a frame with the request's id; what that raises, the caller gets."""
        if self.future.done():
            return
        try:
            self._take(frame)
        except SandboxError as error:
            self._entries.clear()
            # Its traceback would lead to this request, which leads to its error.
            self.future.set_exception(error.with_traceback(None))

    def _take(self, frame: Frame) -> None:
        if frame.kind == ENTRY and self._on_entry:
            self._on_entry(frame.payload)
        elif frame.kind == ENTRY:
            self._kept += len(frame.payload) + ITEM_BYTES
            if self._kept > ANSWER_MAX:
                raise AnswerTooLong(
                    f"an answer of the sandbox {self._name} exceeds {ANSWER_MAX >> 20} MiB"
                )
            self._entries.append(frame.payload)
        elif frame.kind == FrameKind.ERROR:
            raise answers.refusal(frame, self._name)
        else:
            self._entries.append(answers.expect(frame, FrameKind.ANSWER, self._name))
            if self._on_answer:
                self._on_answer(frame)
            self.future.set_result(self._entries)


class EnvdChannel(asyncio.Protocol):
    """A sandbox's channel, on the event loop; calls raise GuestDied once it is closed, or the
    BrokenGuest for which it was closed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.gone = False
        self._broken: BrokenGuest | None = None
        self._decoder = Decoder()
        self._turn_bytes = 0
        self._pending: dict[int, _Pending] = {}
        self._last_id = 0
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self.queued = Budget(QUEUE_MAX, f"the output that waits of the sandbox {name}")

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
        transport.set_write_buffer_limits(high=WRITE_MAX // 4)

    def data_received(self, data: bytes) -> None:
        self._turn_bytes += len(data)
        self._take_turn(data)

    def _take_turn(self, data: bytes = b"") -> None:
        """Handle the next frames, and leave the rest until others have had their turn."""
        try:
            rest = self._handle(data)
        except BrokenGuest as error:
            self.fail(error)
            return
        if self.gone or not (rest or self._turn_bytes > BYTES_AT_ONCE):
            return
        assert self._transport
        self._transport.pause_reading()
        asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._turn_bytes = 0
        if not self.gone:
            assert self._transport
            self._transport.resume_reading()
            self._take_turn()

    def _handle(self, data: bytes) -> bool:
        """Handle frames; whether some may be left."""
        for _ in range(FRAMES_AT_ONCE):
            frame = self._decoder.next_frame(data)
            data = b""
            if frame is None:
                if self._decoder.noise > NOISE_MAX:
                    raise MalformedAnswer(f"the sandbox {self.name} sends no frames")
                return False
            if not self.handle_event(frame) and (pending := self._pending.get(frame.id)):
                pending.take(frame)
            if self.gone:
                return False
        return True

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.gone = True
        self._writable.set()
        for pending in self._pending.values():
            if not pending.future.done():
                pending.future.set_exception(self.ended())

    def fail(self, error: BrokenGuest) -> None:
        """End the channel of a guest that does not keep to the protocol."""
        if not self.gone:
            self._broken = error
            log.warning("channel ended", extra={"fields": {"guest": self.name, "why": str(error)}})
            self.connection_lost(error)
            self.close()

    @property
    def broken(self) -> bool:
        """Whether the channel was closed because the guest does not keep to the protocol."""
        return self._broken is not None

    def ended(self) -> SandboxError:
        """Why the channel is closed, as a new error."""
        if self._broken:
            return type(self._broken)(*self._broken.args)
        return GuestDied(f"the sandbox {self.name} is gone")

    def close(self) -> None:
        if self._transport:
            self._transport.abort()

    # Requests.

    def send(self, kind: RequestKind, payload: bytes) -> int:
        """Send a request and ignore its answer; its id, or 0 when the channel is closed."""
        if self.gone or not self._transport:
            return 0
        if self._transport.get_write_buffer_size() > WRITE_MAX:
            self.fail(AnswerTooLong(f"the sandbox {self.name} does not read what is sent to it"))
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
        on_entry: Callable[[bytes], None] | None = None,
    ) -> list[bytes]:
        """Send a request; the payloads of its entries, if any, and last that of its answer.

        Raises GuestRefused, GuestDied, GuestTimeout and BrokenGuest. `on_answer` is called before
        any later frame is handled. `on_entry` takes each entry; without it at most ANSWER_MAX bytes
        of them are kept. What these two raise, the caller gets.
        """
        if len(payload) > REQUEST_MAX:
            raise refusal(f"a request of {len(payload)} bytes", errno.E2BIG)
        pending = _Pending(self.name, on_answer, on_entry)
        id = 0
        try:
            async with asyncio.timeout(timeout_s):
                while not self.gone and not self._writable.is_set():
                    await self._writable.wait()
                id = self.send(kind, payload)
                if not id:
                    raise self.ended()
                self._pending[id] = pending
                return await pending.future
        except TimeoutError as error:
            raise GuestTimeout(f"the sandbox {self.name} did not answer in time") from error
        finally:
            self._pending.pop(id, None)
            # The error's traceback leads here: a cycle would keep callers' data until it is found.
            del pending

    async def send_data(self, kind: RequestKind, target: bytes, data: bytes) -> None:
        """Send data in pieces; waits while the buffer of the target is full."""
        loop = asyncio.get_running_loop()
        for at in range(0, max(len(data), 1), PIECE):
            payload = target + encode_field(Tag.DATA, data[at : at + PIECE])
            give_up = loop.time() + FULL_MAX_S
            while True:
                try:
                    await self.request(kind, payload)
                    break
                except GuestRefused as error:
                    if error.number != errno.EAGAIN:
                        raise
                    if loop.time() > give_up:
                        raise GuestTimeout(
                            f"nothing in the sandbox {self.name} has read its input for "
                            f"{FULL_MAX_S:g} seconds"
                        ) from error
                    await asyncio.sleep(FULL_S)
