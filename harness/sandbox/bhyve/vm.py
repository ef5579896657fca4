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
    """A virtual machine by its name. `process` runs it; `destroy` is the only way to end it."""

    def __init__(self, host: Host, name: str) -> None:
        self.host = host
        self.name = name
        self.process: HostProcess | None = None
        self._own_tap: str | None = None

    def plug(self, tap: int | None) -> int:
        """The unit number of the NIC's tap: `tap`, or a new tap that is connected to nothing. Every
        guest has a NIC, whose address distinguishes it from its twins."""
        if tap is not None:
            return tap
        self._own_tap = make_interface(self.host, "tap", self.name)
        return tap_number(self._own_tap)

    def create(self) -> None:
        """Create it, empty. NameTaken when the name exists: bhyveload, and bhyve with a bootrom,
        would use that virtual machine."""
        done = self.host.run(machine.create(self.name))
        if done.code:
            raise self._explained(failure(self.host, done))

    def load(self, shape: Shape, stage: str) -> None:
        """Load a kernel into its memory."""
        must(self.host, machine.load(shape, self.name, stage), timeout_s=LOAD_LIMIT_S)

    def start(self, arguments: Sequence[str]) -> HostProcess:
        """Start its process and return at once."""
        self.process = self.host.start(arguments, self.name)
        return self.process

    def stop(self) -> None:
        """Stop every vCPU: they are threads of the process."""
        assert self.process
        self.host.signal(self.process, signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process
        self.host.signal(self.process, signal.SIGCONT)

    def suspend(self, memory: str) -> None:
        """Save a checkpoint, which ends bhyve.

        Success is bhyve's exit and the presence of the files: on 13.2 bhyvectl exits with 64 when
        everything went well.
        """
        assert self.process
        done = self.host.run(machine.suspend(self.name, memory), timeout_s=SUSPEND_LIMIT_S)
        deadline = time.monotonic() + SUSPEND_LIMIT_S
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                raise GuestTimeout(
                    f"{self.name} was told to suspend but still runs: {done.error_text}"
                )
            if done.code and self.host.run(["test", "-e", memory]).code:
                raise failure(self.host, done)  # it did not start
            time.sleep(POLL_S)
        for path in (memory, f"{memory}.kern", f"{memory}.meta"):
            if self.host.run(["test", "-s", path]).code:
                raise (
                    failure(self.host, done)
                    if done.error_text
                    else SandboxError(
                        f"{self.name} was suspended, but {path} is missing: {self.output()}"
                    )
                )

    def died(self) -> GuestDied:
        """The error for a guest that has ended or is ending, with bhyve's exit code."""
        code = self.process.poll() if self.process else None
        output = self.output()
        return GuestDied(
            f"{self.name} went away: {machine.ending(code)}" + (f": {output}" if output else "")
        )

    def output(self) -> str:
        return self.process.error_text() if self.process else ""

    def destroy(self, keep: bool = False) -> None:
        """Kill the process, then destroy the virtual machine, which would otherwise stay in the
        kernel; may be called twice. SIGKILL, because a stopped process handles no other signal.
        `keep` leaves a virtual machine that another process created."""
        if self.process is not None:
            self.process.end()
            self.process = None
        if not keep:
            self.host.run(machine.destroy(self.name))
        if self._own_tap is not None:
            remove_interface(self.host, self._own_tap)
            self._own_tap = None

    def _explained(self, error: Exception) -> Exception:
        """The error for a name that is taken, for a kernel without vmm, or `error` itself."""
        said = error.error_text if isinstance(error, CommandFailed) else ""
        # 13.2's bhyvectl exits with 255 and prints nothing, whatever the reason.
        if self.host.run(["test", "-e", f"/dev/vmm/{self.name}"]).code == 0:
            return NameTaken(
                f"/dev/vmm/{self.name} exists already and was left alone",
                hint=f"coppice clean, or: bhyvectl --vm={self.name} --destroy",
            )
        if "No such file" in said or "not configured" in said:
            return Unsupported(f"vmm does not work here: {said}", hint="coppice doctor")
        return error
