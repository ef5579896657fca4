"""A sandbox whose agent runs on the host's kernel, or under a monitor that shows only its socket.

What starts and ends it differs from substrate to substrate; what is asked of it does not.
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
from harness.guest.protocol import Kind, Tag, field, siphash
from harness.host import evidence
from harness.host.identity import Identity
from harness.host.run import Run
from harness.sandbox.protocol import HostProcess, Tier

ECHO = "/bin/echo"
START_LIMIT_S = 120.0
WARM_UPS = 2
"""Processes run before a sandbox is held, so that what they read is in memory."""


class Hold(Protocol):
    """Stops every process of a sandbox where it is, and lets them run on."""

    def hold(self) -> None: ...

    def release(self) -> None: ...


@dataclass(frozen=True)
class Signals:
    """Holds one process by signal; of a namespace's, only who waits for requests, which is enough
    while it has started nothing."""

    pid: int

    def hold(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def release(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


class SharedSandbox:
    """Implements `harness.sandbox.protocol.Sandbox`. `end` takes down what `launch` put up, and is
    called once; `said` is what the starting program wrote, for an error's message. `restore` brings
    one that has no process yet to where its agent waits, when it is first woken."""

    def __init__(
        self,
        identity: Identity,
        line: socket.socket,
        end: Callable[[], None],
        *,
        hold: Hold | None = None,
        said: Callable[[], str] = str,
        restore: Callable[[], None] | None = None,
    ) -> None:
        self.id = identity.id
        self.identity = identity
        self.agent = Agent(line, f"sandbox {identity.id}")
        self._end: Callable[[], None] | None = end
        self._hold = hold
        self._said = said
        self._restore = restore
        self._held = False
        self._resumed = 0.0

    # The timed path.

    def awaken(self, timeout_s: float) -> float:
        """Put a nonce before the agent, let it run if it is held, wait for its answer."""
        if self._restore:
            restore, self._restore = self._restore, None
            restore()
            self._resumed = time.perf_counter()
        nonce = os.urandom(16)
        id = self.agent.send(Kind.PING, bytes(8) + nonce)
        if self._held:
            assert self._hold
            self._hold.release()
            self._resumed = time.perf_counter()
            self._held = False
        answer = self.agent.receive(id, time.monotonic() + timeout_s).payload
        replied = time.perf_counter()
        if struct.unpack_from("<Q", answer)[0] != siphash(self.agent.key, nonce):
            raise WrongAnswer(f"{self.id} answered a nonce with something else than its hash")
        return replied

    def first_exec(self, word: str) -> Finished:
        return self.agent.run((ECHO, word))

    def touch(self, mib: int) -> None:
        self.agent.touch(mib, int.from_bytes(self.identity.key[:8]))

    def resumed_at(self) -> float:
        """When it was let run; 0 when it was started, since a process runs once it exists."""
        return self._resumed

    # Off the timed path.

    def wait_for_start(self, timeout_s: float = START_LIMIT_S) -> None:
        """Wait until its agent says that it runs, and give it the key that it answers with.

        One that is to be restored said so long ago, and finds its key when it wakes.
        """
        try:
            if not self._restore:
                self.agent.wait_for_start(timeout_s)
            self.agent.send(Kind.IDENTITY, field(Tag.KEY, self.identity.key))
        except (GuestDied, GuestTimeout) as error:
            said = self._said()
            why = f": {said}" if said else ""
            raise type(error)(f"{self.id} did not start{why}") from error
        self.agent.key = self.identity.key

    @property
    def process(self) -> HostProcess | None:
        """None: its memory has no file."""
        return None

    def adopt_identity(self) -> None:
        """It has its names from its namespaces, and its key from its start."""

    def arm(self) -> None:
        """A held process goes on where it waits: at its socket."""

    def stop(self) -> None:
        if self._hold is None:
            raise SandboxError(f"{self.id} cannot be held")
        self._hold.hold()
        self._held = True

    def keep(self) -> None:
        """Bring it to where a pool keeps it: having worked once, and held."""
        for _ in range(WARM_UPS):
            self.awaken(START_LIMIT_S)
            self.first_exec("rehearsal")
        self.stop()

    def destroy(self) -> None:
        if self._end is None:
            return
        end, self._end = self._end, None
        try:
            if self._held and self._hold:
                with contextlib.suppress(OSError):
                    self._hold.release()  # a frozen process does not even die
            end()
        finally:
            self.agent.close()
            self.identity.release()


S = TypeVar("S", bound=SharedSandbox)
T = TypeVar("T")


def launched(
    identity: Identity,
    tier: Tier,
    start: Callable[[contextlib.ExitStack], S],
    attach: Callable[[S], object] = lambda sandbox: None,
) -> S:
    """A sandbox as its tier keeps it, or nothing of it at all.

    `start` puts one up, and on the stack what takes down again what is up so far; `attach` is done
    once its agent runs.
    """
    with contextlib.ExitStack() as undo:
        undo.callback(identity.release)
        sandbox = start(undo)
        undo.pop_all()
    try:
        sandbox.wait_for_start()
        attach(sandbox)
        if tier.waits_in_memory:
            sandbox.keep()
    except BaseException:
        sandbox.destroy()
        raise
    return sandbox


class PerRun(Generic[T]):
    """What all sandboxes of a run share: opened with the first that needs it, closed with the
    run."""

    def __init__(self) -> None:
        self._opened: dict[str, T] = {}

    def of(self, run: Run, opened: Callable[[], AbstractContextManager[T]]) -> T:
        if run.id not in self._opened:
            self._opened[run.id] = run.at_end.enter_context(opened())
            run.at_end.callback(self._opened.pop, run.id)
        return self._opened[run.id]


class Log:
    """What a sandbox's programs write on stderr: a file of the run that goes with the sandbox."""

    def __init__(self, run: Run, name: str) -> None:
        self.path = run.directory / f"{name}.log"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        self.descriptor = os.open(self.path, flags, 0o600)

    def said(self) -> str:
        """The last lines, in one."""
        with contextlib.suppress(OSError):
            return " | ".join(self.path.read_text(errors="replace").strip().splitlines()[-3:])
        return ""

    def close(self) -> None:
        os.close(self.descriptor)
        evidence.drop(self.path)


def start(
    words: Sequence[str | Path],
    environment: Mapping[str, str],
    log: Log,
    inherited: Sequence[int] = (),
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a program with a socket for its standard input and output: it, and our end of that.

    It has the open files `inherited` too, under their numbers here.
    """
    near, far = socket.socketpair()
    with far:
        try:
            child = subprocess.Popen(
                [os.fspath(word) for word in words],
                stdin=far.fileno(),
                stdout=far.fileno(),
                stderr=log.descriptor,
                env=environment,
                pass_fds=inherited,
                start_new_session=True,  # an interrupt from the keyboard is for us alone
            )
        except BaseException:
            near.close()
            raise
    return child, near


def start_logged(
    run: Run,
    name: str,
    words: Sequence[str | Path],
    environment: Mapping[str, str],
    undo: contextlib.ExitStack,
) -> tuple[subprocess.Popen[bytes], socket.socket, Log]:
    """The same, with a log of this name that goes with `undo`."""
    log = Log(run, name)
    undo.callback(log.close)
    return *start(words, environment, log), log


def ended(child: subprocess.Popen[bytes], patience_s: float = 10.0) -> None:
    """See a child to its end: it has been told to go, and is killed when it does not."""
    try:
        child.wait(patience_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
