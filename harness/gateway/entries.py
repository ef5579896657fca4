"""A sandbox as the gateway has it in memory."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.gateway.envd import Envd
from harness.gateway.fleet import Live
from harness.gateway.store import Record

LOG_LINES = 1000
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
