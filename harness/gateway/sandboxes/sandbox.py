"""A sandbox of an API key, in the gateway's memory."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.gateway.envd.client import Envd
from harness.gateway.fleets.protocol import RunningSandbox
from harness.gateway.sandboxes.store import StoredSandbox

LOG_LINES = 1000
BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()


@dataclass
class Sandbox:
    """`stored` is what survives the gateway; `running` and `envd` are None while it is paused.
    `lock` is held during changes of state."""

    stored: StoredSandbox
    running: RunningSandbox | None = None
    envd: Envd | None = None
    deadline: float = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    logs: deque[Mapping[str, Any]] = field(default_factory=lambda: deque(maxlen=LOG_LINES))
    usage: deque[Mapping[str, Any]] = field(default_factory=lambda: deque(maxlen=LOG_LINES))
    cpu_ticks: tuple[int, int] = (0, 0)
    pause_again: float = 0
    """When to try again to pause a sandbox whose time is up and that could not be saved."""
    processes_known: bool = False
    """Whether envd was asked which processes run."""
    watchers: dict[str, object] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.stored.id

    @property
    def end_time(self) -> float:
        """When its time is up, in UTC seconds of the host's present clock."""
        if self.stored.state != "running":
            return self.stored.ends
        return time.time() + self.deadline - now()

    async def learn_processes(self) -> None:
        """Ask envd for the processes that were started before this gateway, or this copy."""
        if self.envd and not self.processes_known:
            await self.envd.sync()
            self.processes_known = True

    def log(self, message: str, **fields: Any) -> None:
        """Add a line to the log that the API returns."""
        line = {"at": time.time(), "level": "info", "message": message, "fields": fields}
        self.logs.append(line)


def now() -> float:
    """The time in seconds, of a clock that does not jump: time limits count by it."""
    return time.monotonic()


def until(deadline: float) -> Mapping[str, Any]:
    """The fields of a stored sandbox whose time is up then, by `now`."""
    return {"deadline": deadline, "boot": BOOT_ID, "ends": time.time() + deadline - now()}


def restored_deadline(stored: StoredSandbox) -> float:
    """When the time of a stored sandbox is up. After a reboot only the wall clock knows how much
    time has passed; it may have been set back, so the remainder is at most the time limit."""
    if stored.boot == BOOT_ID:
        return stored.deadline
    return now() + min(max(stored.ends - time.time(), 0), stored.timeout_s)
