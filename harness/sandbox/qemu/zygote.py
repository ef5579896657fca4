"""A zygote: a restored, warm and stopped guest whose VMM process is forked for each sandbox.

The private memory of a restored VMM (relocated libraries, heap, translated code) is the same in
all of them; forks of one VMM share it copy-on-write. `programs/zygote.c` is preloaded into QEMU and
forks all threads. KVM guests cannot be forked: their state is in the kernel.
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
from harness.host.cache import entry
from harness.host.identity import Identity
from harness.host.process import install_packages
from harness.host.process import run as run_program
from harness.host.run import Run
from harness.sandbox.qemu.sandbox import QemuSandbox
from harness.sandbox.qemu.vmm import Vmm, channels, open_log
from harness.sandbox.vm_state import VmState
from harness.setup.packages import HEADERS

SOURCE = paths.ZYGOTE
_COMPILE = ("-O2", "-shared", "-fPIC", "-s", "-Wl,-z,now")
ANSWER_S = 30.0


@dataclass(frozen=True)
class Preload:
    """What makes a VMM a zygote: a library to preload, and the zygote's end of its socket.

    Close the socket once the VMM has started: then the VMM's end is seen as end of file.
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
            # With rseq the kernel writes into a page of every thread, which unshares it.
            "GLIBC_TUNABLES": "glibc.pthread.rseq=0",
        }


def library(cache: Path) -> Path:
    """The library to preload; built once. Raises MissingTool without a compiler."""
    if platform.machine() != "x86_64":
        raise Unsupported(f"a VMM cannot be forked on {platform.machine()}: only on x86_64")
    if not HEADERS.exists():
        raise MissingTool(
            "the C library's headers are not installed",
            hint=install_packages(package_names.HEADERS),
        )
    argv = (*_COMPILE, *platform.libc_ver())
    built_from = hashlib.sha256(SOURCE.read_bytes() + repr(argv).encode()).hexdigest()
    target = cache / "programs" / built_from

    def compile(directory: Path) -> None:
        run_program("gcc", *_COMPILE, "-o", directory / "zygote.so", SOURCE)

    return entry(target, compile) / "zygote.so"


@contextlib.contextmanager
def preload(cache: Path) -> Iterator[tuple[socket.socket, Preload]]:
    """Our end of a future zygote's socket, and what to start its VMM with."""
    built = library(cache)
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with own, other:
        yield own, Preload(built, other)


class ForkedProcess:
    """A forked VMM: a child of this process that Popen does not know."""

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
    """Forks sandboxes from one stopped guest. Thread-safe; one fork at a time.

    `tap` is the descriptor of the guest's tap, if it has one; every fork then needs its own.
    """

    def __init__(self, guest: QemuSandbox, channel: socket.socket, tap: int | None) -> None:
        self.guest = guest
        self._channel = channel
        self._tap = tap
        self._lock = threading.Lock()
        channel.settimeout(ANSWER_S)

    def fork(
        self,
        run: Run,
        identity: Identity,
        tap: int | None = None,
        others: Sequence[tuple[int, int]] = (),
    ) -> QemuSandbox:
        """Fork a sandbox: stopped like the zygote, with channels of its own.

        `others` are further descriptors to replace: the number in the zygote, and the descriptor
        here to put there. Raises NotEnoughMemory, or a SandboxError with the zygote's failure.
        """
        if (tap is None) != (self._tap is None):
            raise SandboxError("a fork needs a tap if its zygote has one, and takes none otherwise")
        name = f"coppice-{identity.id}"
        place = self.guest.vmm.descriptors
        with contextlib.ExitStack() as other_ends, contextlib.ExitStack() as own_ends:
            near, far = channels(own_ends, other_ends)
            log, handle = open_log(run, name)
            other_ends.callback(os.close, handle)
            pairs = [(getattr(place, channel), end.fileno()) for channel, end in far.items()]
            pairs += [(1, handle), (2, handle), *others]
            if tap is not None and self._tap is not None:
                pairs.append((self._tap, tap))
            process = ForkedProcess(self._ask(pairs))
            own_ends.pop_all()
        vmm = Vmm.of(name, process, near, log, place)
        source = self.guest
        return QemuSandbox(
            vmm,
            identity,
            VmState.STOPPED,
            guest_memory=source.guest_memory,
            key=source.agent.key,
        )

    def _ask(self, pairs: list[tuple[int, int]]) -> int:
        """Request a fork; `pairs` are (number in the zygote, descriptor here). Returns its PID."""
        numbers = struct.pack(f"={len(pairs)}i", *(number for number, _ in pairs))
        try:
            with self._lock:
                socket.send_fds(self._channel, [numbers], [descriptor for _, descriptor in pairs])
                answer = self._channel.recv(4)
        except TimeoutError as error:
            raise GuestTimeout(
                f"{self.guest.vmm.name} was not forked within {ANSWER_S:g} s"
            ) from error
        except OSError as error:
            raise self.guest.vmm.died() from error
        if len(answer) < 4:
            raise self.guest.vmm.died()
        (pid,) = struct.unpack("=i", answer)
        if pid < 0:
            why = os.strerror(-pid)
            kind = NotEnoughMemory if -pid == errno.ENOMEM else SandboxError
            raise kind(f"{self.guest.vmm.name} cannot be forked: {why}")
        return int(pid)
