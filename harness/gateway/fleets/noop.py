"""The fleet that makes nothing: what the gateway itself costs, shown beside real sandboxes.

Its processes end at once and say what they were given; its interpreter answers every cell with 2.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import GuestRefused, SandboxError
from harness.gateway.data_plane.interpreter import DEFAULT, MARK, WORDS
from harness.gateway.envd.client import Envd, Listener, RunningProcess, Said
from harness.gateway.envd.wire import Do
from harness.gateway.fleets.templates import NAMES
from harness.measure.record import Image

_CELL = b"".join(
    json.dumps(line).encode() + b"\n"
    for line in (
        {"type": "number_of_executions", "execution_count": 1},
        {"type": "result", "text": "2", "is_main_result": True},
        {"type": "end_of_execution"},
    )
)


class NoopEnvd(Envd):
    """Answers for nobody."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._pids = iter(range(100, 1 << 30))
        label = f"{MARK} {DEFAULT} python"
        self.processes[1] = RunningProcess(self, 1, WORDS, "/", label)

    def tell(self, kind: Do, payload: bytes) -> int:
        return 0

    async def ask(self, kind: Do, *rest: Any, **more: Any) -> list[bytes]:
        raise GuestRefused("a sandbox that is nothing has no files", 38)

    async def sync(self) -> None:
        """There is nothing to learn."""

    async def stats(self) -> str:
        return ""

    async def start(self, words: Sequence[str], **more: Any) -> tuple[RunningProcess, Listener]:
        process = RunningProcess(self, next(self._pids), words, "", "")
        listener = process.listen()
        said = words[-1].removeprefix("echo ") + "\n"
        listener.put(Said("stdout", said.encode()))
        process.ended = Said("exit")
        listener.put(process.ended)
        return process, listener

    async def input(self, pid: int, data: bytes) -> None:
        begun = {"type": "begin", "cell": json.loads(data)["cell"]}
        self.processes[1].hear(Said("stdout", json.dumps(begun).encode() + b"\n" + _CELL))


class NoopLive:
    """Implements `harness.gateway.fleets.microvm_fleet.Live`."""

    def __init__(self) -> None:
        self.id = secrets.token_hex(6)
        self.pid = 0
        self._envd = NoopEnvd(self.id)

    @property
    def about(self) -> Mapping[str, Any]:
        return {}

    def alive(self) -> bool:
        return not self._envd.gone

    async def connect(self) -> Envd:
        return self._envd

    def destroy(self) -> None:
        self._envd.gone = True


class NoopFleet:
    """Implements `harness.gateway.fleets.microvm_fleet.Fleet`."""

    memory_mib = 1
    disk_mib = 1
    keeps_memory = True
    cannot = "nothing is kept whole: leave out `memory: false`"
    images: Sequence[Image] = ()
    accelerator = None

    def templates(self) -> Sequence[str]:
        return NAMES

    async def take(self, template: str, timeout_s: float) -> NoopLive:
        return NoopLive()

    def save(self, live: Any, directory: Path, ends: bool) -> None:
        directory.mkdir()
        if ends:
            live.destroy()

    def resume(self, directory: Path, same: Mapping[str, Any] | None) -> NoopLive:
        return NoopLive()

    def adopt(self, about: Mapping[str, Any]) -> NoopLive:
        raise SandboxError("nothing is left of a sandbox that is nothing")

    def sweep(self) -> int:
        return 0

    def police(self, live: Any, rules: Mapping[str, Any]) -> None:
        """There is nobody to obey."""

    def ready(self) -> Mapping[str, int]:
        return {}
