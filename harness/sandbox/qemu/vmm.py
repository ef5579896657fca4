"""One QEMU process and the four channels to it.

`agent`    the guest's virtio port (or its UART)
`bell`     the guest's UART, for the doorbell
`qmp`      QMP, for set-up
`control`  the gdb stub, used only to stop and continue: QMP reads its input byte by byte, which
           takes longer than the continue itself

All are socket pairs, connected before the process starts: no file, no listener, no race.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from harness.errors import GuestDied, SandboxError
from harness.host import evidence, kvm_device
from harness.host.process import need
from harness.host.run import Run
from harness.sandbox.qemu import jail as jails
from harness.sandbox.qemu.child import Child
from harness.sandbox.qemu.jail import Jail
from harness.sandbox.qemu.machine import Descriptors
from harness.sandbox.qemu.qmp import Qmp
from harness.sandbox.qemu.vmm_log import BoundedLog, FileLog, VmmLog, kvm_failure, tail

CONTINUE = b"$c#63"
STOP = b"\x03"


CHANNELS = ("agent", "qmp", "control", "bell")


class Process(evidence.Waitable, Protocol):
    """A VMM process that this one has started or forked: the part of Popen that is used."""

    pid: int

    def kill(self) -> None: ...


@dataclass
class Vmm:
    """A VMM process; `kill` is the only way to end it. `descriptors` are the other ends of the
    channels, by their numbers in the VMM."""

    name: str
    process: Process
    agent: socket.socket
    bell: socket.socket
    qmp: Qmp
    control: socket.socket
    incoming: socket.socket | None
    log: VmmLog
    descriptors: Descriptors
    jail: Jail | None
    """What confines it; None: nothing does."""

    @classmethod
    def of(
        cls,
        name: str,
        process: Process,
        near: Mapping[str, socket.socket],
        log: VmmLog,
        descriptors: Descriptors,
        jail: Jail | None,
    ) -> Self:
        """A process with this process's ends of its channels."""
        return cls(
            name,
            process,
            near["agent"],
            near["bell"],
            Qmp(near["qmp"], name),
            near["control"],
            near.get("incoming"),
            log,
            descriptors,
            jail,
        )

    def stderr_tail(self) -> str:
        """The end of the VMM's stderr, for error messages."""
        return tail(self.log)

    def died(self) -> GuestDied:
        """The error for a VMM that has broken a channel, with the end of its stderr: as a rule it
        has ended or is ending."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1)  # its channel may break before the process has ended
        code = self.process.poll()
        what = "closed a channel, but still runs" if code is None else f"ended with {code}"
        said = self.stderr_tail()
        return GuestDied(
            f"the VMM of {self.name} {what}" + (f": {said}" if said else ""),
            hint=kvm_device.hint_for(said),
        )

    def stopped_by_kvm(self) -> GuestDied | None:
        """The error for a guest whose processor KVM has stopped for good, which its VMM outlives;
        None for any other that does not answer."""
        if not (said := kvm_failure(self.log)):
            return None
        return GuestDied(
            f"KVM has stopped the processor of {self.name}: {said}",
            hint="this KVM cannot run that kernel: COPPICE_ACCELERATOR=tcg does without it",
        )

    def greeting(self, timeout_s: float) -> None:
        """Wait for QMP's greeting. GuestDied has the VMM's stderr."""
        try:
            self.qmp.greeting(timeout_s)
        except GuestDied as error:
            raise self.died() from error

    def send_descriptor(self, name: str, descriptor: int) -> None:
        """Pass an open file to the VMM, under a name for later commands."""
        self.qmp.execute("getfd", descriptor=descriptor, fdname=name)

    def skip_replies(self) -> None:
        """Drop what the gdb stub has replied. The VMM waits without end for room to reply in, of
        which there is enough for some 140 stops."""
        with contextlib.suppress(OSError):
            while len(self.control.recv(1 << 16, socket.MSG_DONTWAIT)) == 1 << 16:
                pass

    @contextlib.contextmanager
    def lent(self, descriptor: int) -> Iterator[str]:
        """The path of a file that this process has open, for QMP's commands."""
        added = self.qmp.execute("add-fd", descriptor=descriptor)
        try:
            yield f"/dev/fdset/{added['fdset-id']}"
        finally:
            with contextlib.suppress(SandboxError):
                self.qmp.execute("remove-fd", **{"fdset-id": added["fdset-id"]})

    def kill(self) -> None:
        """Kill the process and close every channel; may be called twice."""
        channels = (self.agent, self.bell, self.qmp, self.control)
        code = evidence.code_if_ended(self.process, *(each.fileno() for each in channels))
        if code is None:
            self.process.kill()
        self.process.wait()
        note = evidence.ended_by_itself(code)
        if evidence.wanted(bool(note)) and self.bell.fileno() >= 0:
            evidence.add(f"{self.name}.serial", _unread(self.bell))
        for channel in (*channels, self.incoming):
            if channel is not None:
                channel.close()
        if self.jail:
            self.jail.remove()
        self.log.drop(note)


