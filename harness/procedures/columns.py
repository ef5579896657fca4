"""A column of the comparison: a substrate in a tier. Columns are measured alternately."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil

from harness.errors import CoppiceError
from harness.host import leftovers
from harness.host.run import Run
from harness.measure import footprint_linux
from harness.measure.clock import without_collector
from harness.procedures.ladder import Climb, climb_together, conclude
from harness.procedures.launcher import Launcher
from harness.sandbox.protocol import Sandbox, Substrate, Template, Tier, load, registered

TIMEOUT_S = 600.0
WORKERS = 8


@dataclass(frozen=True)
class Column:
    substrate: str
    tier: Tier

    def __str__(self) -> str:
        return f"{self.substrate}-{self.tier}"


def columns() -> Sequence[Column]:
    """Every column of the comparison, by the `compared` of each registered substrate.

    A substrate whose package cannot be loaded has no columns; `coppice doctor` shows why.
    """
    found = []
    for name in sorted(registered()):
        with contextlib.suppress(Exception):  # another package may fail in any way
            compared = load(name).compared
            found += [Column(name, tier) for tier in (compared.tiers if compared else ())]
    return found


class Stand:
    """A column with its template and, for pooled tiers, its pool."""

    def __init__(self, run: Run, cache: Path, column: Column, stack: ExitStack, most: int) -> None:
        self.column = column
        self.substrate: Substrate[Template] = load(column.substrate)
        self.template = self.substrate.prepare(run, cache, column.tier)
        self.launcher = Launcher(run, self.substrate, self.template, column.tier, stack, most)

    def launch(self) -> Sandbox:
        return self.launcher.launch()

    def visit(self, concurrency: int, upto: str) -> Sequence[Climb]:
        """Concurrent cold starts up to a rung; if the pool cannot be filled, all of them fail."""
        try:
            self.launcher.ready(concurrency)
        except CoppiceError as error:
            why = f"the pool could not be filled: {error.args[0]}"
            return [Climb({}, why) for _ in range(concurrency)]
        done: list[Sandbox] = []
        with without_collector():
            climbs = climb_together(
                concurrency, self.launcher.acquire, upto, TIMEOUT_S, self.substrate.not_offered
            )
            conclude(climbs, done.append, self.substrate.own_kernel)
        with ThreadPoolExecutor(WORKERS) as workers:
            list(workers.map(self.launcher.release, done))
        return climbs


def kernel_of(hello: Mapping[str, str]) -> tuple[bool, str]:
    """Whether the agent of this `hello` runs on another kernel than this host's, and its release.

    Kernels are compared by boot id, or by release where the agent has no boot id.
    """
    ours = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    release = Path("/proc/sys/kernel/osrelease").read_text(encoding="utf-8").strip()
    own = hello["boot_id"] != ours if hello["boot_id"] else hello["kernel"] != release
    return own, hello["kernel"]


def nic_count(sandbox: Sandbox) -> int:
    """The number of NICs inside a sandbox, without the loopback interface."""
    seen = sandbox.agent.run(["/bin/cat", "/proc/net/dev"]).stdout.decode(errors="replace")
    names = [line.partition(":")[0].strip() for line in seen.splitlines() if ":" in line]
    return sum(name != "lo" for name in names)


@contextlib.contextmanager
def awake(stand: Stand) -> Iterator[Sandbox]:
    sandbox = stand.launch()
    try:
        sandbox.awaken(TIMEOUT_S)
        sandbox.adopt_identity()
        yield sandbox
    finally:
        sandbox.destroy()


@dataclass(frozen=True)
class HeldMemory:
    """Memory of all processes of a fleet, in bytes. `outside` excludes guest memory and processes
    inside sandboxes."""

    outside: int
    private_dirty: int


def processes_of(run: Run) -> set[int]:
    """The PIDs of a run's processes, without this one."""
    return processes_under(run.directory)


def processes_under(directory: Path) -> set[int]:
    """The PIDs of the run with this directory, or of all runs below it, without this process.

    Found by the mark in the environment, or by the directory in the argv (processes that runsc
    starts lack the mark), together with all their descendants.
    """
    found = {pid for pid, mark in leftovers.processes() if directory in (mark, mark.parent)}
    name = os.fsencode(directory)
    for process in psutil.process_iter():
        with contextlib.suppress(OSError):
            if name in Path(f"/proc/{process.pid}/cmdline").read_bytes():
                found.add(process.pid)
    for pid in list(found):
        with contextlib.suppress(psutil.NoSuchProcess):
            found |= {child.pid for child in psutil.Process(pid).children(recursive=True)}
    return found - {os.getpid()}


def held_memory(pids: set[int], sandboxes: Sequence[Sandbox]) -> HeldMemory:
    """The memory of processes, some of which are `sandboxes` whose memory is a file."""
    processes = [sandbox.process for sandbox in sandboxes]
    files = {process.pid: process.guest_memory for process in processes if process}
    ours = Path("/proc/self/ns/pid").readlink()
    outside = dirty = 0
    for pid in pids:
        found = footprint_linux.read(pid, files.get(pid, "/nowhere"))
        if found is None:
            continue
        dirty += found.vmm.private_dirty + found.guest.private_dirty
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/ns/pid").readlink() == ours:
                outside += found.vmm.pss
    return HeldMemory(outside, dirty)
