"""The processor time that a VMM had, and how long it waited for a processor."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessorTime:
    """Seconds, over all threads of a process; those of its guest too."""

    used: float
    waited: float

    @property
    def wanted(self) -> float:
        return self.used + self.waited


def of(pid: int) -> ProcessorTime | None:
    """None where the kernel does not report it."""
    used = waited = 0.0
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, ValueError):
            ran, stood, _ = task.read_text(encoding="utf-8").split()
            used, waited = used + int(ran) / 1e9, waited + int(stood) / 1e9
    return ProcessorTime(used, waited) if used + waited else None
