"""One virtual machine in the kernel and, while it runs, its bhyve process."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence

from harness.errors import (
    CommandFailed,
    GuestDied,
    GuestTimeout,
    NameTaken,
    SandboxError,
    Unsupported,
)
from harness.host.protocol import Host, HostProcess, failure, must
from harness.network.pf_cubenet import make_interface, remove_interface, tap_number
from harness.sandbox.bhyve import machine
from harness.sandbox.bhyve.machine import Shape

LOAD_LIMIT_S = 300.0
SUSPEND_LIMIT_S = 600.0
POLL_S = 0.05


class Vm:
    """A virtual machine by its name; `destroy` is its only end. `process` runs it."""

    def __init__(self, host: Host, name: str) -> None:
        self.host = host
        self.name = name
        self.process: HostProcess | None = None
        self._own_tap: str | None = None

    def plug(self, tap: int | None) -> int:
        """The tap of its card: that one, or one of its own, which leads nowhere. A guest has a
        card in any case, so that it has an address to be told from its twins by."""
        if tap is not None:
            return tap
        self._own_tap = make_interface(self.host, "tap", self.name)
        return tap_number(self._own_tap)

    def create(self) -> None:
        """Make it in the kernel, empty. NameTaken when one of that name is there already, which
        bhyveload, and bhyve with a bootrom, would take for their own."""
        done = self.host.run(machine.create(self.name))
        if done.code:
            raise self._explained(failure(self.host, done))

    def load(self, shape: Shape, stage: str) -> None:
        """Put a kernel in the memory of one that was made."""
        must(self.host, machine.load(shape, self.name, stage), timeout_s=LOAD_LIMIT_S)

    def start(self, arguments: Sequence[str]) -> HostProcess:
        """Run it, not waiting for it."""
        self.process = self.host.start(arguments, self.name)
        return self.process

    def stop(self) -> None:
        """Hold every vCPU: their threads are the process's."""
        assert self.process
        self.host.signal(self.process, signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process
        self.host.signal(self.process, signal.SIGCONT)

    def suspend(self, memory: str) -> None:
        """Write a checkpoint; bhyve ends with it.

        What counts is that bhyve has ended and the files are there: on 13.2 bhyvectl ends with 64
        when all went well.
        """
        assert self.process
        done = self.host.run(machine.suspend(self.name, memory), timeout_s=SUSPEND_LIMIT_S)
        deadline = time.monotonic() + SUSPEND_LIMIT_S
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                raise GuestTimeout(
                    f"{self.name} was told to suspend, and has not: {done.error_text}"
                )
            if done.code and self.host.run(["test", "-e", memory]).code:
                raise failure(self.host, done)  # it was not even begun
            time.sleep(POLL_S)
        for path in (memory, f"{memory}.kern", f"{memory}.meta"):
            if self.host.run(["test", "-s", path]).code:
                raise (
                    failure(self.host, done)
                    if done.error_text
                    else SandboxError(
                        f"{self.name} was suspended, and {path} is not there: {self.said()}"
                    )
                )

    def died(self) -> GuestDied:
        """The error for a guest that is gone or going, with what bhyve ended with."""
        code = self.process.poll() if self.process else None
        said = self.said()
        return GuestDied(
            f"{self.name} went away: {machine.ending(code)}" + (f": {said}" if said else "")
        )

    def said(self) -> str:
        return self.process.error_text() if self.process else ""

    def destroy(self, keep: bool = False) -> None:
        """End the process, then the machine, which stays in the kernel otherwise; safe to call
        twice. Killed, not asked: a process that is stopped hears nothing else. `keep` leaves a
        machine that is somebody else's."""
        if self.process is not None:
            self.process.end()
            self.process = None
        if not keep:
            self.host.run(machine.destroy(self.name))
        if self._own_tap is not None:
            remove_interface(self.host, self._own_tap)
            self._own_tap = None

    def _explained(self, error: Exception) -> Exception:
        """A stale /dev/vmm entry, and a kernel without vmm, told from other failures."""
        said = error.error_text if isinstance(error, CommandFailed) else ""
        # 13.2's bhyvectl ends with 255 and says nothing, whatever the reason.
        if self.host.run(["test", "-e", f"/dev/vmm/{self.name}"]).code == 0:
            return NameTaken(
                f"/dev/vmm/{self.name} is there already; it was left as it is",
                hint=f"coppice clean, or: bhyvectl --vm={self.name} --destroy",
            )
        if "No such file" in said or "not configured" in said:
            return Unsupported(f"vmm does not work here: {said}", hint="coppice doctor")
        return error
