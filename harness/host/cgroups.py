"""Control groups of this host (v1, v2 or hybrid), and those of a run.

A run's groups are `coppice-RUNTIME/RUN/SANDBOX` in every hierarchy. RUNTIME is a hash of the
runtime directory, so that groups of another runtime directory are never touched. Version 1 has one
hierarchy per controller (a hybrid also mounts version 2, without controllers); version 2 has one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness import control_groups
from harness.errors import SandboxError
from harness.host.file_system import entries

if TYPE_CHECKING:
    from harness.host.run import Run

LIMITS = ("memory", "pids", "cpu", "cpuset")
"""Controllers that limit a sandbox."""
PATIENCE_S = 5.0


@dataclass(frozen=True)
class Usage:
    """Use of one group: CPU seconds, bytes of memory, and how many of these are page cache."""

    processor_s: float
    memory: int
    cache: int


@dataclass(frozen=True)
class Cgroups:
    """`mounts` maps each controller to its mount point; in version 2 they all share one."""

    version: int
    mounts: Mapping[str, Path]

    @property
    def unlimited(self) -> Sequence[str]:
        """Controllers of `LIMITS` that this host lacks."""
        return [name for name in LIMITS if name not in self.mounts]

    def groups(self, path: str) -> list[Path]:
        """The directories of a group, one for each hierarchy that has it."""
        return [group for mount in self._hierarchies() if (group := mount / path).is_dir()]

    def of_runs(self, runtime: Path) -> list[str]:
        """The ids of all runs of a runtime directory that have groups, sorted."""
        groups = (group for parent in self.groups(parent_of(runtime)) for group in entries(parent))
        return sorted({group.name for group in groups if group.is_dir()})

    def freezer(self, path: str) -> Freezer | None:
        """The freezer of a group; None where this host has none."""
        if self.version == 2:
            return Freezer(next(iter(self._hierarchies())) / path / "cgroup.freeze", b"1", b"0")
        if "freezer" in self.mounts:
            state = self.mounts["freezer"] / path / "freezer.state"
            return Freezer(state, b"FROZEN", b"THAWED")
        return None

    def usage(self, path: str) -> Usage:
        """What a group has used; 0 where this host does not count it. OSError when it is gone."""
        spent = self.processor_s(path)
        if self.version == 2:
            directory = next(iter(self._hierarchies())) / path
            now, kept = directory / "memory.current", "file"
        else:
            directory = self.mounts.get("memory", Path()) / path
            now, kept = directory / "memory.usage_in_bytes", "total_cache"
        if not now.exists():
            return Usage(spent, 0, 0)
        return Usage(
            spent,
            int(now.read_text(encoding="utf-8")),
            _numbers(directory / "memory.stat").get(kept, 0),
        )

    def processor_s(self, path: str) -> float:
        """CPU seconds of a group and its descendants, past ones included; 0 if not counted."""
        if self.version == 2:
            directory = next(iter(self._hierarchies())) / path
            return _numbers(directory / "cpu.stat").get("usage_usec", 0) / 1e6
        if "cpuacct" not in self.mounts:
            return 0.0
        return (
            int((self.mounts["cpuacct"] / path / "cpuacct.usage").read_text(encoding="utf-8")) / 1e9
        )

    def remove(self, path: str) -> None:
        """Kill every process in a group and its descendants, then remove them; safe if gone."""
        deadline = time.monotonic() + PATIENCE_S
        while directories := self.groups(path):
            freezer = self.freezer(path)
            for directory in directories:
                # Others may remove groups meanwhile: os.walk passes over what is gone.
                for group in [Path(name) for name, _, _ in os.walk(directory)]:
                    if freezer:
                        with contextlib.suppress(OSError):
                            (group / freezer.file.name).write_bytes(freezer.off)
                    _kill_all(group)
                for emptied, _, _ in os.walk(directory, topdown=False):
                    with contextlib.suppress(OSError):
                        Path(emptied).rmdir()
            if time.monotonic() > deadline:
                return
            time.sleep(0.002)
        for parent in self.groups(str(Path(path).parent)):
            with contextlib.suppress(OSError):  # it may hold others
                parent.rmdir()

    def _hierarchies(self) -> set[Path]:
        return set(self.mounts.values())


@dataclass(frozen=True)
class Freezer:
    """Freezes one control group; implements `harness.sandbox.shared_kernel.ProcessFreezer`."""

    file: Path
    on: bytes
    off: bytes

    def freeze(self) -> None:
        """Freeze all processes, and wait until they are frozen. SandboxError after 5 s."""
        self._write(self.on)
        deadline = time.monotonic() + PATIENCE_S
        while not self._frozen():
            if time.monotonic() > deadline:
                raise SandboxError(
                    f"control group {self.file.parent.name} did not freeze in {PATIENCE_S:g} s"
                )
            time.sleep(0.0005)

    def thaw(self) -> None:
        self._write(self.off)

    def _write(self, state: bytes) -> None:
        handle = os.open(self.file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(handle, state)
        finally:
            os.close(handle)

    def _frozen(self) -> bool:
        if self.on == b"1":
            return "frozen 1" in (self.file.parent / "cgroup.events").read_text(encoding="utf-8")
        return self.file.read_bytes().strip() == self.on


def parent_of(runtime: Path, root: Path = Path("/")) -> str:
    """The parent group of all runs of a runtime directory, named by a hash of root, device and
    path: a container or chroot may see this host's groups and have a different /run, perhaps on
    the same file system."""
    existing = next(path for path in (runtime, *runtime.parents) if path.exists())
    device, seen = existing.stat().st_dev, root.stat()
    place = f"{seen.st_dev}:{seen.st_ino}:{device}:".encode() + os.fsencode(runtime)
    return f"coppice-{hashlib.sha256(place).hexdigest()[:8]}"


def group_of(run: Run) -> str:
    """The path of a run's group, below each hierarchy."""
    return f"{parent_of(run.directory.parent)}/{run.id}"


