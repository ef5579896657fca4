"""Waits until a host is at rest, and measures what an idle fleet does then.

The host is observed in windows. It is at rest after a window in which its available memory changed
by less than a bound, so the wait has no fixed length. The CPU time and context switches of that
window are those of the idle fleet.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.measure import host_memory
from harness.measure.host_memory import HostMemory
from harness.measure.system import System

WINDOW_S = 10.0
BOUND_BYTES = 8 << 20
"""By how much available memory may change in a window at rest, for any fleet..."""
BOUND_SHARE = 0.01
"""... or this share of the memory that the fleet uses, if that is more."""
LIMIT_S = 180.0
SCANNER = "ksmd"
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Activity:
    """Totals of processes: CPU seconds, and context switches of their threads."""

    cpu_s: float
    switches: int


@dataclass(frozen=True)
class Window:
    """One window of observation."""

    seconds: float
    before: HostMemory
    after: HostMemory
    fleet: Activity
    scanner_cpu_s: float

    @property
    def moved(self) -> int:
        """By how many bytes available memory changed, in either direction."""
        return abs(self.after.to_be_had - self.before.to_be_had)


def activity(pids: Sequence[int], system: System | None = None) -> Activity:
    """The totals of these processes, all threads together; 0 for those that have ended."""
    if sys.platform.startswith("freebsd") and system is None:
        return _by_psutil(pids)
    system = system or System()
    ticks = switches = 0
    for pid in pids:
        fields = (system.read(f"/proc/{pid}/stat") or "").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12]) if len(fields) > 12 else 0
        for path in system.glob(f"/proc/{pid}/task/[0-9]*/status"):
            text = system.read(path) or ""
            switches += sum(int(count) for count in re.findall(r"ctxt_switches:\s+(\d+)", text))
    return Activity(ticks / _TICKS_PER_S, switches)


def _by_psutil(pids: Sequence[int]) -> Activity:
    """`activity` on systems without /proc."""
    import psutil

    cpu, switches = 0.0, 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            times, switched = process.cpu_times(), process.num_ctx_switches()
            cpu += times.user + times.system
            switches += switched.voluntary + switched.involuntary
    return Activity(cpu, switches)


def scanner_pid(system: System | None = None) -> int | None:
    """The PID of the kernel thread that merges pages (ksmd), or None."""
    system = system or System()
    for path in system.glob("/proc/[0-9]*/comm"):
        if system.read(path) == SCANNER:
            return int(path.split("/")[2])
    return None


def scanner_cpu_s() -> float:
    """CPU seconds that the kernel thread which merges pages has used since the host started."""
    scanner = scanner_pid()
    return activity([scanner] if scanner else []).cpu_s


def watch(pids: Sequence[int], seconds: float = WINDOW_S) -> Window:
    """Observe these processes and the host for `seconds`.

    Reading a large fleet takes a while. Both readings go in the same order, so that every process
    is observed for the same time.
    """
    scanner = scanner_pid()

    def reading() -> tuple[float, Activity, Activity, HostMemory]:
        began = time.monotonic()
        return (
            began,
            activity(pids),
            activity([scanner] if scanner else []),
            host_memory.read(),
        )

    began, fleet, scanned, host = reading()
    time.sleep(seconds)
    ended, fleet_after, scanned_after, host_after = reading()
    return Window(
        ended - began,
        host,
        host_after,
        Activity(fleet_after.cpu_s - fleet.cpu_s, fleet_after.switches - fleet.switches),
        scanned_after.cpu_s - scanned.cpu_s,
    )


def bound(taken: int) -> float:
    """Bytes by which available memory may change at rest; `taken` is the fleet's memory."""
    return max(BOUND_BYTES, BOUND_SHARE * taken)


@dataclass(frozen=True)
class Rest:
    """Every window in order. If `reached`, the host was at rest in the last."""

    windows: Sequence[Window]
    reached: bool

    @property
    def seconds(self) -> float:
        return sum(window.seconds for window in self.windows)


def settle(
    before: HostMemory,
    window: Callable[[], Window],
    ready: Callable[[], bool] = lambda: True,
    limit_s: float = LIMIT_S,
) -> Rest:
    """Observe windows until the host is at rest, or for `limit_s` seconds.

    `before` is the host's memory without the fleet. A quiet window counts only when `ready`
    returns True (when a scanner has passed over all pages, for example).
    """
    windows: list[Window] = []
    while sum(done.seconds for done in windows) < limit_s:
        windows.append(window())
        newest = windows[-1]
        taken = before.to_be_had - newest.after.to_be_had
        if newest.moved <= bound(taken) and ready():
            return Rest(windows, True)
    return Rest(windows, False)
