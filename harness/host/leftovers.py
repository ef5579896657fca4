"""What dead runs have left on this machine, and how it goes away.

Only what carries a run's id is touched, and only when that run's lock shows that it is dead.
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
from harness.host import cgroups, leftovers_freebsd
from harness.host.ksm import NOTE, SETTINGS, abandoned, reset, restore
from harness.host.leftover import Leftover
from harness.host.local import Local
from harness.host.locks import HALF_BUILT, lives, locked
from harness.host.run import LEASE_BEGUN, VARIABLE
from harness.paths import cache_directory

REBOOTED, RUNTIME = "coppice-off-", "r"
"""A directory beside the runtime directory that begins so stands for a host that is turned off and
on (harness/procedures/reboot.py); in it, the runtime directory there."""
FREEBSD = sys.platform.startswith("freebsd")


def processes() -> Iterator[tuple[int, Path]]:
    """Every process that carries a run's directory. Other users' environments are not readable."""
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
        lines = Path("/proc/self/mounts").read_text().splitlines()
        points = [line.split()[1].encode().decode("unicode_escape") for line in lines]
        return [point for point in reversed(points) if point.startswith(f"{directory}/")]
    return []


def find(runtime: Path, cache: Path | None = None) -> list[Leftover]:
    """Everything that dead runs have left, in the order in which it must go."""
    found = _of_runtime(runtime)
    for host in runtime.parent.glob(f"{REBOOTED}*"):
        found += _of_reboot(host)
    if abandoned() and not any(one.what == "settings" for one in found):
        found.append(Leftover("settings", "?", str(SETTINGS)))
    return [*found, *_of_freebsd(runtime), *_of_cache(cache or cache_directory())]


def _lives_elsewhere(pid: int, directory: Path) -> bool:
    """Whether the run of this process lives where the process is: in a container or a chroot the
    same name is another directory."""
    with contextlib.suppress(OSError):
        return lives(Path(f"/proc/{pid}/root", *directory.parts[1:]))
    return False


def _of_runtime(runtime: Path) -> list[Leftover]:
    directories = (
        [one for one in runtime.iterdir() if one.name != "leases"] if runtime.is_dir() else []
    )
    marked = [(pid, directory) for pid, directory in processes() if directory.parent == runtime]
    elsewhere = {directory for pid, directory in marked if _lives_elsewhere(pid, directory)}
    # First: what a group holds frozen would not die.
    found = [
        Leftover("cgroup", id, f"{cgroups.parent_of(runtime)}/{id}")
        for id in cgroups.find().of_runs(runtime)
        if runtime / id not in elsewhere and not lives(runtime / id)
    ]
    found += [
        Leftover("process", directory.name, str(pid))
        for pid, directory in marked
        # Asked of each by itself: a run may have begun since the directories were listed.
        if directory not in elsewhere and not lives(directory)
    ]
    for directory in directories:
        if not lives(directory):
            if (directory / NOTE).exists():
                found.append(Leftover("settings", directory.name, str(directory / NOTE)))
            found += [
                Leftover("mount", directory.name, point) for point in _mounts_under(directory)
            ]
            found.append(Leftover("directory", directory.name, str(directory)))
    leases = runtime / "leases"
    for lease in leases.iterdir() if leases.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):
            run = _holder(lease)
            if run is None or not lives(runtime / run):
                found.append(Leftover("lease", run or "?", str(lease)))
    return found


def _holder(lease: Path) -> str | None:
    """The id of the run that a lease names; None where a crash of the host left something else."""
    if lease.name.startswith(LEASE_BEGUN):
        return lease.name.removeprefix(LEASE_BEGUN).partition(".")[0]
    id = lease.read_text(errors="replace")
    return id if re.fullmatch(r"[\w-]+", id, re.ASCII) else None


def _of_cache(cache: Path) -> list[Leftover]:
    found = [Leftover("half-built", "?", str(built)) for built in _abandoned(cache)]
    copies = cache / "remote"  # of the harness, by runs that came from another machine
    for copy in copies.iterdir() if copies.is_dir() else ():
        if not lives(copy):
            found.append(Leftover("directory", copy.name, str(copy)))
    return found


def _of_reboot(host: Path) -> Sequence[Leftover]:
    """What is left of a host that nobody turns off and on any more."""
    with contextlib.suppress(FileNotFoundError):
        inner = host / RUNTIME
        # Whoever makes one locks it at once: one that is young may not be locked yet.
        if locked(host) or time.time() - host.stat().st_mtime < 5:
            return []
        if inner.is_dir() and any(lives(run) for run in inner.iterdir()):
            return []
        mounts = [Leftover("mount", host.name, point) for point in _mounts_under(host)]
        found = [*_of_runtime(inner), *mounts]
        if (mark := mark_of(host)).exists():
            found.append(Leftover("file", host.name, str(mark)))
        return [*found, Leftover("directory", host.name, str(host))]
    return []


def mark_of(host: Path) -> Path:
    """What a sandbox writes there to be looked for later; a bare process writes it on this host."""
    return Path("/tmp", host.name)


def _of_freebsd(runtime: Path) -> Sequence[Leftover]:
    """What is in this kernel and on its pools, if it is FreeBSD's."""
    if not FREEBSD:
        return []
    living = {one.name[-8:] for one in runtime.iterdir() if lives(one)} if runtime.is_dir() else ()
    return leftovers_freebsd.find(Local(), lambda mark: mark in living)


def _abandoned(cache: Path) -> Iterator[Path]:
    """Directories in the cache that somebody began to build and died.

    They stand beside what they were to become: a thing of some kind. What is in a thing that is
    whole, such as a distribution's root, is not looked at: it takes a second.
    """
    # os.walk, unlike glob, bears that directories vanish while it looks.
    for parent, names, _ in os.walk(cache):
        begun_here = [name for name in names if name.startswith(HALF_BUILT)]
        if Path(parent) == cache:
            names[:] = [name for name in names if name not in begun_here]
        else:
            names.clear()
        for name in begun_here:
            built = Path(parent, name)
            with contextlib.suppress(FileNotFoundError):
                # Its builder locks it before putting anything in: an empty one may be brand-new.
                begun = any(built.iterdir()) or time.time() - built.stat().st_mtime > 5
                if begun and not locked(built):
                    yield built


def remove(one: Leftover) -> None:
    """Make one leftover go away; it may have gone by itself."""
    if one.what == "cgroup":
        cgroups.find().remove(one.name)
    elif one.what == "process":
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(one.name), signal.SIGKILL)
    elif one.what == "settings":
        reset() if one.name == str(SETTINGS) else restore(Path(one.name))
    elif FREEBSD and one.what not in ("lease", "directory", "half-built"):
        leftovers_freebsd.remove(Local(), one)
    elif one.what == "mount":
        import sh

        with contextlib.suppress(sh.ErrorReturnCode):  # who else clears up may have been first
            with command_log.announced(["umount", "-l", one.name]):
                sh.umount("-l", one.name)
    elif Path(one.name).is_dir():
        shutil.rmtree(one.name, ignore_errors=True)
    else:
        Path(one.name).unlink(missing_ok=True)


def reclaim(runtime: Path) -> list[Leftover]:
    """Remove what dead runs have left; what it was. Processes go first, and are waited for."""
    found = find(runtime)
    for one in found:
        remove(one)
    pids = [one.name for one in found if one.what == "process"]
    deadline = time.monotonic() + 5
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.005)
    return found


def _alive(pid: str) -> bool:
    if FREEBSD:
        import psutil

        return psutil.pid_exists(int(pid))
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
