"""A microVM under QEMU, from an empty or booting VMM to a guest that answers."""

from __future__ import annotations

import logging
import os
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol

from harness.errors import GuestDied, GuestTimeout, SandboxError, WrongAnswer
from harness.guest.agent_client import Agent, Finished, identity_fields
from harness.guest.protocol import (
    RING_ANSWER_LENGTH,
    Tag,
    field,
    ring,
    ring_answer,
    ring_dated,
    sendable,
)
from harness.host.identity import NO_KEY, Identity
from harness.measure import wall_clock
from harness.sandbox.base import ECHO
from harness.sandbox.protocol import HostProcess
from harness.sandbox.qemu.armed import await_armed
from harness.sandbox.qemu.qmp import Qmp
from harness.sandbox.qemu.vmm import CONTINUE, STOP, Vmm
from harness.sandbox.vm_state import VmState

log = logging.getLogger("coppice.qemu")
ARM_LIMIT_S = 30.0


class Saved(Protocol):
    """The source of a restore: the file of device state."""

    @property
    def devices(self) -> Path: ...


@dataclass(frozen=True)
class _Ring:
    """A nonce for the doorbell and the one right answer, computed before the timed path."""

    message: bytes
    answer: bytes


def _new_ring(key: bytes) -> _Ring:
    while not sendable(message := ring(nonce := os.urandom(8))):
        pass
    return _Ring(message, ring_answer(key, nonce))


def _limit_reads(line: socket.socket, seconds: float) -> None:
    """Set a timeout for blocking reads in the kernel, which saves a poll before each."""
    line.setblocking(True)
    limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)


