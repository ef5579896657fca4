"""A fleet of sandboxes that do nothing, to measure the gateway itself beside real sandboxes.

Their processes end at once and print their argument, or the product that it asks for, which is how
clients know a process that ran from one that did not; the interpreter answers cells with a product,
or with 2.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import GuestRefused, SandboxError
from harness.gateway.envd.client import Envd
from harness.gateway.envd.interpreter import ARGV, DEFAULT, LABEL
from harness.gateway.envd.process import Listener, ProcessEvent, RunningProcess
from harness.gateway.envd.wire import RequestKind
from harness.gateway.fleets.templates import NAMES

_PRODUCT = re.compile(r"(\d{1,18})n?\*(\d{1,18})")


def _computed(text: str) -> str | None:
    """The product that a program asks for; None if it asks for none."""
    asked = _PRODUCT.search(text)
    return str(int(asked[1]) * int(asked[2])) if asked else None


def _cell_output(text: str) -> bytes:
    lines: Sequence[Mapping[str, Any]] = (
        {"type": "number_of_executions", "execution_count": 1},
        {"type": "result", "text": text, "is_main_result": True},
        {"type": "end_of_execution"},
    )
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


class NoopEnvd(Envd):
    """Answers without a guest."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._pids = iter(range(100, 1 << 30))
        self.processes[1] = RunningProcess(self, 1, ARGV, "/", f"{LABEL} {DEFAULT} python")

    def send(self, kind: RequestKind, payload: bytes) -> int:
        return 0

    async def request(self, kind: RequestKind, *rest: Any, **more: Any) -> list[bytes]:
        raise GuestRefused("sandboxes of the substrate noop have no files", 38)

    async def sync(self) -> None:
        """No guest: nothing to ask."""

    async def stats(self) -> str:
        return ""

    async def start(self, argv: Sequence[str], **more: Any) -> tuple[RunningProcess, Listener]:
        process = RunningProcess(self, next(self._pids), argv, "", "")
        listener = process.listen()
        output = (_computed(argv[-1]) or argv[-1].removeprefix("echo ")) + "\n"
        listener.put(ProcessEvent("stdout", output.encode()))
        process.ended = ProcessEvent("exit")
        listener.put(process.ended)
        return process, listener

    async def input(self, pid: int, data: bytes) -> None:
        asked = json.loads(data)
        begin = {"type": "begin", "cell": asked["cell"]}
        output = _cell_output(_computed(str(asked.get("code"))) or "2")
        lines = json.dumps(begin).encode() + b"\n" + output
        self.processes[1].publish(ProcessEvent("stdout", lines))


class NoopSandbox:
    """Implements `harness.gateway.fleets.protocol.RunningSandbox`."""

    def __init__(self) -> None:
        self.id = secrets.token_hex(6)
        self.pid = 0
        self._envd = NoopEnvd(self.id)

    @property
    def location(self) -> Mapping[str, Any]:
        return {}

    def alive(self) -> bool:
        return not self._envd.gone

    async def connect(self) -> Envd:
        return self._envd

    def destroy(self) -> None:
        self._envd.gone = True


class NoopFleet:
    """Implements `harness.gateway.fleets.protocol.SandboxFleet`."""

    memory_mib = 1
    disk_mib = 1
    saves_memory = True
    saving_limits = "the substrate noop accepts saves with memory only: leave out `memory: false`"

    def templates(self) -> Sequence[str]:
        return NAMES

    def require_room(self, count: int) -> None:
        """They have no disks."""

    async def take(self, template: str, key_id: str, timeout_s: float) -> NoopSandbox:
        return NoopSandbox()

    def stop(self, sandbox: Any) -> None:
        """Nothing runs."""

    def save(self, sandbox: Any, directory: Path) -> None:
        directory.mkdir()

    def run_on(self, sandbox: Any) -> None:
        """Nothing runs."""

    def resume(self, directory: Path, names: Mapping[str, Any] | None) -> NoopSandbox:
        return NoopSandbox()

    def adopt(self, location: Mapping[str, Any]) -> NoopSandbox:
        raise SandboxError("sandboxes of the substrate noop end with their gateway")

    def sweep(self) -> int:
        return 0

    def set_network_rules(self, sandbox: Any, rules: Mapping[str, Any]) -> None:
        """No network: nothing to do."""

    def ready(self) -> Mapping[str, int]:
        return {}
