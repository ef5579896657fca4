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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import GuestDied
from harness.host.process import need
from harness.host.run import Run
from harness.sandbox.qemu.machine import Descriptors
from harness.sandbox.qemu.qmp import Qmp

CONTINUE = b"$c#63"
STOP = b"\x03"


@dataclass
class Vmm:
    """A VMM process; `kill` is its only end."""

    name: str
    process: subprocess.Popen[bytes]
    agent: socket.socket
    bell: socket.socket
    qmp: Qmp
    control: socket.socket
    incoming: socket.socket | None
    log: Path

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
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for line in (self.agent, self.bell, self.qmp, self.control, self.incoming):
            if line is not None:
                line.close()
        self.log.unlink(missing_ok=True)


def spawn(
    run: Run,
    name: str,
    arguments: Callable[[Descriptors], Sequence[str]],
    *,
    incoming: bool,
    inherited: Sequence[int] = (),
    through: Path | None = None,
) -> Vmm:
    """Start a VMM, not waiting for it. `arguments` makes its command line from our descriptors.

    It has the open files `inherited` too. `through` is a program that becomes the VMM.
    """
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        pairs = {}
        for line in ("agent", "qmp", "control", "bell", *(["incoming"] if incoming else [])):
            near, far = socket.socketpair()
            ours.enter_context(near)
            theirs.enter_context(far)
            pairs[line] = (near, far)
        numbers = Descriptors(**{line: far.fileno() for line, (_, far) in pairs.items()})
        log = run.folder / f"{name}.log"
        words = list(arguments(numbers))
        words[0] = need(words[0])
        if through:
            words.insert(0, str(through))
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=handle,
                pass_fds=[*(far.fileno() for _, far in pairs.values()), *inherited],
                env=dict(run.environment),
                # An interrupt at the terminal is not for it. No session of its own: the scheduler
                # shares CPUs between sessions, and all callers together would count as one VMM.
                process_group=0,
            )
        finally:
            os.close(handle)
        ours.pop_all()
        near_ends = {line: near for line, (near, _) in pairs.items()}
        return Vmm(
            name,
            process,
            near_ends["agent"],
            near_ends["bell"],
            Qmp(near_ends["qmp"], name),
            near_ends["control"],
            near_ends.get("incoming"),
            log,
        )
