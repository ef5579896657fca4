"""Sandboxes on the host's kernel, or under a monitor of which only the agent's socket is visible.

Each substrate starts and ends its sandboxes differently; everything else is the same and is here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from harness.errors import GuestDied, GuestTimeout, SandboxError, WrongAnswer
from harness.guest.agent_client import Agent, Finished
from harness.guest.protocol import FrameKind, Tag, field, siphash
from harness.host import evidence
from harness.host.identity import Identity
from harness.host.run import Run
from harness.sandbox.base import ECHO
from harness.sandbox.protocol import HostProcess, Tier

START_LIMIT_S = 120.0
WARM_UPS = 2
"""Processes run before a sandbox is frozen, so that the files they read are cached."""


class ProcessFreezer(Protocol):
    """Stops every process of a sandbox, and lets them continue."""

    def freeze(self) -> None: ...

    def thaw(self) -> None: ...


@dataclass(frozen=True)
class SignalFreezer:
    """Stops one process by signal. Where a sandbox is a namespace of several processes this stops
    only the agent, which suffices while the agent has no children."""

    pid: int

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


class SharedSandbox:
    """Implements `harness.sandbox.protocol.Sandbox`.

    `channel` is a socket to the agent, which this owns. `end` undoes the launch and is called once.
    `freezer` is needed by `stop` only. `output` returns what the starting program printed, for
    error messages. With `restore` the sandbox has no process yet: the first `awaken` calls it, and
    the agent waits for requests when it returns.
    """

    def __init__(
        self,
        identity: Identity,
        channel: socket.socket,
        end: Callable[[], None],
        *,
        freezer: ProcessFreezer | None = None,
        output: Callable[[], str] = str,
        restore: Callable[[], None] | None = None,
    ) -> None:
        self.id = identity.id
        self.identity = identity
        self.agent = Agent(channel, f"sandbox {identity.id}")
        self._end: Callable[[], None] | None = end
        self._freezer = freezer
        self._output = output
        self._restore = restore
        self._frozen = False
        self._resumed = 0.0

    # The timed path.

    def awaken(self, timeout_s: float) -> float:
        """Send a nonce to the agent, thaw it if it is frozen, and verify its answer."""
        if self._restore:
            restore, self._restore = self._restore, None
            restore()
            self._resumed = time.perf_counter()
        nonce = os.urandom(16)
        id = self.agent.send(FrameKind.PING, bytes(8) + nonce)
        if self._frozen:
            assert self._freezer
            self._freezer.thaw()
            self._resumed = time.perf_counter()
            self._frozen = False
        frame = self.agent.receive(id, time.monotonic() + timeout_s)
        replied = time.perf_counter()
        if frame.payload[:8] != struct.pack("<Q", siphash(self.agent.key, nonce)):
            raise WrongAnswer(f"{self.id} answered a nonce with a wrong hash")
        return replied

    def first_exec(self, word: str) -> Finished:
        return self.agent.run((ECHO, word))

    def touch(self, mib: int) -> None:
        self.agent.touch(mib, int.from_bytes(self.identity.key[:8]))

    def resumed_at(self) -> float:
        """When `awaken` restored or thawed it; 0 if it was started, since it ran at once."""
        return self._resumed

    # Off the timed path.

    def wait_for_start(self, timeout_s: float = START_LIMIT_S) -> None:
        """Wait until the agent reports its start, and send the key that it answers with.

        A restored agent reported its start before the checkpoint; it reads the key when it wakes.
        """
        try:
            if not self._restore:
                self.agent.wait_for_start(timeout_s)
            self.agent.send(FrameKind.IDENTITY, field(Tag.KEY, self.identity.key))
        except (GuestDied, GuestTimeout) as error:
            output = self._output()
            why = f": {output}" if output else ""
            raise type(error)(f"{self.id} did not start{why}") from error
        self.agent.key = self.identity.key

    @property
    def process(self) -> HostProcess | None:
        """None: no file backs its memory."""
        return None

    def adopt_identity(self) -> None:
        """Nothing to do: its namespaces have its names, and it got its key at its start."""

    def arm(self) -> None:
        """Nothing to do: a frozen agent continues where it is, reading its socket."""

    def stop(self) -> None:
        if self._freezer is None:
            raise SandboxError(f"{self.id} cannot be frozen: its substrate has no means to")
        self._freezer.freeze()
        self._frozen = True

    def prewarm(self) -> None:
        """Let it work, then freeze it, as a pool keeps it."""
        for _ in range(WARM_UPS):
            self.awaken(START_LIMIT_S)
            self.first_exec("rehearsal")
        self.stop()

    def destroy(self) -> None:
        if self._end is None:
            return
        end, self._end = self._end, None
        try:
            if self._frozen and self._freezer:
                with contextlib.suppress(OSError):
                    self._freezer.thaw()  # a frozen process does not even die
            end()
        finally:
            self.agent.close()
            self.identity.release()


S = TypeVar("S", bound=SharedSandbox)
T = TypeVar("T")


def launch_sandbox(
    identity: Identity,
    tier: Tier,
    start: Callable[[contextlib.ExitStack], S],
    attach: Callable[[S], object] = lambda sandbox: None,
) -> S:
    """Launch a sandbox and bring it to the state its tier keeps it in; leave nothing on failure.

    `start` starts one; what it pushes on the stack undoes an incomplete start. `attach` is called
    once the agent runs.
    """
    with contextlib.ExitStack() as undo:
        undo.callback(identity.release)
        sandbox = start(undo)
        undo.pop_all()
    try:
        sandbox.wait_for_start()
        attach(sandbox)
        if tier.waits_in_memory:
            sandbox.prewarm()
    except BaseException:
        sandbox.destroy()
        raise
    return sandbox


class PerRun(Generic[T]):
    """A context that all sandboxes of a run share: entered on first use, exited with the run."""

    def __init__(self) -> None:
        self._opened: dict[str, T] = {}

    def of(self, run: Run, opened: Callable[[], AbstractContextManager[T]]) -> T:
        if run.id not in self._opened:
            self._opened[run.id] = run.at_end.enter_context(opened())
            run.at_end.callback(self._opened.pop, run.id)
        return self._opened[run.id]


class Log:
    """The stderr of a sandbox's programs: a file of the run that is removed with the sandbox."""

    def __init__(self, run: Run, name: str) -> None:
        self.path = run.directory / f"{name}.log"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        self.descriptor = os.open(self.path, flags, 0o600)

    def tail(self) -> str:
        """The last three lines, joined."""
        with contextlib.suppress(OSError):
            return " | ".join(
                self.path.read_text(errors="replace", encoding="utf-8").strip().splitlines()[-3:]
            )
        return ""

    def close(self) -> None:
        os.close(self.descriptor)
        evidence.drop(self.path)


