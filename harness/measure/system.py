"""Access to a machine's facts: its files, programs and kernel log.

Readers of facts take a `System`, so that tests can simulate other machines.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.paths import cache_directory

PROGRAM_LIMIT_S = 10.0


@dataclass(frozen=True)
class System:
    """This machine. `platform` is sys.platform without its version: linux, freebsd.

    `cache` is the directory of checkpoints, whose storage matters to restores.
    """

    platform: str = field(default_factory=lambda: sys.platform.rstrip("0123456789"))
    root: Path = Path("/")
    cache: Path = field(default_factory=lambda: cache_directory().resolve())

    def read(self, path: str) -> str | None:
        """The stripped text of a file; None where it cannot be read."""
        try:
            return (
                (self.root / path.lstrip("/")).read_text(errors="replace", encoding="utf-8").strip()
            )
        except OSError:
            return None

    def glob(self, pattern: str) -> Sequence[str]:
        """The matching paths, sorted, in the form that `read` takes."""
        found = self.root.glob(pattern.lstrip("/"))
        return sorted(f"/{path.relative_to(self.root)}" for path in found)

    def run(self, argv: Sequence[str]) -> str | None:
        """A program's stripped stdout; None when it is missing, fails, or takes over 10 s."""
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=PROGRAM_LIMIT_S,
                env=os.environ | {"LC_ALL": "C"},
                encoding="utf-8",
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    def kernel_log(self) -> Sequence[str] | None:
        """The current records of /dev/kmsg; None where it may not be read."""
        path = self.root / "dev/kmsg"
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return _records(handle)
        except OSError:
            return None
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def new_kernel_lines(self) -> Iterator[KernelLines]:
        """The kernel's log from now on, until the block ends."""
        try:
            handle = os.open(self.root / "dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            yield KernelLines(self, None)
            return
        try:
            yield KernelLines(self, handle)
        finally:
            os.close(handle)


def _records(handle: int) -> list[str]:
    """The records of /dev/kmsg from the descriptor's position on."""
    records: list[str] = []
    # Each read returns one record; BlockingIOError means that there are no more.
    with contextlib.suppress(BlockingIOError):
        while True:
            try:
                line = os.read(handle, 8192)
            except BrokenPipeError:
                continue  # overwritten meanwhile; the next record is whole
            if not line:
                break
            records.append(line.decode(errors="replace"))
    return records


class KernelLines:
    """What the kernel has logged since `mark`, as dmesg prints it.

    Without /dev/kmsg (FreeBSD, or no permission): what dmesg prints beyond the first call's output.
    """

    def __init__(self, system: System, handle: int | None) -> None:
        self._system = system
        self._handle = handle
        self._before = self._dmesg() if handle is None else []
        self.mark()

    def mark(self) -> None:
        """Forget what was logged before."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                os.lseek(self._handle, 0, os.SEEK_END)

    def read(self) -> Sequence[str]:
        """The lines since then; none where the log may not be read."""
        if self._handle is None:
            now = self._dmesg()
            known = self._before[-1:] and self._before[-1] in now
            start = len(now) - now[::-1].index(self._before[-1]) if known else 0
            return now[start:]
        try:
            return [_as_dmesg(record) for record in _records(self._handle)]
        except OSError:
            return []

    def _dmesg(self) -> list[str]:
        return (self._system.run(["dmesg"]) or "").splitlines()


def _as_dmesg(record: str) -> str:
    """A record of /dev/kmsg without its level, number and properties."""
    prefix, _, text = record.partition(";")
    microseconds = prefix.split(",")[2]
    return f"[{int(microseconds) / 1e6:12.6f}] {text.partition(chr(10))[0]}"
