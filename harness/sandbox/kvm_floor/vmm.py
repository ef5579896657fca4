"""VMMs of kvm-floor: the processes that hold its VMs, and what the harness asks of them.

One process holds many VMs: a VM of its own process would cost more memory for the process than for
the VM. A host gets one for each processor that this process may use, since each serves one VM at a
time. The C side is programs/control.h.
"""

from __future__ import annotations

import array
import contextlib
import enum
import itertools
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from harness.errors import GuestDied, SandboxError, Unsupported
from harness.host.cpus import usable
from harness.host.run import Run
from harness.sandbox.qemu.confinement import VARIABLE, chosen
from harness.sandbox.shared_kernel import Log, reap

MOST = 16
"""VMMs of a run: a large host's processors are not all worth a process."""
ANSWER_S = 30
"""How long a VMM may take for a request: a guest that hangs is ended in five to ten seconds."""
_HEADER = struct.Struct("<III")
_REPLY = struct.Struct("<iIQ48s")


class What(enum.IntEnum):
    """A request, as in programs/control.h."""

    CREATE = 1
    WAKE = 2
    STOP = 3
    RESUMED = 4
    SAVE = 5
    DESTROY = 6


class Vmm:
    """One VMM. Thread-safe. Its end ends all of its VMs: their channels are closed then."""

    def __init__(self, run: Run, program: Path, image: Path, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._ended = False
        self._log = Log(run, name)
        self._control, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with far, image.open("rb") as opened:
                given = (opened.fileno(), far.fileno())
                self._process = subprocess.Popen(
                    [program, "serve", *map(str, given)],
                    stdin=subprocess.DEVNULL,
                    stdout=self._log.descriptor,
                    stderr=self._log.descriptor,
                    env={**run.environment, VARIABLE: str(chosen())},
                    pass_fds=given,
                    start_new_session=True,  # a keyboard interrupt must reach this process only
                )
        except BaseException:
            self._control.close()
            self._log.close()
            raise
        # Limits in the kernel: with Python's own, each call would poll first.
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._control.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", ANSWER_S, 0))
        if not self._received():
            why = self.died().args[0]
            self.end()
            raise Unsupported(f"kvm-floor cannot run here: {why}")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def message(self, slot: int, data: bytes) -> bytes:
        """The message that gives a stopped guest `data` as input and continues it."""
        return _HEADER.pack(What.WAKE, slot, len(data)) + data

    def send(self, message: bytes) -> None:
        """Send a message that the guest answers. On the timed path. Raises GuestDied."""
        try:
            self._control.send(message)
        except OSError as error:
            raise self.died() from error

    def create(self, channel: int, meanwhile: Callable[[], object] = bool) -> int:
        """A new VM whose channel is this descriptor; its number.

        `meanwhile` is called while the VMM makes it.
        """
        return self._ask(What.CREATE, passed=channel, meanwhile=meanwhile)[0]

    def stop(self, slot: int) -> None:
        self._ask(What.STOP, slot)

    def resumed_at(self, slot: int) -> float:
        """When a VM was last continued, in seconds of time.perf_counter."""
        return self._ask(What.RESUMED, slot)[1] / 1e9

    def save(self, slot: int, file: int) -> None:
        """Write the image of a stopped VM to a descriptor."""
        self._ask(What.SAVE, slot, file)

    def destroy(self, slot: int) -> None:
        """End a VM; nothing if the VMM has ended, and the VM with it."""
        with contextlib.suppress(GuestDied):
            self._ask(What.DESTROY, slot)

    def _ask(
        self,
        what: What,
        slot: int = 0,
        passed: int | None = None,
        meanwhile: Callable[[], object] = bool,
    ) -> tuple[int, int]:
        """The slot and value of a reply. Raises SandboxError with the step that failed."""
        rights: Sequence[tuple[int, int, array.array[int]]] = ()
        if passed is not None:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [passed]))]
        with self._lock:
            try:
                self._control.sendmsg([_HEADER.pack(what, slot, 0)], rights)
            except OSError as error:
                raise self.died() from error
            meanwhile()
            reply = self._received()
        if len(reply) < _REPLY.size:
            raise self.died()
        number, found, value, why = _REPLY.unpack(reply)
        if number:
            step = why.rstrip(b"\0").decode(errors="replace")
            raise SandboxError(f"{self.name}: {step}: {os.strerror(number)}")
        return found, value

    def _received(self) -> bytes:
        """A reply; empty when the VMM has ended, or gives none in time and is ended for it."""
        try:
            return self._control.recv(_REPLY.size)
        except BlockingIOError:
            self._process.kill()
        except OSError:
            pass
        return b""

    def died(self) -> GuestDied:
        """The error for a VM that is gone: what the VMM said, or how it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.1)  # its sockets close before it can be waited for
        code = self._process.poll()
        ended = "" if code is None else f"{self.name} has ended with code {code}"
        said = self._log.tail()
        return GuestDied(": ".join(filter(None, (ended, said))) or f"{self.name}: a VM is gone")

    def end(self) -> None:
        """End it, and every VM that it has. A second call does nothing."""
        if self._ended:
            return
        self._ended = True
        self._control.close()
        reap(self._process, 5)
        self._log.close()


class Vmms:
    """The VMMs of a run with one image: each launch takes the next. Thread-safe."""

    def __init__(self, start: Callable[[int], Vmm], count: int) -> None:
        self._start = start
        self._lock = threading.Lock()
        self._numbers = itertools.count(count)
        self._all: list[Vmm] = []
        self._turns = itertools.cycle(range(count))
        with contextlib.ExitStack() as undo:
            undo.callback(self.end)
            for number in range(count):
                self._all.append(start(number))
            undo.pop_all()

    def __iter__(self) -> Iterator[Vmm]:
        return iter(self._all)

    def next(self) -> Vmm:
        """One that runs; in the place of one that was killed, another is started."""
        index = next(self._turns)
        vmm = self._all[index]
        if vmm.runs:
            return vmm
        with self._lock:
            if not self._all[index].runs:
                self._all[index].end()
                try:
                    self._all[index] = self._start(next(self._numbers))
                except Unsupported as error:  # it could when the run began
                    raise GuestDied(f"no VMM can be started any more: {error.args[0]}") from error
            return self._all[index]

    def end(self) -> None:
        for vmm in self._all:
            vmm.end()


def count() -> int:
    """How many VMMs a run has on this host."""
    return min(usable(), MOST)
