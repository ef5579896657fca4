"""Judges whether a run was disturbed, from the machine's state before and after.

A suspect record keeps its samples and states the reasons for doubt. A run without samples failed.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import psutil

from harness.measure.machine import settings
from harness.measure.record import NOT_OFFERED, Facts, Git, Series, Validity

STEAL_SHARE = 0.05
"""The largest acceptable share of CPU time that the hypervisor gave to other guests."""
OTHERS_SHARE = 0.10
"""The largest acceptable share of CPU time used by programs outside of the run."""
LEAST_CPU_S = 0.1
"""CPU seconds below which shares are not judged: counters advance in ticks, mostly 10 ms."""
STALL_SHARE = 0.01
"""The largest acceptable share of the run's time in which tasks waited for memory."""
MEMORY_FLOOR_BYTES = 512 * 2**20
"""Least available memory, before and after: below it the kernel reclaims pages meanwhile."""

_MIB = 2**20


@dataclass(frozen=True)
class _Change:
    """The machine's state before and after a run."""

    before: Facts
    after: Facts

    def moved(self, name: str) -> float | None:
        """By how much a fact changed; None where either state lacks it."""
        old, new = self.before.get(name), self.after.get(name)
        if not isinstance(old, int | float) or not isinstance(new, int | float):
            return None
        return new - old

    def cpu_seconds(self) -> float | None:
        """Seconds of CPU time that passed on all CPUs together, idle and stolen time included."""
        busy, idle = self.moved("cpu_busy_s"), self.moved("cpu_idle_s")
        if busy is None or idle is None:
            return None
        return busy + idle + (self.moved("cpu_steal_s") or 0)

    def others_cpu_seconds(self, own: float) -> float | None:
        """CPU seconds of programs outside of the run, without interrupts and kernel threads."""
        busy = self.moved("cpu_busy_s")
        if busy is None:
            return None
        # Kernel threads that have ended no longer count, so the difference may be negative.
        kernel = max(0.0, self.moved("cpu_kernel_threads_s") or 0.0)
        return max(0.0, busy - kernel - (self.moved("cpu_interrupts_s") or 0.0) - own)


def judge(
    before: Facts,
    after: Facts,
    own_cpu_seconds: float,
    elapsed_s: float,
    git: Git,
    series: Sequence[Series],
    clocks: Sequence[str] = (),
) -> Validity:
    """Valid, suspect or failed, with a sentence for every reason.

    `before` and `after` are from `machine.state()`; `own_cpu_seconds` and `elapsed_s` are from
    `OwnCpu`, for the time between them; `series` are the record's; `clocks` is what was noticed of
    the wall clock. A missing fact is no reason.
    """
    change = _Change(before, after)
    reasons = [
        *_samples(series),
        *_memory(change, elapsed_s),
        *_events(change),
        *_processors(change, own_cpu_seconds, elapsed_s),
        *_settings(change),
        *clocks,
    ]
    if git.dirty:
        reasons.append(
            "the checkout had changes that were not committed: no commit names this code"
        )
    status: Literal["valid", "suspect", "failed"] = "suspect" if reasons else "valid"
    if not any(each.samples for each in series):
        status = "failed"
    return Validity(status, tuple(reasons))


def _samples(series: Sequence[Series]) -> Iterator[str]:
    if not series:
        yield "nothing was measured"
    for each in series:
        if each.samples or (each.failures and all(x.kind == NOT_OFFERED for x in each.failures)):
            continue
        where = ", ".join(f"{name} {value}" for name, value in each.dimensions.items())
        named = f"{each.metric} ({where})" if where else each.metric
        if not each.failures:
            yield f"no sample of {named}: it was never attempted"
        else:
            count = len(each.failures)
            tries = "the only attempt" if count == 1 else f"all {count} attempts"
            yield f"no sample of {named}: {tries} failed, first with: {each.failures[0].reason}"


