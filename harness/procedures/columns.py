"""One column of the comparison: a substrate in a tier, visited in turn with the others."""

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
    """Every column of the comparison: what each registered substrate says it is compared in.

    A substrate whose package does not load has none; `coppice doctor` says why.
    """
    found = []
    for name in sorted(registered()):
        with contextlib.suppress(Exception):  # another package may fail in any way
            compared = load(name).compared
            found += [Column(name, tier) for tier in (compared.tiers if compared else ())]
    return found


class Stand:
    """A column with its template, ready to be visited."""

    def __init__(self, run: Run, cache: Path, column: Column, stack: ExitStack, most: int) -> None:
        self.column = column
        self.substrate: Substrate[Template] = load(column.substrate)
        self.template = self.substrate.prepare(run, cache, column.tier)
        self.launcher = Launcher(run, self.substrate, self.template, column.tier, stack, most)

    def launch(self) -> Sandbox:
        return self.launcher.launch()

    def visit(self, concurrency: int, upto: str) -> Sequence[Climb]:
        """So many cold starts at once up to a rung; a pool that does not fill fails them all."""
        try:
            self.launcher.ready(concurrency)
        except CoppiceError as error:
            why = f"the pool could not be filled: {error.args[0]}"
            return [Climb({}, why) for _ in range(concurrency)]
        done: list[Sandbox] = []
        with without_collector():
            climbs = climb_together(concurrency, self.launcher.acquire, upto, TIMEOUT_S)
            conclude(climbs, done.append, self.substrate.own_kernel)
        with ThreadPoolExecutor(WORKERS) as workers:
            list(workers.map(self.launcher.release, done))
        return climbs


def kernel(hello: Mapping[str, str]) -> tuple[bool, str]:
    """Whether who says this runs on a kernel of its own, and which.

    By the id that a kernel gives to its boot, and by its release where there is no id.
    """
    ours = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    release = Path("/proc/sys/kernel/osrelease").read_text().strip()
    own = hello["boot_id"] != ours if hello["boot_id"] else hello["kernel"] != release
    return own, hello["kernel"]


def cards(sandbox: Sandbox) -> int:
    """How many network cards a sandbox sees, the loopback aside."""
    seen = sandbox.agent.run(["/bin/cat", "/proc/net/dev"]).stdout.decode()
    names = [line.partition(":")[0].strip() for line in seen.splitlines() if ":" in line]
    return sum(name != "lo" for name in names)


@contextlib.contextmanager
def alive(stand: Stand) -> Iterator[Sandbox]:
    sandbox = stand.launch()
    try:
        sandbox.awaken(TIMEOUT_S)
        sandbox.adopt_identity()
        yield sandbox
    finally:
        sandbox.destroy()


@dataclass(frozen=True)
class Held:
    """Bytes that all processes of a fleet hold. `outside` leaves out guest memory, and whatever
    runs inside a sandbox."""

    outside: int
    private_dirty: int


def marked(run: Run) -> set[int]:
    """Every process of a run, this one not among them."""
    return holding(run.directory)


def holding(directory: Path) -> set[int]:
    """Every process of the run of this directory, or of all runs under it; never this one.

    By the mark in its environment, or by the directory among its arguments: runsc starts its own
    with neither of ours. With all that they have started.
    """
    found = {pid for pid, one in leftovers.processes() if directory in (one, one.parent)}
    name = os.fsencode(directory)
    for process in psutil.process_iter():
        with contextlib.suppress(OSError):
            if name in Path(f"/proc/{process.pid}/cmdline").read_bytes():
                found.add(process.pid)
    for pid in list(found):
        with contextlib.suppress(psutil.NoSuchProcess):
            found |= {one.pid for one in psutil.Process(pid).children(recursive=True)}
    return found - {os.getpid()}


def held(pids: set[int], sandboxes: Sequence[Sandbox]) -> Held:
    """What these processes hold; sandboxes with a file for their memory are among them."""
    files = {one.process.pid: one.process.guest_memory for one in sandboxes if one.process}
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
    return Held(outside, dirty)
