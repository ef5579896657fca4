"""Control groups of this host: what there is of either version, and those of a run.

A run's groups are `coppice-RUNTIME/RUN/SANDBOX` in every hierarchy, where RUNTIME stands for the
directory of runs: those of another are not for us to judge. Version 1 mounts each controller by
itself (a hybrid has version 2 beside them, without controllers); version 2 has one tree for all.
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

from harness.errors import SandboxError

if TYPE_CHECKING:
    from harness.host.run import Run

LIMITS = ("memory", "pids", "cpu", "cpuset")
"""Controllers that bound what a sandbox takes."""
PATIENCE_S = 5.0
PLAIN = ("rw", "nosuid", "nodev", "noexec", "relatime", "xattr", "clone_children")


@dataclass(frozen=True)
class Usage:
    """Of one group: seconds of processor, and bytes of memory with what of that is page cache."""

    processor_s: float
    memory: int
    cache: int


@dataclass(frozen=True)
class Cgroups:
    """`mounts` has where each controller of version 1 is mounted, or where the one tree of version
    2 is, for each of its controllers."""

    version: int
    mounts: Mapping[str, Path]

    @property
    def unlimited(self) -> Sequence[str]:
        """Limits that this host cannot set."""
        return [name for name in LIMITS if name not in self.mounts]

    def groups(self, path: str) -> list[Path]:
        """The directories of a group in every hierarchy, where they are."""
        return [one for mount in self._trees() if (one := mount / path).is_dir()]

    def of_runs(self, runtime: Path) -> list[str]:
        """The ids of runs that have groups."""
        directories = (
            one for parent in self.groups(parent_of(runtime)) for one in parent.iterdir()
        )
        return sorted({directory.name for directory in directories if directory.is_dir()})

    def freezer(self, path: str) -> Freezer | None:
        """What holds all processes of a group; None where this host has no such thing."""
        if self.version == 2:
            return Freezer(next(iter(self._trees())) / path / "cgroup.freeze", b"1", b"0")
        if "freezer" in self.mounts:
            state = self.mounts["freezer"] / path / "freezer.state"
            return Freezer(state, b"FROZEN", b"THAWED")
        return None

    def usage(self, path: str) -> Usage:
        """What a group has used; 0 where this host does not count it. OSError when it is gone."""
        spent = self.processor_s(path)
        if self.version == 2:
            directory = next(iter(self._trees())) / path
            now, kept = directory / "memory.current", "file"
        else:
            directory = self.mounts.get("memory", Path()) / path
            now, kept = directory / "memory.usage_in_bytes", "total_cache"
        if not now.exists():
            return Usage(spent, 0, 0)
        return Usage(spent, int(now.read_text()), _numbers(directory / "memory.stat").get(kept, 0))

    def processor_s(self, path: str) -> float:
        """Seconds of processor of a group and of all that is or was under it, or 0."""
        if self.version == 2:
            directory = next(iter(self._trees())) / path
            return _numbers(directory / "cpu.stat").get("usage_usec", 0) / 1e6
        if "cpuacct" not in self.mounts:
            return 0.0
        return int((self.mounts["cpuacct"] / path / "cpuacct.usage").read_text()) / 1e9

    def remove(self, path: str) -> None:
        """Kill all that is in a group and those under it, and remove them; they may be gone."""
        deadline = time.monotonic() + PATIENCE_S
        while directories := self.groups(path):
            freezer = self.freezer(path)
            for directory in directories:
                for group in (directory, *(one for one in directory.rglob("*") if one.is_dir())):
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

    def _trees(self) -> set[Path]:
        return set(self.mounts.values())


@dataclass(frozen=True)
class Freezer:
    """Implements `harness.sandbox.shared_kernel.ProcessFreezer` for a control group."""

    file: Path
    on: bytes
    off: bytes

    def freeze(self) -> None:
        """Freeze, and wait until all are frozen."""
        self._write(self.on)
        deadline = time.monotonic() + PATIENCE_S
        while not self._frozen():
            if time.monotonic() > deadline:
                raise SandboxError(f"{self.file.parent.name} does not freeze")
            time.sleep(0.0005)

    def thaw(self) -> None:
        self._write(self.off)

    def _write(self, word: bytes) -> None:
        handle = os.open(self.file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(handle, word)
        finally:
            os.close(handle)

    def _frozen(self) -> bool:
        if self.on == b"1":
            return "frozen 1" in (self.file.parent / "cgroup.events").read_text()
        return self.file.read_bytes().strip() == self.on


def parent_of(runtime: Path, root: Path = Path("/")) -> str:
    """The group that holds those of all runs of a directory: of this path on its file system under
    this root, for a container or another root that sees this host's groups has a /run of its own,
    which may lie on the same file system."""
    device = next(one for one in (runtime, *runtime.parents) if one.exists()).stat().st_dev
    seen = root.stat()
    place = f"{seen.st_dev}:{seen.st_ino}:{device}:".encode() + os.fsencode(runtime)
    return f"coppice-{hashlib.sha256(place).hexdigest()[:8]}"


def group_of(run: Run) -> str:
    """A run's group."""
    return f"{parent_of(run.directory.parent)}/{run.id}"


@contextlib.contextmanager
def counted(run: Run) -> Iterator[Callable[[], float] | None]:
    """This process and all that it starts in a group of the run, for as long as the block runs.

    Yields what tells the processor seconds of the run's groups so far, those of its sandboxes and
    of daemons that left their parent among them; None where this host counts none, or lets us not.
    """
    own = find()
    controller = "cpuacct" if own.version == 1 else "freezer"  # of version 2 any: it is one tree
    mount = own.mounts.get(controller)
    before = mount and mount / _place(controller if own.version == 1 else "")
    # A leaf: of version 2 a group with processes has no groups under it that limit anything.
    if mount and before and _enter(before) and _enter(mount / group_of(run) / "rig"):
        try:
            yield lambda: own.processor_s(group_of(run))
        finally:
            _enter(before)
    else:
        yield None


def _enter(group: Path) -> bool:
    """Put this process into a group, which is made where it is missing; whether that went."""
    try:
        group.mkdir(parents=True, exist_ok=True)
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError:
        return False
    return True


def _place(controller: str) -> str:
    """The group that this process is in: of a controller, or with no name of version 2."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            return path.lstrip("/")
    return ""


def find() -> Cgroups:
    """This host's control groups; version 0 where it has none that this process may use."""
    mounts: dict[str, Path] = {}
    unified: dict[str, Path] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, point, kind, options, *_ = line.split()
            if not os.access(point, os.W_OK):
                continue
            if kind == "cgroup":
                # Controllers stand among the options.
                mounts |= {name: Path(point) for name in options.split(",") if name not in PLAIN}
            elif kind == "cgroup2":
                controllers = (Path(point) / "cgroup.controllers").read_text().split()
                unified = dict.fromkeys((*controllers, "freezer"), Path(point))
    if mounts:
        # Of a hybrid the second version limits nothing, but groups are made in it all the same.
        return Cgroups(1, mounts | ({"unified": unified["freezer"]} if unified else {}))
    return Cgroups(2, unified) if unified else Cgroups(0, {})


def _numbers(file: Path) -> dict[str, int]:
    words = (line.split() for line in file.read_text().splitlines())
    return {line[0]: int(line[1]) for line in words if len(line) == 2}


def _kill_all(group: Path) -> None:
    with contextlib.suppress(OSError):
        for pid in (group / "cgroup.procs").read_text().split():
            # 0 is one of a namespace that we cannot see.
            if int(pid) not in (0, os.getpid()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
