"""A sandbox as the gateway has it in memory."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.gateway.envd.client import Envd
from harness.gateway.fleets.microvm_fleet import Live
from harness.gateway.sandboxes.store import Record

LOG_LINES = 1000
BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
ABOUT = ("identity", "pid", "born", "came_from")
"""What of a record tells where its sandbox is."""


@dataclass
class Entry:
    """A sandbox in memory; `lock` is held while it changes its state."""

    record: Record
    live: Live | None = None
    envd: Envd | None = None
    deadline: float = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    logs: deque[Mapping[str, Any]] = field(default_factory=lambda: deque(maxlen=LOG_LINES))
    usage: deque[Mapping[str, Any]] = field(default_factory=lambda: deque(maxlen=LOG_LINES))
    ticks: tuple[int, int] = (0, 0)
    synced: bool = False
    watchers: dict[str, object] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def ends(self) -> float:
        """When its time is up, in UTC seconds as this host's clock has them now."""
        if self.record.state != "running":
            return self.record.ends
        return time.time() + self.deadline - now()

    def end_at(self, deadline: float) -> None:
        """Let its time be up then, and note that."""
        self.deadline = self.record.deadline = deadline
        self.record.boot = BOOT
        self.record.ends = time.time() + deadline - now()

    def say(self, message: str, **fields: Any) -> None:
        line = {"at": time.time(), "level": "info", "message": message, "fields": fields}
        self.logs.append(line)


def locate(record: Record, live: Live) -> None:
    """Note where a sandbox is."""
    for name, value in live.about.items():
        setattr(record, name, value)


def now() -> float:
    """Of a clock that does not jump: a sandbox's time is up when so much has passed."""
    return time.monotonic()


def deadline_of(record: Record) -> float:
    """When a recorded sandbox's time is up. After a reboot only the wall clock tells how much has
    passed, and it is not believed to have gone back."""
    if record.boot == BOOT:
        return record.deadline
    return now() + min(max(record.ends - time.time(), 0), record.timeout_s)
