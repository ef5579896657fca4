"""The boot id of the running kernel, which distinguishes a guest's kernel from its host's."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

LINUX = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str | None:
    """In the agent's format: a UUID on Linux, 32 hex digits on FreeBSD; None where unknown."""
    with contextlib.suppress(OSError):
        return LINUX.read_text(encoding="utf-8").strip()
    if sys.platform.startswith("freebsd"):
        done = subprocess.run(["sysctl", "-b", "kern.boot_id"], capture_output=True)
        return done.stdout.hex() if done.returncode == 0 and done.stdout else None
    return None