def _memory(change: _Change, elapsed_s: float) -> Iterator[str]:
    for name, way in (("swap_in_bytes", "in from"), ("swap_out_bytes", "out to")):
        moved = change.moved(name)
        if moved and moved > 0:
            yield f"the machine swapped: {moved / _MIB:.1f} MiB came {way} swap"
    for facts, when in ((change.before, "before"), (change.after, "after")):
        free = facts.get("memory_available_bytes")
        if isinstance(free, int) and free < MEMORY_FLOOR_BYTES:
            yield (
                f"only {free / _MIB:.0f} MiB of memory were available {when} the run, "
                f"below the floor of {MEMORY_FLOOR_BYTES / _MIB:.0f} MiB"
            )
    stalled = change.moved("memory_stall_s")
    if stalled and stalled > STALL_SHARE * elapsed_s:
        yield (
            f"tasks waited for memory during {stalled:.2f} s of {elapsed_s:.1f} s "
            f"(the bound is {STALL_SHARE:.0%})"
        )


def _events(change: _Change) -> Iterator[str]:
    if (ran := change.moved("uptime_s")) is not None and ran < 0:
        yield "the machine was restarted during the run"
        return
    if kills := change.moved("oom_kills"):
        yield f"the kernel ran out of memory and killed {_count(kills, 'process', 'processes')}"
    if throttled := change.moved("throttle_events"):
        yield f"the processor got too hot and was slowed down {_count(throttled, 'time')}"
    newer = change.moved("kernel_newest_warning")
    if newer is not None and newer > 0:
        # The log is a ring buffer: new warnings may have overwritten older ones.
        at_least = max(1, change.moved("kernel_warnings") or 0)
        new = _count(at_least, "new warning")
        yield f"the kernel logged at least {new}: dmesg --level=emerg,alert,crit,err,warn"


def _processors(change: _Change, own: float, elapsed_s: float) -> Iterator[str]:
    total = change.cpu_seconds()
    if not total or total < 0:
        return
    steal = change.moved("cpu_steal_s")
    if steal is not None and steal > max(STEAL_SHARE * total, LEAST_CPU_S):
        yield (
            f"the hypervisor gave {steal / total:.1%} of our CPU time ({steal:.2f} s) to others "
            f"(the bound is {STEAL_SHARE:.0%})"
        )
    others = change.others_cpu_seconds(own)
    if others is not None and others > max(OTHERS_SHARE * total, LEAST_CPU_S):
        yield (
            f"other programs used {others / total:.1%} of this machine's CPU time "
            f"({others:.2f} s in {elapsed_s:.1f} s; the bound is {OTHERS_SHARE:.0%})"
        )


def _settings(change: _Change) -> Iterator[str]:
    for name in settings():
        old, new = change.before.get(name), change.after.get(name)
        if old is not None and new is not None and old != new:
            yield f"the setting {name} went from {old} to {new} during the run"


def _count(number: float, one: str, many: str | None = None) -> str:
    return f"1 {one}" if number == 1 else f"{number:.0f} {many or one + 's'}"


class OwnCpu:
    """The CPU seconds of this process and of all that it started, while the block runs.

    `counted` returns them where a control group counts them (`cgroups.counted`). Otherwise they are
    the sum of this process, its reaped children (with theirs), and descendants that are alive, each
    to one clock tick (10 ms); a descendant whose parent has died without reaping it is not counted.
    """

    def __init__(self, counted: Callable[[], float] | None = None) -> None:
        self._counted = counted or _own_cpu_seconds
        self._start = self._start_s = 0.0
        self._end: tuple[float, float] | None = None

    def __enter__(self) -> OwnCpu:
        self._start_s, self._start = time.monotonic(), self._counted()
        return self

    def __exit__(self, *_: object) -> None:
        self._end = self._now()

    def _now(self) -> tuple[float, float]:
        return max(0.0, self._counted() - self._start), time.monotonic() - self._start_s

    @property
    def seconds(self) -> float:
        """CPU seconds so far, or of the whole block once it has ended."""
        return (self._end or self._now())[0]

    @property
    def elapsed_s(self) -> float:
        """Elapsed seconds so far, or of the whole block once it has ended."""
        return (self._end or self._now())[1]


def _reaped() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _own_cpu_seconds(tries: int = 5) -> float:
    """Repeated when children are reaped meanwhile, so that none is missed or counted twice."""
    reaped = _reaped()
    for _ in range(tries):
        living = _living(psutil.Process(os.getpid()).children(recursive=True))
        before, reaped = reaped, _reaped()
        if reaped == before:
            break
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime + reaped + living


def _living(processes: Sequence[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue  # ended since it was listed; its seconds are its parent's now
        total += times.user + times.system
        # Its reaped children; psutil reports them on Linux and FreeBSD.
        total += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return total
