"""uvicorn's server on connections that are accepted within limits."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from harness import interrupts
from harness.gateway.http.connections import Acceptor, Lease, Leases
from harness.gateway.http.limits import GRACE_S, ConnectionLimits
from harness.gateway.http.protocol import BoundedHttp, Successor


class HttpServer(uvicorn.Server):
    """Serves on `listener`. `upgrade` makes the protocol of a connection that becomes a WebSocket,
    from its lease and the set of the server's connections.

    It ends on SIGHUP too, and returns from `run` where uvicorn would raise the signal again: by
    then the gateway's own clean-up has not run yet. `ended_by` is the signal.
    """

    ended_by: int | None = None

    def __init__(
        self,
        config: uvicorn.Config,
        listener: socket.socket,
        limits: ConnectionLimits,
        upgrade: Callable[[Lease, set[Any]], Successor],
    ) -> None:
        super().__init__(config)
        self._listener = listener
        self._limits = limits
        self._upgrade = upgrade

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # as uvicorn: signals are the main thread's
            return
        before = {
            number: signal.getsignal(number)
            for number in interrupts.TERMINATION
            if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN
        }
        for number in before:
            signal.signal(number, self.handle_exit)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def _wait_tasks_to_complete(self) -> None:
        """Give requests some time. Then they end as if their clients had left: a cell that runs on
        must not keep the gateway from its end, and is no error of the gateway."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await super()._wait_tasks_to_complete()
        connections: set[Any] = self.server_state.connections
        for connection in list(connections):
            connection.abort()
        await asyncio.sleep(0)  # now the connections are lost
        for task in list(self.server_state.tasks):
            task.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if interrupts.requests.note(sig):
            self.ended_by = interrupts.requests.first
            super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        leases = Leases(self._limits)
        acceptor: Any = Acceptor(self._listener, leases, self._new_protocol, self.config.ssl)
        self.servers = [acceptor]
        self.started = True

    def _new_protocol(self, lease: Lease) -> asyncio.Protocol:
        open_connections: set[Any] = self.server_state.connections
        return BoundedHttp(
            lease,
            lambda lease: self._upgrade(lease, open_connections),
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
