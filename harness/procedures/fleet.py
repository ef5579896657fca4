"""Many sandboxes from one checkpoint, brought up at the pace that the host bears and left running.

The fleet slows down when the host's run queue grows or its free memory shrinks, and stops at a
floor of free memory: what runs is not starved for what is still to come, and what was reached is
told. Every sandbox is awake, has its identity, and waits for requests.
"""

from __future__ import annotations

import enum
import re
import resource
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from harness.errors import CoppiceError, NotEnoughMemory, Unsupported
from harness.host.cpus import usable
from harness.host.memory import available_memory
from harness.measure.system import System
from harness.sandbox.pool import MEMORY_FLOOR
from harness.sandbox.protocol import Sandbox

WORKERS = 4
WAKE_LIMIT_S = 120.0
FILES_EACH = 8
"""Descriptors that this process holds per sandbox, from above."""
MAX_FAILURES = 3
"""Failures one after the other that end a bring-up."""


@dataclass(frozen=True)
class Bounds:
    """What a bring-up spares of its host. Memory in bytes; `runnable` counts threads that want a
    CPU, the fleet's own included; `patience_s` is how long it waits for memory to come back."""

    floor: int = MEMORY_FLOOR
    runnable: int = 4 * usable()
    patience_s: float = 30.0


class Step(enum.Enum):
    """What a bring-up does next."""

    GO = "go"
    WAIT = "wait"
    STOP = "stop"


def next_step(
    bounds: Bounds, available: int, runnable: int, each: int, under_way: int, waited_s: float
) -> Step:
    """Whether one more sandbox of `each` bytes may start while `under_way` others do.

    One at a time goes on however many threads want a CPU: it is slow then, and not stuck.
    """
    if available < bounds.floor:
        return Step.STOP
    if available - (under_way + 1) * each < bounds.floor:
        return Step.STOP if not under_way and waited_s > bounds.patience_s else Step.WAIT
    return Step.WAIT if under_way and runnable > bounds.runnable else Step.GO


def runnable_threads() -> int:
    """Threads of this host that run or want to, now."""
    if sys.platform.startswith("freebsd"):
        return runnable_on_freebsd(System().run(["sysctl", "-n", "vm.vmtotal"]) or "")
    return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])


def runnable_on_freebsd(text: str) -> int:
    """The same of what vm.vmtotal prints; 0 where it says nothing of it."""
    found = re.search(r"RUNQ:\s*(\d+)", text)
    return int(found[1]) if found else 0


def admit(count: int, each: int, available: int, bounds: Bounds) -> None:
    """NotEnoughMemory, with the figures, when the host would not bear so many of `each` bytes."""
    need, have = count * each, available - bounds.floor
    if need > have:
        raise NotEnoughMemory(
            f"{count} sandboxes of {each / 2**20:.1f} MiB, as two of them take here, need "
            f"{need / 2**30:.1f} GiB; this host has {max(have, 0) / 2**30:.1f} GiB to give and "
            f"keeps {bounds.floor / 2**30:.1f} GiB free",
            hint=f"ask for at most {max(have, 0) // max(each, 1)}, or insist with --force",
        )


@dataclass
class BringUp:
    """How it went, in the order of the attempts: seconds each took, and when each was up since
    the fleet was asked for. `failures` has an attempt's number and why; `stopped` says why it
    ended early.
    """

    took: list[float] = field(default_factory=list)
    up_at: list[float] = field(default_factory=list)
    failures: list[tuple[int, str]] = field(default_factory=list)
    stopped: str | None = None
    waited_s: float = 0.0


