"""A zygote: one restored guest, warm and held, whose whole VMM is forked for each sandbox.

What a restored VMM has of its own (relocated libraries, its heap, the code that it translated) is
the same in all of them, and forks of one share it until they write to it. `programs/zygote.c` is
preloaded into QEMU and copies every thread; a guest in the kernel (KVM) cannot be copied so.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import paths
from harness.errors import (
    GuestTimeout,
    MissingTool,
    NotEnoughMemory,
    SandboxError,
    Unsupported,
)
from harness.host import package_names
from harness.host.identity import Identity
from harness.host.locks import half_built
from harness.host.process import install_packages
from harness.host.process import run as run_program
from harness.host.run import Run
from harness.sandbox.qemu.sandbox import QemuSandbox, State
from harness.sandbox.qemu.vmm import Vmm, lines, log_of
from harness.setup.packages import HEADERS

SOURCE = paths.ZYGOTE
_COMPILE = ("-O2", "-shared", "-fPIC", "-s", "-Wl,-z,now")
ANSWER_S = 30.0


@dataclass(frozen=True)
class Preload:
    """What makes a VMM a zygote: a library, and the socket that it is asked through.

    Close the socket once the VMM has it: then the end of the VMM is the end of the line.
    """

    library: Path
    socket: socket.socket

    @property
    def descriptor(self) -> int:
        return self.socket.fileno()

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            "LD_PRELOAD": str(self.library),
            "COPPICE_ZYGOTE": str(self.descriptor),
            # A kernel that writes which CPU a thread runs on dirties a page of each.
            "GLIBC_TUNABLES": "glibc.pthread.rseq=0",
        }


def library(cache: Path) -> Path:
    """The library to preload; built once. MissingTool without a compiler."""
    if platform.machine() != "x86_64":
        raise Unsupported(f"a VMM cannot be forked on {platform.machine()}: x86_64 alone")
    if not HEADERS.exists():
        raise MissingTool(
            "the C library's headers are not installed",
            hint=install_packages(package_names.HEADERS),
        )
    words = (*_COMPILE, *platform.libc_ver())
    built_from = hashlib.sha256(SOURCE.read_bytes() + repr(words).encode()).hexdigest()
    target = cache / "programs" / built_from
    if not target.exists():
        with half_built(target) as directory:
            run_program("gcc", *_COMPILE, "-o", directory / "zygote.so", SOURCE)
    return target / "zygote.so"


@contextlib.contextmanager
def preload(cache: Path) -> Iterator[tuple[socket.socket, Preload]]:
    """Our end of the line to a zygote-to-be, and what its VMM is started with."""
    built = library(cache)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, Preload(built, theirs)


class ForkedProcess:
    """A VMM that was forked: a child of this process, though not started by it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._lock = threading.Lock()
        self._code: int | None = None

    def poll(self) -> int | None:
        return self._reap(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int:
        if timeout is not None and self._code is None:
            handle = os.pidfd_open(self.pid)
            try:
                if not select.select([handle], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(f"VMM {self.pid}", timeout)
            finally:
                os.close(handle)
        code = self._reap(0)
        assert code is not None
        return code

    def kill(self) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, 9)

    def _reap(self, options: int) -> int | None:
        with self._lock:
            if self._code is None:
                pid, status = os.waitpid(self.pid, options)
                if pid:
                    self._code = os.waitstatus_to_exitcode(status)
            return self._code


class Zygote:
    """Forks sandboxes of one held guest; for any number of threads, one fork at a time.

    `tap` is the descriptor of the guest's card; forks of one that has a card need one each.
    """

    def __init__(self, guest: QemuSandbox, line: socket.socket, tap: int | None) -> None:
        self.guest = guest
        self._line = line
        self._tap = tap
        self._lock = threading.Lock()
        line.settimeout(ANSWER_S)

    def fork(
        self,
        run: Run,
        identity: Identity,
        tap: int | None = None,
        others: Sequence[tuple[int, int]] = (),
    ) -> QemuSandbox:
        """A sandbox that is held where the zygote is, with lines of its own.

        `others` are more open files of its own: their numbers in the zygote, and our descriptors.
        Raises NotEnoughMemory, or a SandboxError that says what became of the zygote.
        """
        if (tap is None) != (self._tap is None):
            raise SandboxError("a fork has a network card's tap exactly if its zygote has one")
        name = f"coppice-{identity.id}"
        place = self.guest.vmm.descriptors
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            near, far = lines(ours, theirs)
            log, handle = log_of(run, name)
            theirs.callback(os.close, handle)
            pairs = [(getattr(place, line), end.fileno()) for line, end in far.items()]
            pairs += [(1, handle), (2, handle), *others]
            if tap is not None and self._tap is not None:
                pairs.append((self._tap, tap))
            process = ForkedProcess(self._ask(pairs))
            ours.pop_all()
        vmm = Vmm.of(name, process, near, log, place)
        source = self.guest
        return QemuSandbox(
            vmm,
            identity,
            State.STOPPED,
            guest_memory=source.guest_memory,
            key=source.agent.key,
        )

    def _ask(self, pairs: list[tuple[int, int]]) -> int:
        """Have it forked with open files in place of its own: (its number, our descriptor)."""
        numbers = struct.pack(f"={len(pairs)}i", *(number for number, _ in pairs))
        try:
            with self._lock:
                socket.send_fds(self._line, [numbers], [ours for _, ours in pairs])
                answer = self._line.recv(4)
        except TimeoutError as error:
            raise GuestTimeout(f"{self.guest.vmm.name} was not forked in time") from error
        except OSError as error:
            raise self.guest.vmm.died() from error
        if len(answer) < 4:
            raise self.guest.vmm.died()
        (pid,) = struct.unpack("=i", answer)
        if pid < 0:
            said = os.strerror(-pid)
            kind = NotEnoughMemory if -pid == errno.ENOMEM else SandboxError
            raise kind(f"{self.guest.vmm.name} cannot be forked: {said}")
        return int(pid)
