"""One QEMU process and our four lines to it.

`agent`    the guest's virtio port (or its UART)
`bell`     the guest's UART, for the doorbell
`qmp`      QMP, for set-up
`control`  the gdb stub, only to stop and continue: QMP reads its input one byte at a time, which
           alone costs more than the continuing

All are socket pairs, connected before the process starts: no file, no listener, no race.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from harness.errors import GuestDied
from harness.host import evidence
from harness.host.process import need
from harness.host.run import Run
from harness.sandbox.qemu.machine import Descriptors
from harness.sandbox.qemu.qmp import Qmp

CONTINUE = b"$c#63"
STOP = b"\x03"


LINES = ("agent", "qmp", "control", "bell")


class Process(Protocol):
    """What this module asks of a process that it has: started, or forked."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def kill(self) -> None: ...


@dataclass
class Vmm:
    """A VMM process; `kill` is its only end. `descriptors` are the numbers of the lines' other
    ends there."""

    name: str
    process: Process
    agent: socket.socket
    bell: socket.socket
    qmp: Qmp
    control: socket.socket
    incoming: socket.socket | None
    log: Path
    descriptors: Descriptors

    @classmethod
    def of(
        cls,
        name: str,
        process: Process,
        near: Mapping[str, socket.socket],
        log: Path,
        descriptors: Descriptors,
    ) -> Self:
        """A process with our ends of its lines."""
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
        )

    def said(self) -> str:
        """What the VMM wrote on stderr, for an error message."""
        with contextlib.suppress(OSError):
            lines = self.log.read_text(errors="replace").strip().splitlines()
            return " | ".join(line for line in lines if "has no peer" not in line)[-400:]
        return ""

    def died(self) -> GuestDied:
        """The error for a VMM that is gone or going, with what it said last."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1)  # its line may break before it has ended
        code = self.process.poll()
        return GuestDied(
            f"the VMM of {self.name} ended" + (f" with {code}" if code is not None else "")
            + (f": {self.said()}" if self.said() else "")
        )  # fmt: skip

    def greeting(self, timeout_s: float) -> None:
        """Wait for the VMM to introduce itself; GuestDied says why it did not."""
        try:
            self.qmp.greeting(timeout_s)
        except GuestDied as error:
            raise self.died() from error

    def send_descriptor(self, name: str, descriptor: int) -> None:
        """Hand an open file to the VMM, which knows it by `name` from then on."""
        self.qmp.execute("getfd", descriptor=descriptor, fdname=name)

    def kill(self) -> None:
        """End the process and close every line; safe to call twice."""
        code = self.process.poll()
        if code is None:
            self.process.kill()
        self.process.wait()
        note = evidence.ended_by_itself(code)
        if evidence.wanted(bool(note)) and self.bell.fileno() >= 0:
            evidence.add(f"{self.name}.serial", _unread(self.bell))
        for line in (self.agent, self.bell, self.qmp, self.control, self.incoming):
            if line is not None:
                line.close()
        evidence.drop(self.log, note)


def _unread(line: socket.socket) -> bytes:
    """What a guest has written to its UART that was not read: it speaks there alone."""
    data = b""
    with contextlib.suppress(OSError):
        line.setblocking(False)
        while len(data) < evidence.FILE_LIMIT and (piece := line.recv(1 << 16)):
            data += piece
    return data


def lines(
    ours: contextlib.ExitStack, theirs: contextlib.ExitStack, *more: str
) -> tuple[dict[str, socket.socket], dict[str, socket.socket]]:
    """Socket pairs by the line's name: our ends and theirs, each closed by its stack."""
    near, far = {}, {}
    for line in (*LINES, *more):
        one, other = socket.socketpair()
        near[line], far[line] = ours.enter_context(one), theirs.enter_context(other)
    return near, far


def log_of(run: Run, name: str) -> tuple[Path, int]:
    """The file that a VMM writes its words to, and its descriptor."""
    log = run.directory / f"{name}.log"
    return log, os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)


def spawn(
    run: Run,
    name: str,
    arguments: Callable[[Descriptors], Sequence[str]],
    *,
    incoming: bool,
    inherited: Sequence[int] = (),
    through: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Vmm:
    """Start a VMM, not waiting for it. `arguments` makes its command line from our descriptors.

    It has the open files `inherited` too, and `environment` beside the run's. `through` is a
    program that becomes the VMM.
    """
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        near, far = lines(ours, theirs, *(["incoming"] if incoming else []))
        numbers = Descriptors(**{line: end.fileno() for line, end in far.items()})
        words = list(arguments(numbers))
        words[0] = need(words[0])
        if through:
            words.insert(0, str(through))
        log, handle = log_of(run, name)
        theirs.callback(os.close, handle)
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=handle,
            pass_fds=[*(end.fileno() for end in far.values()), *inherited],
            env={**run.environment, **(environment or {})},
            # An interrupt at the terminal is not for it. No session of its own: the scheduler
            # shares CPUs between sessions, and all callers together would count as one VMM.
            process_group=0,
        )
        ours.pop_all()
        return Vmm.of(name, process, near, log, numbers)