class QemuSandbox:
    """Implements `harness.sandbox.protocol.Sandbox`."""

    def __init__(
        self,
        vmm: Vmm,
        identity: Identity,
        state: VmState,
        checkpoint: Saved | None = None,
        on_booted: Callable[[], None] = lambda: None,
        guest_memory: str = "",
        key: bytes = NO_KEY,
        on_loaded: Callable[[], None] = lambda: None,
    ) -> None:
        self.id = identity.id
        self.identity = identity
        self.agent = Agent(vmm.agent, vmm.name)
        self.agent.key = key
        self.vmm = vmm
        self._state = state
        self._booted = state is VmState.BOOTING
        self._checkpoint = checkpoint
        self._on_booted = on_booted
        self._on_loaded = on_loaded
        self.guest_memory = guest_memory
        self.masked: bool | None = None
        """Whether interrupts were masked when it was last armed; None before."""
        self._pending_identity = state is not VmState.RUNNING
        self._ring = _new_ring(key)
        self._replied = 0.0
        self._wall_offset = 0.0

    # The timed path.

    def awaken(self, timeout_s: float, dated: bool = False) -> float:
        """Bring the guest to a verified answer from any state; returns when that came.

        `dated`: a stopped guest sets its wall clock before it answers. Raises GuestTimeout,
        GuestDied, WrongAnswer.
        """
        try:
            if self._state is VmState.STOPPED:
                replied = self._ring_bell(timeout_s, dated)
            elif self._state is VmState.EMPTY:
                self._load(timeout_s)
                replied = self._ring_bell(timeout_s)
            else:
                replied = self._ask(timeout_s)
        except GuestTimeout as error:
            if stopped := self.vmm.stopped_by_kvm():
                raise stopped from error
            raise
        self._state = VmState.RUNNING
        self._replied = replied
        return replied

    def _ask(self, timeout_s: float) -> float:
        """Ping a guest that runs, or that is still booting."""
        try:
            if self._state is VmState.BOOTING:
                self.agent.wait_for_start(timeout_s)
                self._on_booted()
                self._state = VmState.RUNNING
            self.agent.ping(timeout_s)
            return time.perf_counter()
        except GuestDied as error:
            raise self.vmm.died() from error

    def _ring_bell(self, timeout_s: float, dated: bool = False) -> float:
        """Send a nonce over the doorbell, continue the guest, and verify its answer."""
        bell = self.vmm.bell
        _limit_reads(bell, timeout_s)
        try:
            self.ring_and_continue(dated)
            # The VMM sends each byte by itself; without MSG_WAITALL each would wake this thread.
            answer = bell.recv(RING_ANSWER_LENGTH, socket.MSG_WAITALL)
            while len(answer) < RING_ANSWER_LENGTH:
                piece = bell.recv(64)
                if not piece:
                    break
                answer += piece
            replied = time.perf_counter()
        except BlockingIOError as error:
            raise GuestTimeout(f"{self.vmm.name} did not answer the doorbell") from error
        except OSError as error:
            raise self.vmm.died() from error
        self._verify(answer)
        return replied

    def ring_and_continue(self, dated: bool) -> None:
        """Send a nonce to a stopped guest and continue it, without waiting for the answer."""
        if dated:
            while not sendable(message := ring_dated(os.urandom(4), time.time_ns())):
                pass
            self._ring = _Ring(message, ring_answer(self.agent.key, message[2:]))
        self.vmm.bell.send(self._ring.message)
        self.vmm.control.send(CONTINUE)

    def accept_answer(self, answer: bytes) -> None:
        """Verify the answer after `ring_and_continue`, for a caller that has read it itself."""
        self._verify(answer)
        self._state = VmState.RUNNING
        self._replied = time.perf_counter()

    def _verify(self, answer: bytes) -> None:
        # What follows the answer was printed by the guest's kernel.
        if answer[:RING_ANSWER_LENGTH] != self._ring.answer:
            if len(answer) < RING_ANSWER_LENGTH:
                raise self.vmm.died()
            raise WrongAnswer(f"{self.vmm.name} answered a nonce with a wrong hash")

    def _load(self, timeout_s: float) -> None:
        """Load device state into an empty VMM, which has mapped the checkpoint's memory already."""
        assert self._checkpoint and self.vmm.incoming
        try:
            self.vmm.incoming.sendall(self._checkpoint.devices.read_bytes())
            self.vmm.incoming.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self.vmm.died() from error
        while True:
            status = self.vmm.qmp.wait_status(timeout_s)
            if status == "completed":
                self._on_loaded()
                return
            if status == "failed":
                raise SandboxError(
                    f"{self.vmm.name} refused the checkpoint: {self.vmm.stderr_tail()}"
                )

    def first_exec(self, word: str) -> Finished:
        """The first process after waking. The message that starts it also carries what the guest
        lacks: its identity and wall clock, or only the wall clock."""
        fields = self._wall_clock()
        if self._pending_identity:
            fields += identity_fields(self.identity)
            self._pending_identity = False
            self.agent.key = self.identity.key
        return self.agent.identify_and_run(fields, (ECHO, word))

    def _wall_clock(self) -> bytes:
        """The wall-clock time at a moment that the guest knows: when it answered the doorbell."""
        if self._booted:
            return field(Tag.WALL_NS, time.time_ns())
        now, wall_ns = time.perf_counter(), time.time_ns()
        self._wall_offset = wall_ns / 1e9 - now
        return field(Tag.WALL_AT_RING_NS, wall_ns - int((now - self._replied) * 1e9))

    def touch(self, mib: int) -> None:
        """Write one word in every page of `mib` MiB of the guest's memory."""
        # Seeded per sandbox: KSM would merge equal words, and real working sets are not equal.
        self.agent.touch(mib, int.from_bytes(self.identity.key[:8]))

    def resumed_at(self) -> float:
        """When the VMM continued the vCPU, by the timestamp of its RESUME event.

        0 for a guest that booted: its vCPU has run since its VMM exists.
        """
        if self._booted:
            return 0.0
        wall = self.vmm.qmp.wait_resumed(5)
        # As close to the event as both clocks were read, so that slewing makes no difference.
        return wall - (self._wall_offset or wall_clock.read().offset)

    # Off the timed path.

    def ring_adopted(self, timeout_s: float) -> None:
        """Wake a guest that another process left in its doorbell loop."""
        self._ring = _new_ring(self.agent.key)
        self._ring_bell(timeout_s, dated=True)
        self._state = VmState.RUNNING

    @property
    def stopped(self) -> bool:
        return self._state is VmState.STOPPED

    @property
    def qmp(self) -> Qmp:
        return self.vmm.qmp

    @property
    def process(self) -> HostProcess | None:
        if not self.guest_memory:
            return None
        return HostProcess(self.vmm.process.pid, self.guest_memory)

    def adopt_identity(self, route: IPv4Address | None = None) -> None:
        """Apply the guest's identity now instead of with its first process, and a default route
        by this gateway."""
        self.agent.take_identity(self.identity, route)
        self._pending_identity = False

    def arm(self) -> None:
        """Put the guest into its doorbell loop, and compute the next nonce and answer.

        Raises GuestDied, and GuestTimeout with what it printed on its UART.
        """
        self.agent.arm()
        masked = await_armed(self.vmm.bell, self.vmm.name, ARM_LIMIT_S)
        if masked is None:
            raise self.vmm.died()
        if not masked:
            log.warning(
                "coppice: %s waits at its doorbell with interrupts on: its kernel may run first "
                "when it wakes",
                self.vmm.name,
            )
        self.masked = masked
        self._ring = _new_ring(self.agent.key)

    def stop(self) -> None:
        """Stop the vCPU; the guest must be armed."""
        self.vmm.control.send(STOP)
        self.qmp.wait_event("STOP", 10)
        self.vmm.skip_replies()
        self._booted = False
        self._state = VmState.STOPPED

    def resume(self) -> None:
        """Wake it unless it runs, and set its clock; not for timed paths."""
        if self._state is not VmState.RUNNING:
            self.awaken(30)
            self.agent.set_wall_clock()

    def destroy(self) -> None:
        """Kill the VMM and release the identity; may be called twice."""
        self.vmm.kill()
        self._on_booted()
        self.identity.release()