def _unread(channel: socket.socket) -> bytes:
    """The unread bytes that the guest wrote to its UART."""
    data = b""
    with contextlib.suppress(OSError):
        channel.setblocking(False)
        while len(data) < evidence.FILE_LIMIT and (piece := channel.recv(1 << 16)):
            data += piece
    return data


def channels(
    own_ends: contextlib.ExitStack, other_ends: contextlib.ExitStack, *more: str
) -> tuple[dict[str, socket.socket], dict[str, socket.socket]]:
    """Socket pairs by channel name: this process's ends and the VMM's, each closed by its stack."""
    near, far = {}, {}
    for name in (*CHANNELS, *more):
        own, other = socket.socketpair()
        near[name], far[name] = own_ends.enter_context(own), other_ends.enter_context(other)
    return near, far


@contextlib.contextmanager
def opened(*files: Path, write: bool = False) -> Iterator[list[int]]:
    """Descriptors of files, for a VMM to inherit."""
    with contextlib.ExitStack() as stack:
        mode = os.O_RDWR if write else os.O_RDONLY
        handles = []
        for file in files:
            handles.append(os.open(file, mode | os.O_CLOEXEC))
            stack.callback(os.close, handles[-1])
        yield handles


def inherited(descriptor: int) -> Path:
    """The path of a file that a VMM has inherited: its root has no others."""
    return Path(f"/proc/self/fd/{descriptor}")


def spawn(
    run: Run,
    name: str,
    arguments: Callable[[Descriptors], Sequence[str]],
    *,
    incoming: bool,
    given: Sequence[int] = (),
    through: Path | None = None,
    environment: Mapping[str, str] | None = None,
    jail: Jail | None = None,
    zygote: Path | None = None,
    bounded_log: bool = False,
) -> Vmm:
    """Start a VMM and return at once. `arguments` makes its argv from its ends of the channels.

    The VMM also inherits the descriptors `given`, and `environment` extends the run's.
    `through` is a program that executes its arguments (a wrapper). The VMM is confined by `jail`,
    which is removed if this fails; `zygote` is the library that will fork it, if one will.
    `bounded_log` is for one that may write large files.
    """
    with contextlib.ExitStack() as other_ends, contextlib.ExitStack() as own_ends:
        if jail:
            own_ends.callback(jail.remove)
        near, far = channels(own_ends, other_ends, *(["incoming"] if incoming else []))
        numbers = Descriptors(**{name: end.fileno() for name, end in far.items()})
        argv = list(arguments(numbers))
        argv[0] = need(argv[0])
        log: VmmLog = BoundedLog.new(name) if bounded_log else FileLog(run, name)
        own_ends.callback(log.drop)
        handle = log.opened()
        other_ends.callback(os.close, handle)
        passed = [*(end.fileno() for end in far.values()), *given]
        report = -1
        if jail:
            report, answer = os.pipe()
            other_ends.callback(os.close, report)
            closing = other_ends.enter_context(contextlib.ExitStack())
            closing.callback(os.close, answer)
            prefix, more = closing.enter_context(jail.starting(answer, zygote))
            argv, passed = [*prefix, *argv], [*passed, *more]
        if through:
            argv.insert(0, str(through))
        started = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=handle,
            pass_fds=passed,
            env={**run.environment, **jails.environment(environment or {}, jail)},
            # Ctrl-C must not reach it. No new session: the scheduler shares CPUs among sessions
            # (autogroups), so all callers together would get as much as one VMM.
            process_group=0,
        )
        process: Process = started
        if jail:
            closing.close()
            process = _confined(started, report, log)
        own_ends.pop_all()
        return Vmm.of(name, process, near, log, numbers, jail)


def _confined(started: subprocess.Popen[bytes], report: int, log: VmmLog) -> Child:
    """The VMM that a jail has started, which ends then. Raises SandboxError when it has not."""
    answer = os.read(report, 4)
    started.wait()
    (pid,) = struct.unpack("=i", answer) if len(answer) == 4 else (0,)
    if pid <= 0:
        why = os.strerror(-pid) if pid else log.read().decode(errors="replace").strip()[-400:]
        raise SandboxError(f"a VMM could not be confined: {why or 'no message'}")
    return Child(pid)
