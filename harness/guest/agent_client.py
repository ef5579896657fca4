"""The harness's side of the conversation with a guest's agent.

One request at a time; several threads must not share an `Agent`. Every wait has a limit, and
whatever goes wrong is a SandboxError that names the sandbox.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness.errors import GuestDied, GuestRefused, GuestTimeout, WrongAnswer
from harness.guest.protocol import (
    KEEP_STDIN,
    PAYLOAD_MAX,
    Decoder,
    Frame,
    FrameKind,
    Tag,
    encode,
    field,
    siphash,
)
from harness.host.identity import NO_KEY, Identity

READ_PIECE = 32 * 1024
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Pong:
    """Answer to a ping: the guest's wall clock and monotonic clock, in nanoseconds."""

    wall_ns: int
    monotonic_ns: int


@dataclass(frozen=True)
class PendingPing:
    """A ping that is on its way: the number of its request, and the nonce."""

    id: int
    nonce: bytes


@dataclass(frozen=True)
class Finished:
    """A process that ended: `code` when it exited, `signal` when it was killed (else 0)."""

    code: int
    signal: int
    stdout: bytes
    stderr: bytes


class Agent:
    """Speaks to one guest over a connected stream socket, which it owns."""

    def __init__(self, line: socket.socket, name: str) -> None:
        self._line = line
        self._name = name
        self._decoder = Decoder()
        self._frames: list[Frame] = []
        self._last_id = 0
        self.key = NO_KEY

    def close(self) -> None:
        self._line.close()

    # Frames.

    def send(self, kind: FrameKind, payload: bytes = b"", flags: int = 0) -> int:
        """Send one request; its id."""
        self._last_id += 1
        self._write(encode(kind, self._last_id, payload, flags))
        return self._last_id

    def _write(self, data: bytes) -> None:
        try:
            self._line.sendall(data)
        except TimeoutError as error:
            raise GuestTimeout(f"{self._name} does not take a request") from error
        except OSError as error:
            raise GuestDied(f"{self._name} went away: {error.strerror}") from error

    def receive(self, id: int, deadline: float) -> Frame:
        """The next frame that answers request `id`, before `deadline` (time.monotonic).

        Frames of other requests that come before it are dropped.
        """
        while True:
            frame = self.receive_any(deadline)
            if frame.id == id:
                if frame.kind == FrameKind.ERROR:
                    number = struct.unpack_from("<I", frame.payload)[0]
                    said = frame.payload[4:].decode(errors="replace")
                    raise GuestRefused(f"{self._name} refused: {said}", number)
                return frame

    def receive_any(self, deadline: float) -> Frame:
        """The next frame, whatever it answers, before `deadline` (time.monotonic)."""
        while not self._frames:
            left = deadline - time.monotonic()
            if left <= 0:
                raise GuestTimeout(f"{self._name} did not answer in time")
            self._line.settimeout(left)
            try:
                data = self._line.recv(1 << 18)
            except TimeoutError:
                continue
            except OSError as error:
                raise GuestDied(f"{self._name} died in the middle of a request") from error
            if not data:
                raise GuestDied(f"{self._name} died in the middle of a request")
            self._frames.extend(self._decoder.feed(data))
        return self._frames.pop(0)

    def call(
        self, kind: FrameKind, payload: bytes = b"", timeout_s: float = TIMEOUT_S, flags: int = 0
    ) -> bytes:
        """Send one request and return the payload of its one answer."""
        id = self.send(kind, payload, flags)
        return self.receive(id, time.monotonic() + timeout_s).payload

    # Requests.

    def wait_for_start(self, timeout_s: float) -> None:
        """Wait for what an agent says when it starts; a UART loses what is sent to it before."""
        self.receive(0, time.monotonic() + timeout_s)

    def ping(self, timeout_s: float = TIMEOUT_S, wall_ns: int = 0) -> Pong:
        """A random nonce, answered by its SipHash under the guest's key; WrongAnswer otherwise.

        `wall_ns` sets the guest's wall clock first, unless it is 0.
        """
        return self.receive_pong(self.send_ping(wall_ns), timeout_s)

    def send_ping(self, wall_ns: int = 0) -> PendingPing:
        """Put a ping on the line, perhaps before the guest runs that shall answer it."""
        nonce = os.urandom(16)
        return PendingPing(self.send(FrameKind.PING, struct.pack("<Q", wall_ns) + nonce), nonce)

    def receive_pong(self, pending: PendingPing, timeout_s: float = TIMEOUT_S) -> Pong:
        """Wait for the answer to a ping; WrongAnswer when it is not the nonce's hash."""
        answer = self.receive(pending.id, time.monotonic() + timeout_s).payload
        signed, wall, monotonic = struct.unpack("<QQQ", answer)
        if signed != siphash(self.key, pending.nonce):
            raise WrongAnswer(f"{self._name} answered a nonce with something else than its hash")
        return Pong(wall, monotonic)

    def hello(self) -> dict[str, str]:
        """What the guest is and calls itself: kernel, boot_id, hostname, machine_id, mac,
        address, wall_ns, and 16 fresh bytes of its /dev/urandom in hexadecimal as `random`."""
        lines = self.call(FrameKind.HELLO).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def take_identity(self, identity: Identity) -> None:
        """Make the guest somebody: name, addresses, wall clock, entropy, key."""
        wall = field(Tag.WALL_NS, time.time_ns())
        self.call(FrameKind.IDENTITY, identity_fields(identity) + wall)
        self.key = identity.key

    def set_wall_clock(self) -> None:
        """Set the guest's wall clock to this host's, which stood still while it was stopped."""
        self.call(FrameKind.IDENTITY, field(Tag.WALL_NS, time.time_ns()))

    def identify_and_run(self, identity: bytes, argv: Sequence[str]) -> Finished:
        """Identity and a first process in one message: what a guest does first after a restore.

        GuestRefused when either is refused.
        """
        exec_id = self._last_id + 2
        data = encode(FrameKind.IDENTITY, self._last_id + 1, identity)
        data += encode(FrameKind.EXEC, exec_id, exec_fields(argv))
        self._last_id = exec_id
        self._write(data)
        self.receive(exec_id - 1, time.monotonic() + TIMEOUT_S)  # it is answered before the rest
        return self._finish(exec_id, TIMEOUT_S)

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        timeout_s: float = TIMEOUT_S,
        on_output: Callable[[FrameKind, bytes], None] | None = None,
    ) -> Finished:
        """Run a process in the guest to its end; it is killed there when `timeout_s` is over.

        `on_output` gets each piece of stdout and stderr as it comes. GuestRefused when it cannot
        be started.
        """
        fields = exec_fields(argv, env, cwd, int(timeout_s * 1000))
        small = len(fields) + len(stdin) + 5 <= PAYLOAD_MAX
        if small:
            fields += field(Tag.STDIN, stdin) if stdin else b""
        id = self.send(FrameKind.EXEC, fields, flags=0 if small else KEEP_STDIN)
        if not small:
            for at in range(0, len(stdin), READ_PIECE):
                self._write(encode(FrameKind.STDIN, id, stdin[at : at + READ_PIECE]))
            self._write(encode(FrameKind.STDIN, id))
        # The guest kills it at its limit and says so; the little more is for that message.
        return self._finish(id, timeout_s + 5, on_output)

    def _finish(
        self, id: int, timeout_s: float, on_output: Callable[[FrameKind, bytes], None] | None = None
    ) -> Finished:
        deadline = time.monotonic() + timeout_s
        output = {FrameKind.STDOUT: bytearray(), FrameKind.STDERR: bytearray()}
        while True:
            frame = self.receive(id, deadline)
            if frame.kind == FrameKind.EXIT:
                code, signal = struct.unpack("<II", frame.payload)
                return Finished(
                    code, signal, bytes(output[FrameKind.STDOUT]), bytes(output[FrameKind.STDERR])
                )
            kind = FrameKind(frame.kind)
            output[kind] += frame.payload
            if on_output:
                on_output(kind, frame.payload)

    def read_file(self, path: str) -> bytes:
        """A whole file of the guest."""
        pieces = []
        offset = 0
        while True:
            request = field(Tag.PATH, path) + field(Tag.OFFSET, offset)
            piece = self.call(FrameKind.READ, request + field(Tag.LENGTH, READ_PIECE))
            pieces.append(piece)
            offset += len(piece)
            if len(piece) < READ_PIECE:
                return b"".join(pieces)

    def write_file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Write a whole file of the guest, replacing what was there."""
        for offset in range(0, max(len(data), 1), READ_PIECE):
            request = field(Tag.PATH, path) + field(Tag.OFFSET, offset) + field(Tag.MODE, mode)
            request += field(Tag.TRUNCATE, b"") if offset == 0 else b""
            self.call(
                FrameKind.WRITE, request + field(Tag.DATA, data[offset : offset + READ_PIECE])
            )

    def touch(self, mib: int, first: int = 1) -> None:
        """Write one word in every page of `mib` MiB of the guest's memory, and read it back.

        Words count up from `first`: guests given others hold no equal pages.
        """
        answer = self.call(FrameKind.TOUCH, struct.pack("<IQ", mib, first))
        pages = mib * 256
        if struct.unpack("<Q", answer)[0] != (pages * first + pages * (pages - 1) // 2) % (1 << 64):
            raise WrongAnswer(f"{self._name} did not touch {mib} MiB")

    def memory(self) -> dict[str, int]:
        """The guest's /proc/meminfo in bytes, and `agent`: the agent's resident bytes."""
        report: dict[str, int] = {}
        for line in self.call(FrameKind.MEMORY).decode().splitlines():
            name, _, rest = line.partition(":")
            if rest:
                number, _, unit = rest.strip().partition(" ")
                report[name] = int(number) * (1024 if unit == "kB" else 1)
            else:
                report["agent"] = int(line.split()[1]) * 4096
        return report

    def arm(self) -> None:
        """Send the guest into its doorbell loop; it speaks on the doorbell next."""
        self.call(FrameKind.ARM)

    def shutdown(self) -> None:
        """Ask the guest to power off."""
        self.call(FrameKind.SHUTDOWN)


def identity_fields(identity: Identity) -> bytes:
    """An identity as the agent takes it, with fresh entropy; the wall clock goes beside it."""
    return b"".join(
        (
            field(Tag.ENTROPY, os.urandom(64)),
            field(Tag.KEY, identity.key),
            field(Tag.HOSTNAME, identity.hostname),
            field(Tag.MACHINE_ID, identity.machine_id),
            field(Tag.MAC, identity.mac_bytes),
            field(Tag.ADDRESS, f"{identity.address}/{identity.prefix}"),
        )
    )


def exec_fields(
    argv: Sequence[str],
    env: Mapping[str, str] | None = None,
    cwd: str = "",
    timeout_ms: int = 0,
) -> bytes:
    """A process to start, as the agent takes it."""
    fields = b"".join(field(Tag.ARG, argument) for argument in argv)
    fields += b"".join(field(Tag.ENV, f"{name}={value}") for name, value in (env or {}).items())
    fields += field(Tag.CWD, cwd) if cwd else b""
    return fields + (field(Tag.TIMEOUT_MS, timeout_ms) if timeout_ms else b"")
