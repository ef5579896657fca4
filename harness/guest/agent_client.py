"""The client of a guest's agent.

It sends one request at a time; threads must not share an `Agent`. Every wait has a time limit, and
every failure is a SandboxError that names the sandbox. What the guest sends is decoded by
answers.py, and kept up to a limit.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from harness.errors import GuestDied, GuestRefused, GuestTimeout, MalformedAnswer, WrongAnswer
from harness.guest import answers
from harness.guest.answers import Collected
from harness.guest.protocol import (
    KEEP_STDIN,
    PAYLOAD_MAX,
    REQUEST_MAX,
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
_TURN_S = 0.001
"""How long to wait in one direction before the other has its turn."""
OUTPUT_MAX = 16 << 20
"""Bytes of a process's output, and of a file, that are kept."""
HELLO_KEYS = ("protocol", "kernel", "hostname", "boot_id", "machine_id", "mac", "address", "random",
              "wall_ns")  # fmt: skip
_PONG = struct.Struct("<QQQ")
_EXIT = struct.Struct("<II")
_SUM = struct.Struct("<Q")


@dataclass(frozen=True)
class Pong:
    """The answer to a ping: the guest's wall clock and monotonic clock, in nanoseconds."""

    wall_ns: int
    monotonic_ns: int


@dataclass(frozen=True)
class PendingPing:
    """A ping that was sent: the id of its request, and the nonce."""

    id: int
    nonce: bytes


@dataclass(frozen=True)
class Finished:
    """A process that has ended: `code` if it exited, `signal` if it was killed (else 0)."""

    code: int
    signal: int
    stdout: bytes
    stderr: bytes


class _Output:
    """What a process of a guest has written so far: of each stream at most `limit` bytes."""

    def __init__(
        self,
        guest: str,
        limit: int = OUTPUT_MAX,
        on_output: Callable[[FrameKind, bytes], None] | None = None,
    ) -> None:
        self.stdout = Collected(limit, f"stdout of a process of {guest}")
        self.stderr = Collected(limit, f"stderr of a process of {guest}")
        self._on_output = on_output

    def take(self, frame: Frame) -> bool:
        """Whether this frame is output. AnswerTooLong when it is more than the limit."""
        if frame.kind not in (FrameKind.STDOUT, FrameKind.STDERR):
            return False
        stream = self.stdout if frame.kind == FrameKind.STDOUT else self.stderr
        stream.add(frame.payload)
        if self._on_output:
            self._on_output(FrameKind(frame.kind), frame.payload)
        return True


