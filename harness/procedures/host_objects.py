"""Everything on this host that a run could leave behind, listed from outside the harness.

`coppice clean` finds leftovers by the marks that runs put on them. This looks at the host itself:
what is there after a run and was not there before has been left, marked or not.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.host import cgroups
from harness.host.leftovers import RUNTIME
from harness.host.locks import locked

TEMPORARY = "tmp"
"""The name of the TMPDIR in a nested host, where runs are told to make temporary files."""
KSM = Path("/sys/kernel/mm/ksm")
KSM_SETTINGS = ("run", "pages_to_scan", "sleep_millisecs", "max_page_sharing")
DEVICES = Path("/sys/class/net")
NAMESPACES = Path("/run/netns")
PLACES = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))
"""Directories in which programs make temporary files; only our names count."""
OURS = re.compile(r"coppice|cpc-|\.building-|\.half-written-")


@dataclass(frozen=True)
class Scope:
    """Where to look. `nested` is the directory of a nested host, `directories` are others that
    belong to its runs, and `cache` is the cache that all runs share.

    `whole_host`: also what the kernel has only once, and the directories of temporary files. That
    is of use only while no other run works on this host.
    """

    nested: Path
    cache: Path
    directories: tuple[Path, ...] = ()
    whole_host: bool = True


def objects(scope: Scope) -> frozenset[str]:
    """What is there now: "process 12 qemu-system-x86", "mount /run/…", "link tap3" and so on."""
    found = [*_processes(scope.nested), *_mounts(scope.nested), *_groups(scope.nested)]
    found += _files(scope)
    if scope.whole_host:
        found += _of_kernel()
        found += _temporary()
    return frozenset(found)


def _processes(nested: Path) -> Iterator[str]:
    mark = os.fsencode(f"{nested}/")
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it ends meanwhile
            state = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
            known_by = (entry / "cmdline").read_bytes() + b"\0" + (entry / "environ").read_bytes()
            if state != "Z" and mark in known_by:
                yield f"process {entry.name} {(entry / 'comm').read_text(encoding='utf-8').strip()}"


def _mounts(nested: Path) -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        if f"{nested}/" in line:
            yield f"mount {line.split()[4]}"


def _groups(nested: Path) -> Iterator[str]:
    return (f"control group {id}" for id in cgroups.find().of_runs(nested / RUNTIME))


def _files(scope: Scope) -> Iterator[str]:
    runtime = scope.nested / RUNTIME
    emptied = (runtime, runtime / "leases", scope.nested / TEMPORARY)
    for root in (scope.nested, *scope.directories):
        for parent, directories, files in os.walk(root):
            for name in (*directories, *files):
                path = Path(parent, name)
                if path != runtime / "leases" and (Path(parent) in emptied or OURS.match(name)):
                    yield f"file {path}"
    for building in scope.cache.glob("*/.building-*"):
        with contextlib.suppress(OSError):  # its builder removes it
            if not locked(building):
                yield f"file {building}"


def _of_kernel() -> Iterator[str]:
    yield from (f"link {link.name}" for link in DEVICES.iterdir())
    if NAMESPACES.is_dir():
        yield from (f"network namespace {name.name}" for name in NAMESPACES.iterdir())
    if nft := shutil.which("nft"):
        listed = subprocess.run(
            [nft, "list", "tables"],
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        yield from (f"nftables {table}" for table in listed.stdout.splitlines())
    for name in KSM_SETTINGS:
        with contextlib.suppress(OSError):  # a kernel without samepage merging
            yield f"setting {KSM / name} {(KSM / name).read_text(encoding='utf-8').strip()}"


def _temporary() -> Iterator[str]:
    for place in PLACES:
        with contextlib.suppress(OSError):
            yield from (f"file {path}" for path in place.iterdir() if OURS.search(path.name))
