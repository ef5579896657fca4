"""A microVM under QEMU, from an empty or booting VMM to a guest that answers."""

from __future__ import annotations

import enum
import os
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.errors import GuestDied, GuestTimeout, SandboxError, WrongAnswer
from harness.guest.agent_client import Agent, Finished, identity_fields
from harness.guest.protocol import (
    ARMED,
    RING_ANSWER_LENGTH,
    Tag,
    field,
    ring,
    ring_answer,
    ring_dated,
)
from harness.host.identity import NO_KEY, Identity
from harness.sandbox.protocol import HostProcess
from harness.sandbox.qemu.qmp import Qmp
from harness.sandbox.qemu.vmm import CONTINUE, STOP, Vmm

ECHO = "/bin/echo"


class State(enum.Enum):
    """What a microVM needs to answer: to finish booting, a checkpoint, to be continued, nothing."""

    BOOTING = "booting"
    EMPTY = "empty"
    STOPPED = "stopped"
    RUNNING = "running"


class Saved(Protocol):
    """What a guest is restored from: the file of its device state."""

    @property
    def devices(self) -> Path: ...


@dataclass(frozen=True)
class _Ring:
    """A nonce for the doorbell and the answer that only this guest can give, made beforehand."""

    message: bytes
    answer: bytes


def _new_ring(key: bytes) -> _Ring:
    nonce = os.urandom(8)
    return _Ring(ring(nonce), ring_answer(key, nonce))


def _patience(line: socket.socket, seconds: float) -> None:
    """Give blocking reads of a socket a limit in the kernel: no poll call before each of them."""
    line.setblocking(True)
    limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)