def start(
    argv: Sequence[str | Path],
    environment: Mapping[str, str],
    log: Log,
    inherited: Sequence[int] = (),
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a program whose stdin and stdout are a socket; the process, and our end of the socket.

    The program also inherits the descriptors `inherited`, under the same numbers.
    """
    near, far = socket.socketpair()
    with far:
        try:
            child = subprocess.Popen(
                [os.fspath(word) for word in argv],
                stdin=far.fileno(),
                stdout=far.fileno(),
                stderr=log.descriptor,
                env=environment,
                pass_fds=inherited,
                start_new_session=True,  # a keyboard interrupt must reach this process only
            )
        except BaseException:
            near.close()
            raise
    return child, near


def start_logged(
    run: Run,
    name: str,
    argv: Sequence[str | Path],
    environment: Mapping[str, str],
    undo: contextlib.ExitStack,
) -> tuple[subprocess.Popen[bytes], socket.socket, Log]:
    """`start` with a new log of this name, which `undo` removes."""
    log = Log(run, name)
    undo.callback(log.close)
    return *start(argv, environment, log), log


def reap(child: subprocess.Popen[bytes], patience_s: float = 10.0) -> None:
    """Wait for a child that was told to exit; kill it after `patience_s`."""
    try:
        child.wait(patience_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
