"""A zygote: a VMM process that is forked for each sandbox.

The private memory of VMMs (relocated libraries, heap, translated code) is the same in all of them;
forks of one VMM share it copy-on-write. `programs/zygote.c` is preloaded into QEMU and forks all
threads. Under TCG the zygote is a restored, warm and stopped guest. KVM guests cannot be forked, as
their state is in the kernel: there the zygote is a started program that has no VM yet, and each
fork makes its own and restores the checkpoint.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import socket
import struct
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
from harness.sandbox.qemu.child import Child
from harness.sandbox.qemu.confinement import Part
from harness.sandbox.qemu.jail import Jail
from harness.sandbox.qemu.sandbox import QemuSandbox, Saved
from harness.sandbox.qemu.vmm import Vmm, channels
from harness.sandbox.vm_state import VmState
from harness.setup.packages import HEADERS

SOURCE = paths.VMM_PROGRAMS / "zygote.c"
INCLUDED = ("filter.h", "forked_files.h", "gate.h", "proc_numbers.h")
_COMPILE = ("-O2", "-shared", "-fPIC", "-s", "-Wl,-z,now")
ANSWER_S = 30.0
_ENTER = {"tasks": -1, "group": -2}
"""In place of a number in the zygote: how the fork enters a control group with a descriptor."""


@dataclass(frozen=True)
class Preload:
    """What makes a VMM a zygote: a library to preload, and the zygote's end of its socket.

    Close the socket once the VMM has started: then the VMM's end is seen as end of file.
    """

    library: Path
    socket: socket.socket
    gated: bool
    """Whether the zygote waits before it has a VM."""

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
            **({"COPPICE_ZYGOTE_GATE": "1"} if self.gated else {}),
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
    sources = (SOURCE, *(SOURCE.with_name(name) for name in INCLUDED))
    content = b"".join(path.read_bytes() for path in sources)
    built_from = hashlib.sha256(content + repr(argv).encode()).hexdigest()
    target = cache / "programs" / built_from

    def compile(directory: Path) -> None:
        run_program("gcc", *_COMPILE, "-o", directory / "zygote.so", SOURCE)

    return entry(target, compile) / "zygote.so"


@contextlib.contextmanager
def preload(cache: Path, gated: bool = False) -> Iterator[tuple[socket.socket, Preload]]:
    """Our end of a future zygote's socket, and what to start its VMM with."""
    built = library(cache)
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with own, other:
        yield own, Preload(built, other, gated)


class Zygote:
    """Forks sandboxes from one VMM. Thread-safe; one fork at a time.

    `tap` is the descriptor of the guest's tap, if it has one; every fork then needs its own.
    `checkpoint` is what forks of a started program will restore; None: they are of a stopped guest.
    """

    def __init__(
        self,
        guest: QemuSandbox,
        channel: socket.socket,
        tap: int | None,
        checkpoint: Saved | None = None,
    ) -> None:
        self.guest = guest
        self._channel = channel
        self._tap = tap
        self._checkpoint = checkpoint
        self._lock = threading.Lock()
        channel.settimeout(ANSWER_S)

    def fork(
        self,
        run: Run,
        identity: Identity,
        tap: int | None = None,
        others: Sequence[tuple[int, int]] = (),
    ) -> QemuSandbox:
        """Fork a sandbox, with channels of its own: stopped like the zygote, or an empty VMM that
        is about to greet.

        `others` are further descriptors to replace: the number in the zygote, and the descriptor
        here to put there. Raises NotEnoughMemory, or a SandboxError with the zygote's failure.
        """
        if (tap is None) != (self._tap is None):
            raise SandboxError("a fork needs a tap if its zygote has one, and takes none otherwise")
        name = f"coppice-{identity.id}"
        place = self.guest.vmm.descriptors
        with contextlib.ExitStack() as other_ends, contextlib.ExitStack() as own_ends:
            near, far = channels(own_ends, other_ends, *(["incoming"] if self._checkpoint else []))
            log = self.guest.vmm.log.twin(run, name)
            own_ends.callback(log.drop)
            handle = log.opened()
            other_ends.callback(os.close, handle)
            jail = self.guest.vmm.jail and self.guest.vmm.jail.twin(identity)
            if jail:
                own_ends.callback(jail.remove)
            pairs = [(getattr(place, channel), end.fileno()) for channel, end in far.items()]
            pairs += [(1, handle), (2, handle), *others]
            if tap is not None and self._tap is not None:
                pairs.append((self._tap, tap))
            if jail:
                pairs += [(_ENTER[word], at) for word, at in jail.entrances(other_ends)]
            process = Child(self._ask(jail, pairs))
            own_ends.pop_all()
        vmm = Vmm.of(name, process, near, log, place, jail)
        source = self.guest
        return QemuSandbox(
            vmm,
            identity,
            VmState.EMPTY if self._checkpoint else VmState.STOPPED,
            self._checkpoint,
            guest_memory=source.guest_memory,
            key=source.agent.key,
        )

    def _ask(self, jail: Jail | None, pairs: list[tuple[int, int]]) -> int:
        """Request a fork; `pairs` are (number in the zygote, descriptor here). Returns its PID."""
        user = -1 if jail is None or jail.user is None else jail.user
        filtered = jail is not None and jail.jailer.has(Part.FILTER)
        numbers = [user, filtered, *(number for number, _ in pairs)]
        request = struct.pack(f"={len(numbers)}i", *numbers)
        try:
            with self._lock:
                socket.send_fds(self._channel, [request], [descriptor for _, descriptor in pairs])
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