class QemuSandbox:
    """Implements `harness.sandbox.protocol.Sandbox`."""

    def __init__(
        self,
        vmm: Vmm,
        identity: Identity,
        state: State,
        checkpoint: Saved | None = None,
        booted: Callable[[], None] = lambda: None,
        guest_memory: str = "",
        key: bytes = NO_KEY,
        loaded: Callable[[], None] = lambda: None,
    ) -> None:
        self.id = identity.id
        self.identity = identity
        self.agent = Agent(vmm.agent, vmm.name)
        self.agent.key = key
        self.vmm = vmm
        self._state = state
        self._booted = state is State.BOOTING
        self._checkpoint = checkpoint
        self._end_of_boot = booted
        self._loaded = loaded
        self.guest_memory = guest_memory
        self._pending_identity = state is not State.RUNNING
        self._ring = _new_ring(key)
        self._replied = 0.0

    # The timed path.

    def awaken(self, timeout_s: float, dated: bool = False) -> float:
        """From whatever state it is in to a verified answer; when that was (perf_counter).

        `dated`: one that is held has its wall clock set before it answers. Raises GuestTimeout,
        GuestDied, WrongAnswer.
        """
        if self._state is State.STOPPED:
            replied = self._ring_bell(timeout_s, dated)
        elif self._state is State.EMPTY:
            self._load(timeout_s)
            replied = self._ring_bell(timeout_s)
        else:
            replied = self._ask(timeout_s)
        self._state = State.RUNNING
        self._replied = replied
        return replied

    def _ask(self, timeout_s: float) -> float:
        """Put a nonce to a guest that runs, or will when it has booted."""
        try:
            if self._state is State.BOOTING:
                self.agent.wait_for_start(timeout_s)
                self._end_of_boot()
                self._state = State.RUNNING
            self.agent.ping(timeout_s)
            return time.perf_counter()
        except GuestDied as error:
            raise self.vmm.died() from error

    def _ring_bell(self, timeout_s: float, dated: bool = False) -> float:
        """Put a nonce before the guest, let it run, wait for its answer."""
        bell = self.vmm.bell
        _patience(bell, timeout_s)
        try:
            self.let_go(dated)
            answer = bell.recv(64)
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
        self._believe(answer)
        return replied

    def let_go(self, dated: bool) -> None:
        """Put a nonce before a guest that is held, and let it run."""
        if dated:
            message = ring_dated(os.urandom(4), time.time_ns())
            self._ring = _Ring(message, ring_answer(self.agent.key, message[2:]))
        self.vmm.bell.send(self._ring.message)
        self.vmm.control.send(CONTINUE)

    def answered(self, answer: bytes) -> None:
        """It runs, if this is its answer; for who has let it go and waits for that by himself."""
        self._believe(answer)
        self._state = State.RUNNING
        self._replied = time.perf_counter()

    def _believe(self, answer: bytes) -> None:
        if answer != self._ring.answer:
            if len(answer) < RING_ANSWER_LENGTH:
                raise self.vmm.died()
            raise WrongAnswer(f"{self.vmm.name} answered a nonce with something else than its hash")

    def _load(self, timeout_s: float) -> None:
        """Give an empty VMM the device state; its memory is mapped from the checkpoint already."""
        assert self._checkpoint and self.vmm.incoming
        try:
            self.vmm.incoming.sendall(self._checkpoint.devices.read_bytes())
            self.vmm.incoming.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self.vmm.died() from error
        while True:
            status = self.vmm.qmp.wait_event("MIGRATION", timeout_s)["data"]["status"]
            if status == "completed":
                self._loaded()
                return
            if status == "failed":
                raise SandboxError(f"{self.vmm.name} refused the checkpoint: {self.vmm.said()}")

    def first_exec(self, word: str) -> Finished:
        """The first process after waking. What the guest does not know yet of itself (identity,
        or only the wall clock) goes before it in the same message."""
        fields = self._wall_clock()
        if self._pending_identity:
            fields += identity_fields(self.identity)
            self._pending_identity = False
            self.agent.key = self.identity.key
        return self.agent.begin(fields, (ECHO, word))

    def _wall_clock(self) -> bytes:
        """The wall clock as it was at a moment that the guest knows: when it answered the bell."""
        if self._booted:
            return field(Tag.WALL_NS, time.time_ns())
        age_ns = int((time.perf_counter() - self._replied) * 1e9)
        return field(Tag.WALL_AT_RING_NS, time.time_ns() - age_ns)

    def touch(self, mib: int) -> None:
        """Write one word in every page of `mib` MiB of the guest's memory."""
        # Its own words: the same in every guest would be merged, as no real working set is.
        self.agent.touch(mib, int.from_bytes(self.identity.key[:8]))

    def resumed_at(self) -> float:
        """When the VMM let the vCPU run, by its own word; perf_counter seconds.

        0 for a guest that booted: its vCPU ran as soon as its VMM existed.
        """
        if self._booted:
            return 0.0
        stamp = self.vmm.qmp.wait_event("RESUME", 5)["timestamp"]
        wall: float = stamp["seconds"] + stamp["microseconds"] / 1e6
        return wall - time.time() + time.perf_counter()

    # Off the timed path.

    def ring_again(self, timeout_s: float) -> None:
        """Wake a guest that somebody else left at its doorbell."""
        self._ring = _new_ring(self.agent.key)
        self._ring_bell(timeout_s, dated=True)
        self._state = State.RUNNING

    @property
    def qmp(self) -> Qmp:
        return self.vmm.qmp

    @property
    def process(self) -> HostProcess | None:
        if not self.guest_memory:
            return None
        return HostProcess(self.vmm.process.pid, self.guest_memory)

    def adopt_identity(self) -> None:
        """Make the guest who it is, now rather than with its first process."""
        self.agent.take_identity(self.identity)
        self._pending_identity = False

    def arm(self) -> None:
        """Leave the guest in its doorbell loop, with a nonce ready for it."""
        self.agent.arm()
        _patience(self.vmm.bell, 10)
        if self.vmm.bell.recv(1) != ARMED:
            raise self.vmm.died()
        self._ring = _new_ring(self.agent.key)

    def stop(self) -> None:
        """Hold the vCPU; the guest must be armed."""
        self.vmm.control.send(STOP)
        self.qmp.wait_event("STOP", 10)
        self._booted = False
        self._state = State.STOPPED

    def resume(self) -> None:
        """Let it run and answer, untimed."""
        if self._state is not State.RUNNING:
            self.awaken(30)
            self.agent.set_wall_clock()

    def destroy(self) -> None:
        """End the VMM and give the address back; safe to call twice."""
        self.vmm.kill()
        self._end_of_boot()
        self.identity.release()