class SandboxFleet:
    """Holds what it launched, and destroys it at the end. `launch` makes one sandbox."""

    def __init__(self, launch: Callable[[], Sandbox], each: int, bounds: Bounds | None = None):
        self._launch = launch
        self._each = each
        self._bounds = bounds or Bounds()
        self._lock = threading.Lock()
        self.sandboxes: list[Sandbox] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with ThreadPoolExecutor(WORKERS) as workers:
            list(workers.map(lambda sandbox: sandbox.destroy(), self.sandboxes))
        self.sandboxes.clear()

    def bring_up(self, count: int, asked_at: float | None = None) -> BringUp:
        """Launch, wake and name `count` sandboxes, as far as the host bears them.

        `asked_at` is when the fleet was asked for (time.perf_counter), if not now.
        """
        _allow_files(count * FILES_EACH)
        result = BringUp()
        started = time.perf_counter() if asked_at is None else asked_at
        under_way: set[int] = set()
        in_a_row = 0

        def one(number: int) -> None:
            nonlocal in_a_row
            began = time.perf_counter()
            made = None
            try:
                made = self._launch()
                made.awaken(WAKE_LIMIT_S)
                made.adopt_identity()
                failure = None
            except Exception as error:  # whatever it is, its place in the record is here
                failure = reason(error)
            ended = time.perf_counter()
            with self._lock:
                under_way.discard(number)
                if failure is None and made:
                    in_a_row = 0
                    self.sandboxes.append(made)
                    result.took.append(ended - began)
                    result.up_at.append(ended - started)
                else:
                    in_a_row += 1
                    result.failures.append((number, failure or "nothing was launched"))
            if failure is not None and made:
                made.destroy()

        with ThreadPoolExecutor(WORKERS, thread_name_prefix="fleet") as workers:
            for number in range(count):
                result.waited_s += self._wait(under_way, result)
                if in_a_row >= MAX_FAILURES:
                    result.stopped = f"{in_a_row} in a row failed"
                if result.stopped:
                    result.failures += [(left, result.stopped) for left in range(number, count)]
                    break
                with self._lock:
                    under_way.add(number)
                workers.submit(one, number)
        result.failures.sort()
        return result

    def _wait(self, under_way: set[int], result: BringUp) -> float:
        """Until one more may start, or `result.stopped` is set; the seconds that this took.

        Waiting for a worker is part of the pace and not counted.
        """
        while len(under_way) >= WORKERS:
            time.sleep(0.001)
        began = time.monotonic()
        while True:
            waited = time.monotonic() - began
            available = available_memory()
            step = next_step(
                self._bounds, available, runnable_threads(), self._each, len(under_way), waited
            )
            if step is Step.GO:
                return waited
            if step is Step.STOP:
                result.stopped = (
                    f"not started: {len(self.sandboxes)} sandboxes left "
                    f"{available / 2**20:.0f} MiB of memory available, and "
                    f"{self._bounds.floor / 2**20:.0f} MiB are kept free"
                )
                return waited
            time.sleep(0.01)


def _allow_files(more: int) -> None:
    """Let this process open so many files more; Unsupported where the host does not allow it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = more + 256
    if need > hard != resource.RLIM_INFINITY:
        raise Unsupported(
            f"so many sandboxes need {need} open files, and this host allows {hard}",
            hint=f"ulimit -n {need}",
        )
    if soft < need:
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))


def reason(error: Exception) -> str:
    """What happened, in one line, as a record keeps it."""
    return f"{type(error).__name__}: {error.args[0] if error.args else 'no message'}"


@dataclass
class Answers:
    """What came of asking every sandbox of a fleet the same, by its place in the fleet."""

    seconds: list[float] = field(default_factory=list)
    failures: list[tuple[int, str]] = field(default_factory=list)


def ask_each(sandboxes: Sequence[Sandbox], question: Callable[[Sandbox], object]) -> Answers:
    """Ask one after the other, and time each answer; a failure keeps its place and its reason."""
    answers = Answers()
    for number, sandbox in enumerate(sandboxes):
        began = time.perf_counter()
        try:
            question(sandbox)
        except CoppiceError as error:
            answers.failures.append((number, reason(error)))
        else:
            answers.seconds.append(time.perf_counter() - began)
    return answers
