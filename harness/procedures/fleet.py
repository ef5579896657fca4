"""Fleets: many sandboxes, brought up at a pace that the host can sustain, and left running.

A bring-up slows down when the host's run queue grows or its free memory shrinks, and stops at a
floor of free memory, so that new sandboxes do not starve running ones; the number reached is
reported. Every sandbox is awake, has its identity, and waits for requests.
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

from harness import control_groups
from harness.errors import CoppiceError, LimitTooLow, NotEnoughMemory, WrongAnswer
from harness.host.cpus import usable
from harness.host.memory import available_memory, memory_floor
from harness.measure.system import System
from harness.sandbox.protocol import Sandbox

WORKERS = 4
WAKE_LIMIT_S = 120.0
TASKS_EACH = 4
"""Threads of a sandbox on this host: those that every VMM has."""
FILES_EACH = 8
"""Descriptors that this process has open per sandbox; an upper estimate."""
MAX_FAILURES = 3
"""Consecutive failures that end a bring-up."""


@dataclass(frozen=True)
class Bounds:
    """What a bring-up leaves to its host: `floor` bytes of free memory; at most `runnable` threads
    that run or wait for a CPU, the fleet's included; `patience_s` is how long it waits for memory
    to be freed."""

    floor: int = field(default_factory=memory_floor)
    runnable: int = field(default_factory=lambda: 4 * usable())
    patience_s: float = 30.0


class Step(enum.Enum):
    """The next step of a bring-up."""

    GO = "go"
    WAIT = "wait"
    STOP = "stop"


def next_step(
    bounds: Bounds, available: int, runnable: int, each: int, under_way: int, waited_s: float
) -> Step:
    """Whether another sandbox of `each` bytes may start while `under_way` others are starting.

    A single one may always start, however many threads wait for a CPU: progress is then slow.
    """
    if available < bounds.floor:
        return Step.STOP
    if available - (under_way + 1) * each < bounds.floor:
        return Step.STOP if not under_way and waited_s > bounds.patience_s else Step.WAIT
    return Step.WAIT if under_way and runnable > bounds.runnable else Step.GO


def runnable_threads() -> int:
    """The host's current number of runnable threads."""
    if sys.platform.startswith("freebsd"):
        return runnable_on_freebsd(System().run(["sysctl", "-n", "vm.vmtotal"]) or "")
    return int(Path("/proc/loadavg").read_text(encoding="utf-8").split()[3].partition("/")[0])


def runnable_on_freebsd(text: str) -> int:
    """The number of runnable threads in the output of vm.vmtotal; 0 where it is missing."""
    found = re.search(r"RUNQ:\s*(\d+)", text)
    return int(found[1]) if found else 0


def admit(count: int, each: int, available: int, bounds: Bounds) -> None:
    """Raise NotEnoughMemory if the host lacks memory for `count` sandboxes of `each` bytes."""
    need, have = count * each, available - bounds.floor
    if need > have:
        fit = max(have, 0) // max(each, 1)
        raise NotEnoughMemory(
            f"{count} sandboxes of {each / 2**20:.1f} MiB, measured with two of them, need "
            f"{need / 2**30:.1f} GiB; this host has {max(have, 0) / 2**30:.1f} GiB available "
            f"beyond the {bounds.floor / 2**30:.1f} GiB that stay free",
            hint=f"request at most {fit}" if fit else "free some memory",
        )


@dataclass
class BringUp:
    """The course of a bring-up: for each sandbox, the seconds it took, and when it was up, in
    seconds since the request. `failures` has an attempt's number and reason; `stopped` is why
    the bring-up ended early.
    """

    took: list[float] = field(default_factory=list)
    up_at: list[float] = field(default_factory=list)
    failures: list[tuple[int, str]] = field(default_factory=list)
    stopped: str | None = None
    waited_s: float = 0.0


class SandboxFleet:
    """Launches sandboxes of about `each` bytes with `launch`; destroys them at the end."""

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
        """Launch and wake `count` sandboxes and apply their identities, within the bounds.

        `asked_at` is the moment of the request (time.perf_counter), if not now.
        """
        _allow_files(count * FILES_EACH)
        _allow_tasks(count * TASKS_EACH)
        result = BringUp()
        started = time.perf_counter() if asked_at is None else asked_at
        under_way: set[int] = set()
        in_a_row = 0

        def start(number: int) -> None:
            nonlocal in_a_row
            began = time.perf_counter()
            made = None
            try:
                made = self._launch()
                made.awaken(WAKE_LIMIT_S)
                made.adopt_identity()
                failure = None
            except Exception as error:  # every failure belongs on the record
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
                    result.stopped = f"{in_a_row} launches in a row failed"
                if result.stopped:
                    result.failures += [(left, result.stopped) for left in range(number, count)]
                    break
                with self._lock:
                    under_way.add(number)
                workers.submit(start, number)
        result.failures.sort()
        return result

    def _wait(self, under_way: set[int], result: BringUp) -> float:
        """Wait until another sandbox may start or `result.stopped` is set; returns the seconds.

        Waiting for a free worker is not counted.
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
                    f"not started: with {len(self.sandboxes)} sandboxes "
                    f"{available / 2**20:.0f} MiB of memory are available, and "
                    f"{self._bounds.floor / 2**20:.0f} MiB must stay free"
                )
                return waited
            time.sleep(0.01)


def _allow_files(more: int) -> None:
    """Raise the limit of open files. LimitTooLow where the hard limit is too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = more + 256
    if need > hard != resource.RLIM_INFINITY:
        raise LimitTooLow(
            f"so many sandboxes need {need} open files; the hard limit is {hard}",
            hint=f"ulimit -n {need}",
        )
    if soft < need:
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))


def _allow_tasks(more: int) -> None:
    """Raise LimitTooLow where a control group does not allow so many more threads."""
    left = control_groups.pids_left()
    if left is not None and more > left:
        raise LimitTooLow(
            f"so many sandboxes need {more} processes and threads; this control group allows "
            f"{left} more",
            hint="ask for fewer with --n, or raise the container's limit of processes (pids.max)",
        )


def reason(error: Exception) -> str:
    """An error as one line, for a record."""
    return f"{type(error).__name__}: {error.args[0] if error.args else 'no message'}"


@dataclass
class Answers:
    """The results of the same request to every sandbox; failures by the index in the fleet."""

    seconds: list[float] = field(default_factory=list)
    failures: list[tuple[int, str]] = field(default_factory=list)


def ask_each(sandboxes: Sequence[Sandbox], question: Callable[[Sandbox], object]) -> Answers:
    """Put a question to every sandbox, one after the other, and time each answer."""
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


def run_process(sandbox: Sandbox) -> None:
    """Run a first process in a sandbox. Raises WrongAnswer unless it returns what it was given."""
    done = sandbox.first_exec(sandbox.id)
    if done.stdout.strip() != sandbox.id.encode():
        raise WrongAnswer(f"{sandbox.id}: its process did not return what it was given")


def touch_above_floor(sandbox: Sandbox, mib: int) -> None:
    """Write to `mib` MiB of a sandbox. Raises NotEnoughMemory if the host could not bear it."""
    if available_memory() - (mib << 20) < Bounds().floor:
        raise NotEnoughMemory(f"writing {mib} MiB more would leave less memory than the floor")
    sandbox.touch(mib)


def pids_of(sandboxes: Sequence[Sandbox]) -> Sequence[int]:
    """The PIDs of those sandboxes that have a process on this host."""
    return [sandbox.process.pid for sandbox in sandboxes if sandbox.process]