@contextlib.contextmanager
def counted(run: Run) -> Iterator[Callable[[], float] | None]:
    """Put this process, and what it starts, into a group of the run while the block runs.

    Yields a function that returns the CPU seconds of all groups of the run so far, including its
    sandboxes and daemons that left their parent. Yields None where this host does not count CPU
    time, or where this process may not change its group.
    """
    own = find()
    # In version 2 all controllers share one hierarchy, so any of them will do.
    controller = "cpuacct" if own.version == 1 else "freezer"
    mount = own.mounts.get(controller)
    before = control_groups.own_directory(controller if own.version == 1 else "")
    # A leaf, because in version 2 a group with processes cannot have children with limits.
    group = mount and mount / group_of(run) / "rig"
    # Back into its own group must be allowed too: it is tried before the move.
    if before and group and _enter(before) and _enter_new(group):
        try:
            yield lambda: own.processor_s(group_of(run))
        finally:
            _enter(before)
    else:
        yield None


def _enter(group: Path) -> bool:
    """Move this process into a group that exists; False when that is not allowed."""
    try:
        (group / "cgroup.procs").write_text(str(os.getpid()), encoding="utf-8")
    except OSError:
        return False
    return True


def _enter_new(group: Path) -> bool:
    """The same for a group of the run, which is created."""
    try:
        group.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return _enter(group)


def find() -> Cgroups:
    """This host's control groups; version 0 where this process may not write to any."""
    mounts: dict[str, Path] = {}
    unified: dict[str, Path] = {}
    for mounted in control_groups.hierarchies():
        if not os.access(mounted.point, os.W_OK):
            continue
        if mounted.version == 1:
            mounts |= dict.fromkeys(mounted.controllers, mounted.point)
        else:
            with contextlib.suppress(OSError):
                controllers = (
                    (mounted.point / "cgroup.controllers").read_text(encoding="utf-8").split()
                )
                unified = dict.fromkeys((*controllers, "freezer"), mounted.point)
    if mounts:
        # In a hybrid, version 2 limits nothing, but runs still have groups in it.
        return Cgroups(1, mounts | ({"unified": unified["freezer"]} if unified else {}))
    return Cgroups(2, unified) if unified else Cgroups(0, {})


def _numbers(file: Path) -> dict[str, int]:
    fields = (line.split() for line in file.read_text(encoding="utf-8").splitlines())
    return {pair[0]: int(pair[1]) for pair in fields if len(pair) == 2}


def _kill_all(group: Path) -> None:
    with contextlib.suppress(OSError):
        for pid in (group / "cgroup.procs").read_text(encoding="utf-8").split():
            # 0 stands for a process outside this PID namespace.
            if int(pid) not in (0, os.getpid()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
