"""uvicorn's server on connections that are accepted within limits."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from harness.gateway.http.connections import Acceptor, Lease, Leases
from harness.gateway.http.limits import ConnectionLimits
from harness.gateway.http.protocol import BoundedHttp, Successor


class HttpServer(uvicorn.Server):
    """Serves on `listener`. `upgrade` makes the protocol of a connection that becomes a WebSocket,
    from its lease and the set of the server's connections."""

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
