"""The server of a stand-in: connections, and what the network between would do to them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import secrets
import ssl
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any

from harness.network.namespace import inside
from tests.stand_ins.behaviours import behaviour
from tests.stand_ins.service import Service
from tests.stand_ins.wire import LAST_CHUNK, TRAILERS, Response, chunk, head, read


class StandIn:
    """Serves a service on an address until it is closed."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.behaviour = service.behaviour
        self.port = 0
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._cuttable: Counter[str] = Counter()
        self._centuries = itertools.cycle((86400.0, 4102444800.0))

    async def open(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._server = await asyncio.start_server(self._connected, host, port, ssl=tls, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]
        self.service.domain += f":{self.port}"

    async def close(self) -> None:
        if self._server:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._connections.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
            writer.close()
        except (ConnectionError, TimeoutError):
            writer.close()
        except BaseException:
            writer.transport.abort()
            raise
        finally:
            self._connections.discard(task)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection stays open."""
        try:
            request = await read(reader)
        except ValueError as wrong:
            refusal = Response(400, str(wrong).encode(), {"connection": "close"})
            await _send(writer, head(refusal, self._date()) + refusal.body)
            return False
        if request is None:
            return False
        operation = self.service.operation(request)
        response = await self.service.answer(request)
        cut = self._cut(operation)
        if cut == "answer":
            return False
        if self.behaviour.headers_on in (operation, "any"):
            await asyncio.sleep(self.behaviour.headers_s)
        sent = head(response, self._date())
        if cut == "header":
            await _send(writer, sent[: len(sent) // 2])
            return False
        if self.behaviour.trickle_s:
            for byte in sent:
                await _send(writer, bytes([byte]))
                await asyncio.sleep(self.behaviour.trickle_s)
            sent = b""
        if response.stream is None and cut != "body" and not self.behaviour.body_s:
            await _send(writer, sent + response.body)
            return True
        await _send(writer, sent)
        if response.stream is None:
            await asyncio.sleep(self.behaviour.body_s)
        return await _send_body(writer, response, cut)

    def _cut(self, operation: str) -> str:
        """Where this response breaks off, if it does."""
        if self.behaviour.cut_on not in (operation, "any"):
            return ""
        self._cuttable[operation] += 1
        return self.behaviour.cut if self._cuttable[operation] > self.behaviour.cut_after else ""

    def _date(self) -> str:
        if self.behaviour.jumping_clock:
            return formatdate(next(self._centuries), usegmt=True)
        return formatdate(usegmt=True)


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def _send_body(writer: asyncio.StreamWriter, response: Response, cut: str) -> bool:
    """Send a body after its headers; whether the connection stays open."""
    if response.stream is None:
        half = len(response.body) // 2 if cut == "body" else len(response.body)
        await _send(writer, response.body[:half])
        return cut != "body"
    async for part in response.stream:
        await _send(writer, chunk(part))
        if cut in ("stream", "body"):
            return False
    await _send(writer, LAST_CHUNK if response.ends else TRAILERS)
    while not response.ends:
        await _send(
            writer, b"".join(b"X-%d: more\r\n" % random.getrandbits(48) for _ in range(999))
        )
    return True


@dataclass(frozen=True)
class Standing:
    """A stand-in that serves."""

    address: str
    key: str
    service: Service

    @property
    def alive(self) -> list[str]:
        """The ids of the sandboxes that exist there."""
        return [sandbox.id for sandbox in self.service.alive]


@contextlib.contextmanager
def standing_in(
    names: str = "",
    *,
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
    network: Path | None = None,
    **settings: Any,
) -> Iterator[Standing]:
    """A stand-in in a thread of this process, until the block ends; in a network namespace, if one
    is given. `settings` are those of `Behaviour`."""
    with tempfile.TemporaryDirectory(prefix="stand-in-") as directory:
        key = f"e2b_{secrets.token_hex(20)}"
        service = Service(behaviour(names, **settings), key, Path(directory))
        stand_in = StandIn(service)
        loop = asyncio.new_event_loop()

        def serve() -> None:
            with inside(network) if network else contextlib.nullcontext():
                loop.run_forever()

        thread = threading.Thread(target=serve, name="stand-in", daemon=True)
        thread.start()

        def call(work: Any) -> None:
            asyncio.run_coroutine_threadsafe(work, loop).result(60)

        try:
            call(stand_in.open(host, 0, tls))
            scheme = "https" if tls else "http"
            yield Standing(f"{scheme}://{host}:{stand_in.port}", key, service)
        finally:
            call(stand_in.close())
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
