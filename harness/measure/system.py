"""How facts are read of a machine: files, programs and the kernel's log, and nothing else.

Collectors take a `System`, so that they can be shown the output of a machine that is not there.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.paths import cache_directory

PROGRAM_LIMIT_S = 10.0


@dataclass(frozen=True)
class System:
    """This machine. `platform` is sys.platform without a version: linux, freebsd.

    `cache` is where checkpoints are kept: the directory whose storage matters to a restore.
    """

    platform: str = field(default_factory=lambda: sys.platform.rstrip("0123456789"))
    root: Path = Path("/")
    cache: Path = field(default_factory=lambda: cache_directory().resolve())

    def read(self, path: str) -> str | None:
        """The stripped text of a file; None where it is not there or may not be read."""
        try:
            return (self.root / path.lstrip("/")).read_text(errors="replace").strip()
        except OSError:
            return None

    def glob(self, pattern: str) -> Sequence[str]:
        """The paths that match, sorted, as `read` takes them."""
        found = self.root.glob(pattern.lstrip("/"))
        return sorted(f"/{path.relative_to(self.root)}" for path in found)

    def run(self, argv: Sequence[str]) -> str | None:
        """What a program printed, stripped; None when it is missing, failed or hung."""
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=PROGRAM_LIMIT_S,
                env=os.environ | {"LC_ALL": "C"},
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    def kernel_log(self) -> Sequence[str] | None:
        """The records of /dev/kmsg that are there now; None where it may not be read."""
        path = self.root / "dev/kmsg"
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        records: list[str] = []
        try:
            # One read gives one record; BlockingIOError is the end of what there is.
            with contextlib.suppress(BlockingIOError):
                while True:
                    try:
                        line = os.read(handle, 8192)
                    except BrokenPipeError:
                        continue  # overwritten while we read; the next one is whole
                    if not line:
                        break
                    records.append(line.decode(errors="replace"))
        except OSError:
            return None
        finally:
            os.close(handle)
        return records
