"""Finds and removes what dead runs have left on this machine.

Only objects that carry a run's id are touched, and only when that run's lock shows that it is dead.
Runs of gateways that can be started again are left to `coppice clean` (dead_runs.py).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness import command_log
from harness.host import cgroups, disk_place, leftovers_freebsd, scratch
from harness.host.dead_runs import DeadRuns, state_of
from harness.host.file_system import entries
from harness.host.ksm import NOTE, SETTINGS, abandoned, reset, restore
from harness.host.leftover import Leftover
from harness.host.local import LocalHost
from harness.host.locks import HALF_BUILT, is_alive, locked
from harness.host.locks import abandoned as abandoned_in
from harness.host.run import LEASE_BEGUN, SAVED, STATE, VARIABLE
from harness.paths import cache_directory, gateway_directory

REBOOTED, RUNTIME = "coppice-off-", "r"
"""Prefix of a directory next to the runtime directory that simulates a host that is rebooted
(harness/procedures/reboot.py), and the name of the runtime directory in it."""
FREEBSD = sys.platform.startswith("freebsd")


def processes() -> Iterator[tuple[int, Path]]:
    """(PID, run directory) of every process whose environment is readable and names a run."""
    if FREEBSD:
        import psutil

        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid != os.getpid() and VARIABLE in (found := process.environ()):
                    yield process.pid, Path(found[VARIABLE])
        return
    mark = f"{VARIABLE}=".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                for variable in (entry / "environ").read_bytes().split(b"\0"):
                    if variable.startswith(mark):
                        yield int(entry.name), Path(os.fsdecode(variable[len(mark) :]))


def _mounts_under(directory: Path) -> Sequence[str]:
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
        points = [line.split()[1].encode().decode("unicode_escape") for line in lines]
        own = (f"{directory}/", str(directory))
        return [point for point in reversed(points) if point == own[1] or point.startswith(own[0])]
    return []


def find(runtime: Path, cache: Path | None = None, dead: DeadRuns | None = None) -> list[Leftover]:
    """Everything that these dead runs (by default: those that do not wait) have left, in the order
    in which it must be removed."""
    dead = dead or DeadRuns()
    found = _of_runtime(runtime, dead)
    for host in runtime.parent.glob(f"{REBOOTED}*"):
        found += _of_reboot(host, dead)
    cache = cache or cache_directory()
    found += [
        Leftover("directory", directory.name, str(directory))
        for directory in disk_place.abandoned(runtime, cache, dead)
    ]
    if abandoned() and not any(leftover.what == "settings" for leftover in found):
        found.append(Leftover("settings", "?", str(SETTINGS)))
    found += [Leftover("directory", "?", str(directory)) for directory in scratch.abandoned()]
    found += [*_of_freebsd(runtime, dead), *_of_cache(cache)]
    known = {leftover.name for leftover in found}
    # Of a gateway whose run was removed before, as after a reboot.
    usual = [str(built) for built in abandoned_in(gateway_directory() / SAVED)]
    return [*found, *(Leftover("half-built", "?", name) for name in usual if name not in known)]


def _lives_elsewhere(pid: int, directory: Path) -> bool:
    """Whether the run lives, or waits, as the process itself sees it: in a container or a chroot
    the same path is another directory. A confined VMM sees no run at all, but its parent does,
    which is its run or, after that has died, the first process of the container."""
    with contextlib.suppress(OSError, IndexError):
        parent = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1]
        for seen_by in (str(pid), parent):
            root = Path(f"/proc/{seen_by}/root")
            there = root / directory.relative_to("/")
            if is_alive(there):
                return True
            if state_of(directory, root) and not (directory.is_dir() and there.samefile(directory)):
                return True
    return False


def _of_runtime(runtime: Path, dead: DeadRuns) -> list[Leftover]:
    directories = [entry for entry in entries(runtime) if entry.name != "leases"]
    marked = [(pid, directory) for pid, directory in processes() if directory.parent == runtime]
    elsewhere = {directory for pid, directory in marked if _lives_elsewhere(pid, directory)}
    # First, because the processes of a frozen group cannot die.
    found = [
        Leftover("cgroup", id, f"{cgroups.parent_of(runtime)}/{id}")
        for id in cgroups.find().of_runs(runtime)
        if runtime / id not in elsewhere and runtime / id in dead
    ]
    found += [
        Leftover("process", directory.name, str(pid))
        for pid, directory in marked
        # Checked again for each: a run may have begun since the directories were listed.
        if directory not in elsewhere and directory in dead
    ]
    for directory in directories:
        if directory in dead:
            if (directory / NOTE).exists():
                found.append(Leftover("settings", directory.name, str(directory / NOTE)))
            found += [
                Leftover("mount", directory.name, point) for point in _mounts_under(directory)
            ]
            found += _half_saved(directory)
            found.append(Leftover("directory", directory.name, str(directory)))
    for lease in entries(runtime / "leases"):
        with contextlib.suppress(FileNotFoundError):
            run = _holder(lease)
            if run is None or runtime / run in dead:
                found.append(Leftover("lease", run or "?", str(lease)))
    return found


def _half_saved(run: Path) -> Sequence[Leftover]:
    """What a gateway had begun to save when it was killed."""
    with contextlib.suppress(OSError, ValueError):
        state = Path((run / STATE).read_text(encoding="utf-8"))
        if state.is_absolute():
            saved = abandoned_in(state / SAVED)
            return [Leftover("half-built", run.name, str(built)) for built in saved]
    return []


def _holder(lease: Path) -> str | None:
    """The id of the run that owns a lease; None where a host crash has damaged the file."""
    if lease.name.startswith(LEASE_BEGUN):
        return lease.name.removeprefix(LEASE_BEGUN).partition(".")[0]
    id = lease.read_text(errors="replace", encoding="utf-8")
    return id if re.fullmatch(r"[\w-]+", id, re.ASCII) else None


def _of_cache(cache: Path) -> list[Leftover]:
    found = [Leftover("half-built", "?", str(built)) for built in _abandoned(cache)]
    for copy in entries(cache / "remote"):  # of the harness, made by runs from another machine
        if not is_alive(copy):
            found.append(Leftover("directory", copy.name, str(copy)))
    return found


def _of_reboot(host: Path, dead: DeadRuns) -> Sequence[Leftover]:
    """What is left of a simulated host whose owner is dead."""
    with contextlib.suppress(FileNotFoundError):
        inner = host / RUNTIME
        # Its owner locks it right after making it: a new one may not be locked yet.
        if locked(host) or abs(time.time() - host.stat().st_mtime) < 5:
            return []
        if any(is_alive(run) for run in entries(inner)):
            return []
        mounts = [Leftover("mount", host.name, point) for point in _mounts_under(host)]
        found = [*_of_runtime(inner, dead), *mounts]
        if (mark := mark_of(host)).exists():
            found.append(Leftover("file", host.name, str(mark)))
        return [*found, Leftover("directory", host.name, str(host))]
    return []


def mark_of(host: Path) -> Path:
    """The file that a sandbox writes before the reboot; a bare process writes it on this host."""
    return Path("/tmp", host.name)


def _of_freebsd(runtime: Path, dead: DeadRuns) -> Sequence[Leftover]:
    """Objects in a FreeBSD kernel and on its ZFS pools; nothing on other systems."""
    if not FREEBSD:
        return []
    living = {run.name[-8:] for run in entries(runtime) if run not in dead}
    return leftovers_freebsd.find(LocalHost(), lambda mark: mark in living)


def _abandoned(cache: Path) -> Iterator[Path]:
    """Directories in the cache whose builder died.

    They are siblings of their target, at `cache/KIND/`. Finished targets are not searched: a
    distribution's root alone would take a second.
    """
    with contextlib.suppress(OSError):
        for parent in (cache, *(entry for entry in cache.iterdir() if entry.is_dir())):
            if not parent.name.startswith(HALF_BUILT):
                yield from abandoned_in(parent)


def remove(leftover: Leftover) -> None:
    """Remove one leftover; safe if it is gone already."""
    if leftover.what == "cgroup":
        cgroups.find().remove(leftover.name)
    elif leftover.what == "process":
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(leftover.name), signal.SIGKILL)
    elif leftover.what == "settings":
        reset() if leftover.name == str(SETTINGS) else restore(Path(leftover.name))
    elif FREEBSD and leftover.what not in ("lease", "directory", "half-built"):
        leftovers_freebsd.remove(LocalHost(), leftover)
    elif leftover.what == "mount":
        import sh

        with contextlib.suppress(sh.ErrorReturnCode):  # another process may have unmounted it
            with command_log.announced(["umount", "-l", leftover.name]):
                sh.umount("-l", leftover.name)
    elif Path(leftover.name).is_dir():
        shutil.rmtree(leftover.name, ignore_errors=True)
    else:
        Path(leftover.name).unlink(missing_ok=True)


def reclaim(runtime: Path, *, waiting: bool = False) -> list[Leftover]:
    """Remove what dead runs have left, and return it. Waits up to 5 s for processes to end.

    With `waiting`, also what belongs to gateways that could be started again.
    """
    with contextlib.ExitStack() as locks:
        found = find(runtime, dead=DeadRuns(waiting=waiting, locks=locks))
        for leftover in found:
            remove(leftover)
        pids = [leftover.name for leftover in found if leftover.what == "process"]
        deadline = time.monotonic() + 5
        while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.005)
        return found


def _alive(pid: str) -> bool:
    if FREEBSD:
        import psutil

        return psutil.pid_exists(int(pid))
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
            not in "ZX"
        )
    except OSError:
        return False
