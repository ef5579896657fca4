"""Whether a run was disturbed: judged from the machine's state before and after, never silently.

A suspect record keeps its samples and says why not to trust them. A run without a sample failed.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

import psutil

from harness.measure.machine import settings
from harness.measure.record import Facts, Git, Series, Validity

STEAL_SHARE = 0.05
"""Of all CPU time: what the hypervisor may have given to others."""
OTHERS_SHARE = 0.10
"""Of all CPU time: what programs that are none of ours may have used."""
LEAST_CPU_S = 0.1
"""CPU time below which no share is judged: the counters move in ticks, most often of 10 ms."""
STALL_SHARE = 0.01
"""Of the run's time: how long tasks may have waited for memory."""
MEMORY_FLOOR_BYTES = 512 * 2**20
"""Memory available, before and after; below it the kernel takes pages back while we measure."""

_MIB = 2**20


@dataclass(frozen=True)
class _Change:
    """The machine's state around a run; a fact that either side lacks has moved by None."""

    before: Facts
    after: Facts

    def moved(self, name: str) -> float | None:
        old, new = self.before.get(name), self.after.get(name)
        if not isinstance(old, int | float) or not isinstance(new, int | float):
            return None
        return new - old

    def cpu_seconds(self) -> float | None:
        """CPU time that passed on all processors together, whoever had it."""
        busy, idle = self.moved("cpu_busy_s"), self.moved("cpu_idle_s")
        if busy is None or idle is None:
            return None
        return busy + idle + (self.moved("cpu_steal_s") or 0)

    def others_cpu_seconds(self, own: float) -> float | None:
        """What programs other than ours used. Interrupts and kernel threads are nobody's."""
        busy = self.moved("cpu_busy_s")
        if busy is None:
            return None
        # Threads of the kernel may have ended in between and taken their seconds with them.
        kernel = max(0.0, self.moved("cpu_kernel_threads_s") or 0.0)
        return max(0.0, busy - kernel - (self.moved("cpu_interrupts_s") or 0.0) - own)


def judge(
    before: Facts,
    after: Facts,
    own_cpu_seconds: float,
    elapsed_s: float,
    git: Git,
    series: Sequence[Series],
) -> Validity:
    """Valid, suspect or failed, with every reason in one sentence each.

    `before` and `after` are `machine.state()`; `own_cpu_seconds` and `elapsed_s` are what `OwnCpu`
    told for the time between them; `series` are the record's. A fact that is null gives no reason.
    """
    change = _Change(before, after)
    reasons = [
        *_samples(series),
        *_memory(change, elapsed_s),
        *_events(change),
        *_processors(change, own_cpu_seconds, elapsed_s),
        *_settings(change),
    ]
    if git.dirty:
        reasons.append(
            "the checkout had changes that were not committed: no commit names this code"
        )
    status: Literal["valid", "suspect", "failed"] = "suspect" if reasons else "valid"
    if not any(one.samples for one in series):
        status = "failed"
    return Validity(status, tuple(reasons))


def _samples(series: Sequence[Series]) -> Iterator[str]:
    if not series:
        yield "nothing was measured"
    for one in series:
        if one.samples:
            continue
        where = ", ".join(f"{name} {value}" for name, value in one.dimensions.items())
        named = f"{one.metric} ({where})" if where else one.metric
        if not one.failures:
            yield f"no sample of {named}: it was never attempted"
        else:
            count = len(one.failures)
            tries = "the only attempt" if count == 1 else f"all {count} attempts"
            yield f"no sample of {named}: {tries} failed, first with: {one.failures[0].reason}"


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
        # The log is a ring: older warnings may have gone while new ones came.
        told = max(1, change.moved("kernel_warnings") or 0)
        new = _count(told, "new warning")
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
    """The CPU seconds of this process and all it started, while the block runs.

    `counted` tells them so far, where a control group counts them (`cgroups.counted`). Without it
    counted are this process, children that were reaped (with theirs), and descendants that still
    live, each to one clock tick (10 ms); a descendant whose parent died without waiting for it is
    then counted no more.
    """

    def __init__(self, counted: Callable[[], float] | None = None) -> None:
        self._counted = counted or _own_cpu_seconds
        self._start = self._start_s = 0.0
        self._end: tuple[float, float] | None = None

    def __enter__(self) -> OwnCpu:
        self._start_s, self._start = time.monotonic(), self._counted()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end = self._now()

    def _now(self) -> tuple[float, float]:
        return max(0.0, self._counted() - self._start), time.monotonic() - self._start_s

    @property
    def seconds(self) -> float:
        """CPU seconds so far, or of the whole block once it has ended."""
        return (self._end or self._now())[0]

    @property
    def elapsed_s(self) -> float:
        """Seconds that passed so far, or in the whole block once it has ended."""
        return (self._end or self._now())[1]


def _reaped() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _own_cpu_seconds(tries: int = 5) -> float:
    """Repeated while children are reaped under our hands, so that none is missed or taken twice."""
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
            continue  # gone since it was listed; its parent has its seconds now
        total += times.user + times.system
        # What its own children had, once reaped; psutil tells it on Linux and FreeBSD.
        total += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return total
