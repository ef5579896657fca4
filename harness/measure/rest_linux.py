"""What a fleet does while nobody asks anything of it, and when its host has come to rest.

The host is watched window by window. It is at rest after a window in which its available memory
moved by less than a bound, so waiting has no fixed length; the CPU time and the switches of that
window are those of the fleet at rest.
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
"""How far available memory may move in a window of a host at rest, whatever the fleet holds..."""
BOUND_SHARE = 0.01
"""... or this share of what the fleet has taken, where that is more."""
LIMIT_S = 180.0
SCANNER = "ksmd"
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Activity:
    """Counters of processes so far: CPU seconds, and how often their threads were switched."""

    cpu_s: float
    switches: int


@dataclass(frozen=True)
class Window:
    """One stretch of watching. `moved` is how far available memory went, in bytes, either way."""

    seconds: float
    before: HostMemory
    after: HostMemory
    fleet: Activity
    scanner_cpu_s: float

    @property
    def moved(self) -> int:
        return abs(self.after.to_be_had - self.before.to_be_had)


def activity(pids: Sequence[int], system: System | None = None) -> Activity:
    """What these processes have done so far, all their threads together; those gone count 0."""
    if sys.platform.startswith("freebsd") and system is None:
        return _by_psutil(pids)
    system = system or System()
    ticks = switches = 0
    for pid in pids:
        fields = (system.read(f"/proc/{pid}/stat") or "").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12]) if len(fields) > 12 else 0
        for path in system.glob(f"/proc/{pid}/task/[0-9]*/status"):
            text = system.read(path) or ""
            switches += sum(int(one) for one in re.findall(r"ctxt_switches:\s+(\d+)", text))
    return Activity(ticks / _TICKS_PER_S, switches)


def _by_psutil(pids: Sequence[int]) -> Activity:
    """Where there is no /proc."""
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
    """The kernel thread that looks for equal pages."""
    system = system or System()
    for path in system.glob("/proc/[0-9]*/comm"):
        if system.read(path) == SCANNER:
            return int(path.split("/")[2])
    return None


def watch(pids: Sequence[int], seconds: float = WINDOW_S) -> Window:
    """Let the fleet be for so long, and see what it did.

    Reading a large fleet takes a while: both readings go in the same order, so that each process
    is seen over the same time, from one reading to the next.
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
    """Bytes that available memory may move in a window at rest; `taken` is the fleet's so far."""
    return max(BOUND_BYTES, BOUND_SHARE * taken)


@dataclass(frozen=True)
class Rest:
    """How waiting went: every window in order; the last is of a host at rest if `reached`."""

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
    """Watch window after window until the host is at rest, or the limit is over.

    `before` is the host without the fleet. While `ready` says no (a scanner has not been round
    yet, say) a quiet window is no rest.
    """
    windows: list[Window] = []
    while sum(one.seconds for one in windows) < limit_s:
        windows.append(window())
        newest = windows[-1]
        taken = before.to_be_had - newest.after.to_be_had
        if newest.moved <= bound(taken) and ready():
            return Rest(windows, True)
    return Rest(windows, False)
