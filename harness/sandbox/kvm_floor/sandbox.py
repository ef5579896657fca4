"""A sandbox of kvm-floor: a VM whose guest answers frames, and has no kernel."""

from __future__ import annotations

import os
import socket
import struct
import time
from dataclasses import dataclass

from harness.errors import GuestTimeout, WrongAnswer
from harness.guest.agent_client import Agent, Finished, identity_fields
from harness.guest.protocol import FrameKind, encode, siphash
from harness.host.identity import Identity
from harness.sandbox.base import ECHO
from harness.sandbox.kvm_floor.vmm import Vmm
from harness.sandbox.protocol import HostProcess
from harness.sandbox.vm_state import VmState

_IDENTITY, _PING = 0xFFFFFFFE, 0xFFFFFFFF
"""Ids of the requests in a wake-up, which the agent's client never uses."""
_STARTED = encode(FrameKind.HELLO, 0)
"""What a guest says first when it runs its program from the start."""
_LOOK_UP = struct.pack("ll", 0, 100_000)
"""How long a read blocks before the caller's limit is looked at: 0.1 s, as a timeval."""


@dataclass(frozen=True)
class _Ring:
    """What wakes a guest, and the one right answer under `key`: made before the timed path, or
    while the VMM works."""

    frames: bytes
    answer: bytes
    key: bytes


class KvmFloorSandbox:
    """Implements `harness.sandbox.protocol.Sandbox`.

    `state` is BOOTING for a guest whose program starts from the beginning, EMPTY for one of a
    checkpoint. It gets its identity with its first request, in the same message.
    """

    def __init__(
        self, vmm: Vmm, channel: socket.socket, identity: Identity, state: VmState
    ) -> None:
        self.id = identity.id
        self.identity = identity
        self.agent = Agent(channel, f"sandbox {identity.id}")
        self.agent.key = identity.key
        self._vmm = vmm
        self._slot = -1
        self._channel = channel
        self._state = state
        self._gone = False
        self._first = True
        self._ring: _Ring | None = None

    def create(self, far: socket.socket) -> None:
        """Make its VM, with this end of its channel. Raises SandboxError."""
        self._slot = self._vmm.create(far.fileno(), self.arm)

    # The timed path.

    def awaken(self, timeout_s: float) -> float:
        """Send a nonce, run the guest from whatever state, and verify its answer."""
        if self._state is VmState.RUNNING:
            self.agent.ping(timeout_s)
            return time.perf_counter()
        ring = self._ring
        if not ring or ring.key is not self.agent.key:  # the caller expects answers under another
            ring = self._new_ring()
        if self._channel.gettimeout() is not None:  # the agent's client has set its own
            self._channel.setblocking(True)
        self._vmm.send(self._vmm.message(self._slot, ring.frames))
        answer = self._read(len(ring.answer), timeout_s)
        replied = time.perf_counter()
        self._state = VmState.RUNNING
        self._first = False
        if answer != ring.answer:
            raise WrongAnswer(f"{self.id} answered a nonce with a wrong hash")
        return replied

    def _read(self, length: int, timeout_s: float) -> bytes:
        """So many bytes of the channel. No more: what follows answers what waited meanwhile."""
        deadline = time.monotonic() + timeout_s
        found = b""
        while len(found) < length:
            try:
                piece = self._channel.recv(length - len(found))
            except BlockingIOError as error:  # _LOOK_UP has passed
                if time.monotonic() > deadline:
                    raise GuestTimeout(f"{self.id} did not answer in time") from error
                continue
            except OSError as error:
                raise self._vmm.died() from error
            if not piece:
                raise self._vmm.died()
            found += piece
        return found

    def first_exec(self, word: str) -> Finished:
        """GuestRefused: the guest has no kernel to run a program."""
        return self.agent.run((ECHO, word))

    def touch(self, mib: int) -> None:
        self.agent.touch(mib, int.from_bytes(self.identity.key[:8]))

    def resumed_at(self) -> float:
        return self._vmm.resumed_at(self._slot)

    # Off the timed path.

    def _new_ring(self) -> _Ring:
        """The first one carries the identity, so that no two guests answer under one key."""
        key, nonce = self.agent.key, os.urandom(16)
        hashed = struct.pack("<QQQ", siphash(key, nonce), 0, 0)  # it has no clocks
        frames = encode(FrameKind.PING, _PING, bytes(8) + nonce)
        answer = encode(FrameKind.ANSWER, _PING, hashed)
        if self._first:
            frames = encode(FrameKind.IDENTITY, _IDENTITY, identity_fields(self.identity)) + frames
            answer = encode(FrameKind.ANSWER, _IDENTITY) + answer
        if self._state is VmState.BOOTING:
            answer = _STARTED + answer
        return _Ring(frames, answer, key)

    @property
    def process(self) -> HostProcess | None:
        """None: it shares its process with others."""
        return None

    def adopt_identity(self) -> None:
        """Nothing to do: it has got it with its first request."""

    def arm(self) -> None:
        """Make the next nonce and its answer; the guest waits for input anyway."""
        self._ring = self._new_ring()

    def stop(self) -> None:
        self._vmm.stop(self._slot)
        self._state = VmState.STOPPED
        self._ring = self._new_ring()

    def destroy(self) -> None:
        """End the VM and release the identity; may be called twice."""
        if self._gone:
            return
        self._gone = True
        try:
            self._vmm.destroy(self._slot)
        finally:
            self.agent.close()
            self.identity.release()


def started(vmm: Vmm, identity: Identity, state: VmState) -> KvmFloorSandbox:
    """A sandbox with a new VM, which has not run. Raises SandboxError with what KVM refused."""
    near, far = socket.socketpair()
    try:
        # In the kernel, once: with Python's own limit each read would poll first.
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _LOOK_UP)
        sandbox = KvmFloorSandbox(vmm, near, identity, state)
        with far:
            sandbox.create(far)
        return sandbox
    except BaseException:
        near.close()
        raise
