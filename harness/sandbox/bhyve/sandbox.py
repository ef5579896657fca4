"""A microVM under bhyve, from an empty virtual machine to a guest that answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from harness.errors import GuestDied, SandboxGone
from harness.guest.agent_client import Agent, Finished, identity_fields
from harness.guest.protocol import Tag, field
from harness.host.identity import NO_KEY, Identity
from harness.sandbox.base import ECHO
from harness.sandbox.bhyve.vm import Vm
from harness.sandbox.protocol import HostProcess
from harness.sandbox.vm_state import VmState


class BhyveSandbox:
    """Implements `harness.sandbox.protocol.Sandbox`.

    An EMPTY one is a virtual machine in the kernel without a process: bhyve cannot wait for a
    checkpoint. `restore` is the argv of its process.
    """

    def __init__(
        self,
        vm: Vm,
        identity: Identity,
        state: VmState,
        restore: Sequence[str] = (),
        on_booted: Callable[[], None] = lambda: None,
    ) -> None:
        self.id = identity.id
        self.identity = identity
        self.vm = vm
        self._state = state
        self._restore = restore
        self._on_booted = on_booted
        self._agent: Agent | None = None
        self._pending_identity = True
        self._resumed = 0.0
        if vm.process is not None:
            self._speak()

    @property
    def agent(self) -> Agent:
        if self._agent is None:
            raise SandboxGone(f"{self.vm.name} is not restored yet")
        return self._agent

    @property
    def process(self) -> HostProcess | None:
        """Its bhyve process, in which no file backs guest memory."""
        return HostProcess(self.vm.process.pid, "") if self.vm.process else None

    def _speak(self) -> None:
        assert self.vm.process
        self._agent = Agent(self.vm.process.channel, self.vm.name)
        self._agent.key = NO_KEY

    # The timed path.

    def awaken(self, timeout_s: float) -> float:
        """Bring the guest to a verified answer from any state; returns when that came.

        Raises GuestTimeout, GuestDied, WrongAnswer.
        """
        try:
            if self._state is VmState.EMPTY:
                self.vm.start(self._restore)
                self._speak()
            if self._state is VmState.BOOTING:
                self.agent.wait_for_start(timeout_s)
                self._on_booted()
            # The nonce is in the channel before the vCPU runs: the guest reads it first.
            pending = self.agent.send_ping()
            if self._state is VmState.STOPPED:
                self.vm.resume()
                self._resumed = time.perf_counter()
            self.agent.receive_pong(pending, timeout_s)
        except GuestDied as error:
            raise self.vm.died() from error
        replied = time.perf_counter()
        if self._state is not VmState.STOPPED:
            # bhyve does not report when a vCPU starts to run; the reply is an upper bound.
            self._resumed = 0.0 if self._state is VmState.BOOTING else replied
        self._state = VmState.RUNNING
        return replied

    def first_exec(self, word: str) -> Finished:
        """The first process after waking. The message that starts it also carries what the guest
        lacks: its identity and wall clock, or only the wall clock."""
        fields = field(Tag.WALL_NS, time.time_ns())
        if self._pending_identity:
            fields += identity_fields(self.identity)
            self._pending_identity = False
            self.agent.key = self.identity.key
        return self.agent.identify_and_run(fields, (ECHO, word))

    def touch(self, mib: int) -> None:
        """Write one word in every page of `mib` MiB of the guest's memory."""
        self.agent.touch(mib, int.from_bytes(self.identity.key[:8]))

    def resumed_at(self) -> float:
        """When SIGCONT was sent; the time of the reply for a restored guest; 0 for a guest that
        booted: its vCPU has run since its process exists."""
        return self._resumed

    # Off the timed path.

    def adopt_identity(self) -> None:
        """Apply the guest's identity now instead of with its first process."""
        self.agent.take_identity(self.identity)
        self._pending_identity = False

    def arm(self) -> None:
        """Nothing to do: the agent waits in a blocking read of com1, where it may be stopped."""

    def stop(self) -> None:
        """Stop the vCPUs by stopping the process."""
        self.vm.stop()
        self._state = VmState.STOPPED

    def destroy(self) -> None:
        """Kill bhyve, destroy the virtual machine, release the identity; may be called twice."""
        self.vm.destroy()
        self._on_booted()
        self.identity.release()
