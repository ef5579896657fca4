"""The runtime directory as runs need it: room, and programs that can be started there."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from harness.host import file_system, mounts
from harness.host.requirement import Requirement
from harness.paths import runtime_directory

ROOM = 32 << 20
"""Bytes that a run needs in its directory: the roots of some containers, programs, logs."""
_LINUX = sys.platform.startswith("linux")


def make_executable(directory: Path) -> None:
    """Let programs in a run's new directory be started, where /run is mounted noexec, as Debian and
    Ubuntu do. Where that is not allowed, `requirement` has said so."""
    if _LINUX and os.geteuid() == 0 and not file_system.of(directory).executable:
        with contextlib.suppress(OSError):
            mounts.bind_executable(directory)


def requirement() -> Requirement:
    """Tries in the runtime directory, or in its parent if there was no run yet."""
    runtime = runtime_directory()
    place = file_system.existing(runtime)
    found = file_system.of(place)
    elsewhere = f"set COPPICE_RUNTIME to a directory with more than {ROOM >> 20} MiB free"
    if found.free < ROOM:
        return Requirement("runtime directory", False, f"{runtime} ({found})", elsewhere)
    if _LINUX and not found.executable:
        try:
            mounts.in_scratch_mounts(lambda: mounts.bind_executable(place))
        except OSError as error:
            return Requirement(
                "runtime directory", False,
                f"{runtime} ({found}) is mounted noexec, and a run may not change that: "
                f"{error.strerror}",
                "set COPPICE_RUNTIME to a directory whose programs can be started, such as "
                "/var/tmp/coppice",
            )  # fmt: skip
        return Requirement(
            "runtime directory", True, f"{runtime} ({found}), executable for runs alone"
        )
    return Requirement("runtime directory", True, f"{runtime} ({found})")
