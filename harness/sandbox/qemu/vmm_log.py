"""What a VMM writes to its stdout and stderr.

A rig's VMM writes to a file of its run. One that has a disk may write large files, so it gets a log
that cannot grow: whatever runs in its place could fill the run's directory otherwise.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from typing import Protocol

from harness.host import evidence
from harness.host.run import Run

BYTES = 64 << 10
"""Of a log that cannot grow. What does not fit is refused to the VMM with EPERM."""
KVM_FAILED = ("KVM internal error", "error: kvm run failed")
"""How a line of QEMU's begins that says that KVM cannot run the vCPU any further. QEMU then stops
the VM, stays alive, and tells it there alone."""
_SEALS = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class VmmLog(Protocol):
    """The log of a VMM."""

    def opened(self) -> int:
        """A descriptor to write to it, which the caller closes."""

    def read(self) -> bytes:
        """What it holds, or nothing if it cannot be read."""

    def drop(self, note: str = "") -> None:
        """Remove it; its end is held where a failure may have to be explained. Safe to repeat."""

    def twin(self, run: Run, name: str) -> VmmLog:
        """A log of the same kind for a fork."""


class FileLog:
    """A file in a run's directory. Implements `VmmLog`."""

    def __init__(self, run: Run, name: str) -> None:
        self.path = run.directory / f"{name}.log"

    def opened(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def read(self) -> bytes:
        with contextlib.suppress(OSError):
            return self.path.read_bytes()
        return b""

    def drop(self, note: str = "") -> None:
        evidence.drop(self.path, note)

    def twin(self, run: Run, name: str) -> VmmLog:
        return FileLog(run, name)


class BoundedLog:
    """Memory of a fixed size. Implements `VmmLog`."""

    def __init__(self, name: str, descriptor: int) -> None:
        self._name = name
        self._descriptor = descriptor

    @classmethod
    def new(cls, name: str) -> BoundedLog:
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, BYTES)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        return cls(name, descriptor)

    @classmethod
    def of_process(cls, name: str, pid: int) -> BoundedLog:
        """The log of a VMM that another process has started; empty if the VMM has changed it."""
        with contextlib.suppress(OSError):
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            descriptor = os.open(f"/proc/{pid}/fd/2", flags)
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return cls(name, descriptor)
            os.close(descriptor)
        return cls(name, -1)

    def opened(self) -> int:
        return os.dup(self._descriptor)

    def read(self) -> bytes:
        with contextlib.suppress(OSError):
            return os.pread(self._descriptor, BYTES, 0).rstrip(b"\0")
        return b""

    def drop(self, note: str = "") -> None:
        if self._descriptor < 0:
            return
        if evidence.wanted(bool(note)):
            evidence.add(f"{self._name}.log", self.read(), note)
        os.close(self._descriptor)
        self._descriptor = -1

    def twin(self, run: Run, name: str) -> VmmLog:
        return BoundedLog.new(name)


def tail(log: VmmLog) -> str:
    """The last lines, for error messages."""
    lines = log.read().decode(errors="replace").strip().splitlines()
    return " | ".join(line for line in lines if "has no peer" not in line)[-400:]


def kvm_failure(log: VmmLog) -> str:
    """What KVM failed at, in QEMU's words, if a vCPU has stopped for that; else nothing."""
    lines = log.read().decode(errors="replace").splitlines()
    found = [line.strip() for line in lines if line.startswith((*KVM_FAILED, "emulation failure"))]
    return ": ".join(found[:2])