class Agent:
    """Sends requests to a guest over a connected stream socket, which it owns."""

    def __init__(self, channel: socket.socket, name: str) -> None:
        self._channel = channel
        self._name = name
        self._decoder = Decoder()
        self._frames: deque[Frame] = deque()
        self._last_id = 0
        self.key = NO_KEY

    def close(self) -> None:
        self._channel.close()

    # Frames.

    def send(self, kind: FrameKind, payload: bytes = b"", flags: int = 0) -> int:
        """Send a request and return its id. GuestTimeout or GuestDied when that fails, GuestRefused
        (E2BIG) when it is too long."""
        if len(payload) > REQUEST_MAX:
            too_long = f"{self._name} accepts no request of {len(payload)} bytes"
            raise GuestRefused(too_long, errno.E2BIG)
        self._last_id += 1
        self._write(encode(kind, self._last_id, payload, flags))
        return self._last_id

    def _write(self, data: bytes) -> None:
        try:
            self._channel.settimeout(TIMEOUT_S)
            self._channel.sendall(data)
        except TimeoutError as error:
            raise GuestTimeout(f"{self._name} does not read requests") from error
        except OSError as error:
            raise self._closed(error) from error

    def _write_while_reading(self, data: bytes, id: int, output: _Output) -> None:
        """Send input of request `id`, and take its output meanwhile: a guest whose answers are not
        read stops reading requests. GuestTimeout when nothing moves in either direction."""
        left = memoryview(data)
        deadline = time.monotonic() + TIMEOUT_S
        while left:
            self._channel.settimeout(_TURN_S)
            try:
                left = left[self._channel.send(left) :]
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise GuestTimeout(f"{self._name} does not read requests") from None
                if not self._read(_TURN_S):
                    continue
                own = [frame for frame in self._frames if frame.id == id]
                # Its end or refusal, of which there is one, is left for `_finish`.
                self._frames = deque([frame for frame in own if not output.take(frame)][:1])
            except OSError as error:
                raise self._closed(error) from error
            deadline = time.monotonic() + TIMEOUT_S

    def _closed(self, error: OSError) -> GuestDied:
        return GuestDied(f"the channel to {self._name} is closed: {error.strerror}")

    def _read(self, limit_s: float) -> bool:
        """Whether the guest sent anything within this time."""
        self._channel.settimeout(limit_s)
        try:
            data = self._channel.recv(1 << 18)
        except TimeoutError:
            return False
        except OSError as error:
            raise GuestDied(f"{self._name} died during a request") from error
        if not data:
            raise GuestDied(f"{self._name} died during a request")
        self._frames.extend(self._decoder.feed(data))
        return True

    def receive(self, id: int, deadline: float) -> Frame:
        """The next answer to request `id`, before `deadline` (time.monotonic).

        Answers to other requests are dropped. Raises GuestRefused for an ERROR, GuestTimeout,
        GuestDied and MalformedAnswer.
        """
        while True:
            frame = self.receive_any(deadline)
            if frame.id == id:
                if frame.kind == FrameKind.ERROR:
                    raise answers.refusal(frame, self._name, f"{self._name} refused: ")
                return frame

    def receive_any(self, deadline: float) -> Frame:
        """The next frame of any request, before `deadline` (time.monotonic)."""
        while not self._frames:
            left = deadline - time.monotonic()
            if left <= 0:
                raise GuestTimeout(f"{self._name} did not answer in time")
            self._read(left)
        return self._frames.popleft()

    def call(
        self, kind: FrameKind, payload: bytes = b"", timeout_s: float = TIMEOUT_S, flags: int = 0
    ) -> bytes:
        """Send a request that has a single answer, and return its payload."""
        return self._answer(self.send(kind, payload, flags), timeout_s)

    def _answer(self, id: int, timeout_s: float) -> bytes:
        frame = self.receive(id, time.monotonic() + timeout_s)
        return answers.expect(frame, FrameKind.ANSWER, self._name)

    # Requests.

    def wait_for_start(self, timeout_s: float) -> None:
        """Wait for the agent's first HELLO: a UART loses what is sent before the agent starts."""
        self.receive(0, time.monotonic() + timeout_s)

    def ping(self, timeout_s: float = TIMEOUT_S, wall_ns: int = 0) -> Pong:
        """Send a random nonce and check the answer, its SipHash under the guest's key.

        Unless 0, `wall_ns` sets the guest's wall clock first. WrongAnswer for another hash.
        """
        return self.receive_pong(self.send_ping(wall_ns), timeout_s)

    def send_ping(self, wall_ns: int = 0) -> PendingPing:
        """Send a ping, perhaps before the guest runs."""
        nonce = os.urandom(16)
        return PendingPing(self.send(FrameKind.PING, struct.pack("<Q", wall_ns) + nonce), nonce)

    def receive_pong(self, pending: PendingPing, timeout_s: float = TIMEOUT_S) -> Pong:
        """Wait for the answer to a ping. WrongAnswer when it is not the nonce's hash."""
        answer = self._answer(pending.id, timeout_s)
        signed, wall, monotonic = answers.unpack(_PONG, answer, self._name)
        if signed != siphash(self.key, pending.nonce):
            raise WrongAnswer(f"{self._name} did not answer with the nonce's hash")
        return Pong(wall, monotonic)

    def hello(self) -> dict[str, str]:
        """The guest's protocol, kernel, boot_id, hostname, machine_id, mac, address, wall_ns, and
        in `random` 16 fresh bytes of its /dev/urandom in hexadecimal."""
        found = answers.pairs(self.call(FrameKind.HELLO), self._name)
        if missing := [key for key in HELLO_KEYS if key not in found]:
            raise MalformedAnswer(f"{self._name} does not report its {', '.join(missing)}")
        return found

    def take_identity(self, identity: Identity, route: IPv4Address | None = None) -> None:
        """Apply an identity: names, addresses, wall clock, entropy and key; and a default route by
        this gateway."""
        fields = identity_fields(identity) + field(Tag.WALL_NS, time.time_ns())
        fields += field(Tag.ROUTE, str(route)) if route else b""
        self.call(FrameKind.IDENTITY, fields)
        self.key = identity.key

    def stir(self) -> None:
        """Seed the guest's random generator with fresh entropy."""
        self.call(FrameKind.IDENTITY, field(Tag.ENTROPY, os.urandom(64)))

    def set_wall_clock(self) -> None:
        """Set the guest's wall clock, which stood still while it was stopped, to this host's."""
        self.call(FrameKind.IDENTITY, field(Tag.WALL_NS, time.time_ns()))

    def identify_and_run(self, identity: bytes, argv: Sequence[str]) -> Finished:
        """Send an identity and run a first process, in one message: the start after a restore.

        `identity` is from `identity_fields`. GuestRefused when either is refused.
        """
        exec_id = self._last_id + 2
        data = encode(FrameKind.IDENTITY, self._last_id + 1, identity)
        data += encode(FrameKind.EXEC, exec_id, exec_fields(argv))
        self._last_id = exec_id
        self._write(data)
        self._answer(exec_id - 1, TIMEOUT_S)  # answered first
        return self._finish(exec_id, TIMEOUT_S, _Output(self._name))

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        timeout_s: float = TIMEOUT_S,
        on_output: Callable[[FrameKind, bytes], None] | None = None,
        output_max: int = OUTPUT_MAX,
    ) -> Finished:
        """Run a process in the guest to its end. The agent kills it after `timeout_s`.

        `on_output` is called with each piece of stdout and stderr as it arrives. GuestRefused when
        the process cannot be started; AnswerTooLong when it writes more than `output_max` bytes,
        after which it still runs.
        """
        fields = exec_fields(argv, env, cwd, int(timeout_s * 1000))
        small = len(fields) + len(stdin) + 5 <= PAYLOAD_MAX
        if small:
            fields += field(Tag.STDIN, stdin) if stdin else b""
        output = _Output(self._name, output_max, on_output)
        id = self.send(FrameKind.EXEC, fields, flags=0 if small else KEEP_STDIN)
        if not small:
            for at in range(0, len(stdin), READ_PIECE):
                piece = encode(FrameKind.STDIN, id, stdin[at : at + READ_PIECE])
                self._write_while_reading(piece, id, output)
            self._write_while_reading(encode(FrameKind.STDIN, id), id, output)
        # The guest kills it at the limit; the extra seconds are for its report.
        return self._finish(id, timeout_s + 5, output)

    def _finish(self, id: int, timeout_s: float, output: _Output) -> Finished:
        deadline = time.monotonic() + timeout_s
        while output.take(frame := self.receive(id, deadline)):
            pass
        ending = answers.expect(frame, FrameKind.EXIT, self._name)
        code, signal = answers.unpack(_EXIT, ending, self._name)
        return Finished(code, signal, output.stdout.whole(), output.stderr.whole())

    def read_file(self, path: str, limit: int = OUTPUT_MAX) -> bytes:
        """Read a whole file of the guest. GuestRefused when it cannot be read, AnswerTooLong when
        it is longer than `limit` bytes."""
        whole = Collected(limit, f"{path} of {self._name}")
        while True:
            request = field(Tag.PATH, path) + field(Tag.OFFSET, whole.length)
            piece = self.call(FrameKind.READ, request + field(Tag.LENGTH, READ_PIECE))
            if len(piece) > READ_PIECE:
                raise MalformedAnswer(f"{self._name} sent more of {path} than was requested")
            whole.add(piece)
            if len(piece) < READ_PIECE:
                return whole.whole()

    def write_file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Write a whole file of the guest, replacing its content."""
        for offset in range(0, max(len(data), 1), READ_PIECE):
            request = field(Tag.PATH, path) + field(Tag.OFFSET, offset) + field(Tag.MODE, mode)
            request += field(Tag.TRUNCATE, b"") if offset == 0 else b""
            self.call(
                FrameKind.WRITE, request + field(Tag.DATA, data[offset : offset + READ_PIECE])
            )

    def touch(self, mib: int, first: int = 1) -> None:
        """Write a word to every page of `mib` MiB of the guest's memory, and read it back.

        The words count up from `first`, so that guests with different ones have no equal pages.
        WrongAnswer when the sum of the words is wrong.
        """
        answer = self.call(FrameKind.TOUCH, struct.pack("<IQ", mib, first))
        pages = mib * 256
        (total,) = answers.unpack(_SUM, answer, self._name)
        if total != (pages * first + pages * (pages - 1) // 2) % (1 << 64):
            raise WrongAnswer(f"{self._name} returned a wrong sum for {mib} MiB of memory")

    def memory(self) -> dict[str, int]:
        """The guest's /proc/meminfo in bytes, and in `agent` the agent's resident bytes."""
        report: dict[str, int] = {}
        for line in answers.text(self.call(FrameKind.MEMORY), self._name).splitlines():
            key, colon, rest = line.partition(":")
            if colon:
                digits, _, unit = rest.strip().partition(" ")
                kib = 1024 if unit == "kB" else 1
                report[key] = answers.number(digits, self._name) * kib
            else:  # /proc/self/statm: pages in all, and resident ones
                pages = line.split()[1:2]
                report["agent"] = answers.number("".join(pages), self._name) * 4096
        if "agent" not in report:
            raise MalformedAnswer(f"{self._name} does not report its agent's memory")
        return report

    def arm(self) -> None:
        """Send the guest into its doorbell loop, which then reports on the doorbell."""
        self.call(FrameKind.ARM)

    def shutdown(self) -> None:
        """Ask the guest to power off."""
        self.call(FrameKind.SHUTDOWN)


def identity_fields(identity: Identity) -> bytes:
    """The fields of an identity, with fresh entropy but without the wall clock."""
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
    """The fields of an EXEC request."""
    fields = b"".join(field(Tag.ARG, argument) for argument in argv)
    fields += b"".join(field(Tag.ENV, f"{name}={value}") for name, value in (env or {}).items())
    fields += field(Tag.CWD, cwd) if cwd else b""
    return fields + (field(Tag.TIMEOUT_MS, timeout_ms) if timeout_ms else b"")
