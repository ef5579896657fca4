"""A microVM under bhyve, from an empty machine in the kernel to a guest that answers."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.errors import GuestDied, SandboxGone
from harness.guest.agent_client import Agent, Finished, identity_fields
from harness.guest.protocol import Tag, field
from harness.host.identity import NO_KEY, Identity
from harness.sandbox.bhyve.vm import Vm
from harness.sandbox.protocol import HostProcess

ECHO = "/bin/echo"


class State(enum.Enum):
    """What a microVM needs to answer: to finish booting, its process, to be continued, nothing.

    bhyve cannot wait for a checkpoint: of an EMPTY one there is the machine in the kernel alone.
    """

    BOOTING = "booting"
    EMPTY = "empty"
    STOPPED = "stopped"
    RUNNING = "running"


@dataclass(frozen=True)
class Start:
    """How an empty machine becomes a guest: bhyve's arguments, and who it may be."""

    arguments: Sequence[str]


class BhyveSandbox:
    """Implements `harness.sandbox.protocol.Sandbox`."""

    def __init__(
        self,
        vm: Vm,
        identity: Identity,
        state: State,
        start: Start | None = None,
        booted: Callable[[], None] = lambda: None,
    ) -> None:
        self.id = identity.id
        self.identity = identity
        self.vm = vm
        self._state = state
        self._start = start
        self._end_of_boot = booted
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
        """Its bhyve; guest memory is no file of that process's."""
        return HostProcess(self.vm.process.pid, "") if self.vm.process else None

    def _speak(self) -> None:
        assert self.vm.process
        self._agent = Agent(self.vm.process.channel, self.vm.name)
        self._agent.key = NO_KEY

    # The timed path.

    def awaken(self, timeout_s: float) -> float:
        """From whatever state it is in to a verified answer; when that was (perf_counter).

        Raises GuestTimeout, GuestDied, WrongAnswer.
        """
        try:
            if self._state is State.EMPTY:
                assert self._start
                self.vm.start(self._start.arguments)
                self._speak()
            if self._state is State.BOOTING:
                self.agent.wait_for_start(timeout_s)
                self._end_of_boot()
            # The nonce waits on the line before the vCPU runs: it is the first thing that it sees.
            pending = self.agent.send_ping()
            if self._state is State.STOPPED:
                self.vm.resume()
                self._resumed = time.perf_counter()
            self.agent.receive_pong(pending, timeout_s)
        except GuestDied as error:
            raise self.vm.died() from error
        replied = time.perf_counter()
        if self._state is not State.STOPPED:
            # bhyve tells nobody when a vCPU begins to run: the reply shows it.
            self._resumed = 0.0 if self._state is State.BOOTING else replied
        self._state = State.RUNNING
        return replied

    def first_exec(self, word: str) -> Finished:
        """The first process after waking. What the guest does not know yet of itself (identity,
        or only the wall clock, which stood still) goes before it in the same message."""
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
        """When the signal that lets its vCPU run was sent; the reply, where none was. 0 for a
        guest that booted: its vCPU ran as soon as its machine did."""
        return self._resumed

    # Off the timed path.

    def adopt_identity(self) -> None:
        """Make the guest who it is, now rather than with its first process."""
        self.agent.take_identity(self.identity)
        self._pending_identity = False

    def arm(self) -> None:
        """The agent waits in a blocking read of com1, which is where `stop` may hold it."""

    def stop(self) -> None:
        """Hold the vCPUs by stopping the process."""
        self.vm.stop()
        self._state = State.STOPPED

    def destroy(self) -> None:
        """End bhyve and the machine, give the address back; safe to call twice."""
        self.vm.destroy()
        self._end_of_boot()
        self.identity.release()
