"""A fleet whose sandboxes are programs that break the protocol; a template names the way."""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from harness.gateway.envd.client import Envd
from harness.gateway.fleets.noop import NoopFleet
from harness.gateway.hostile.peer import BEHAVIOURS

CHANNEL_BYTES = 1 << 20
"""The buffers of a real sandbox's channel."""


class HostileSandbox:
    """Implements `harness.gateway.fleets.protocol.RunningSandbox`."""

    def __init__(self, behaviour: str) -> None:
        self.id = secrets.token_hex(6)
        self._channel, theirs = socket.socketpair()
        for end in (self._channel, theirs):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, CHANNEL_BYTES)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "harness.gateway.hostile.peer", behaviour],
                stdin=theirs.fileno(),
            )
        self.pid = self._process.pid

    @property
    def location(self) -> Mapping[str, Any]:
        return {}

    def alive(self) -> bool:
        return self._process.poll() is None

    async def connect(self) -> Envd:
        envd = await Envd.connect(self._channel, self.id)
        await envd.stats()  # its program has started
        return envd

    def destroy(self) -> None:
        self._process.kill()
        self._process.wait()
        self._channel.close()


class HostileFleet(NoopFleet):
    """Implements `harness.gateway.fleets.protocol.SandboxFleet`."""

    def templates(self) -> Sequence[str]:
        return tuple(BEHAVIOURS)

    async def take(self, template: str, key_id: str, timeout_s: float) -> Any:
        return HostileSandbox(template)
