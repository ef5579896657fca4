"""Two who talk: each a namespace, a jail or a microVM, with programs that run there."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from harness import paths
from harness.errors import GuestTimeout, SandboxError
from harness.host.process import need, run
from harness.host.run import Run
from harness.network.namespace import inside
from harness.sandbox.qemu.sandbox import QemuSandbox

_SOURCES = paths.NETWORK_PROGRAMS
_COMPILE = ("-static", "-O2", "-s", "-Wall", "-Wextra")
_COMPILER = "cc" if sys.platform.startswith("freebsd") else "musl-gcc"
_TOOLS = "/tmp/tools"
_PATIENCE_S = 10.0


def build(name: str, directory: Path) -> Path:
    """One of our programs, static, so that a guest runs it too. Raises MissingTool."""
    target = directory / name
    if not target.exists():
        run(_COMPILER, *_COMPILE, "-o", target, _SOURCES / f"{name}.c")
    return target


class Peer(Protocol):
    """Somebody with an address who runs programs."""

    address: str

    def pin(self, core: int) -> None:
        """Run on this core from now on, what runs already too."""

    def equip(self, program: str | Path) -> Sequence[str]:
        """Make a program of this machine ready to run there: how to call it."""

    def serve(self, words: Sequence[str]) -> None:
        """Start a program that stays until the peer ends."""

    def run(self, words: Sequence[str], timeout_s: float) -> str:
        """Run a program to its end; its output. SandboxError when it fails."""


class LocalPeer:
    """Implements `Peer` on this machine. Made by `local` or `jail_peer`.

    What it starts is started within `entered`, and by the words that go `before` its own.
    """

    def __init__(
        self,
        run: Run,
        address: str,
        stack: contextlib.ExitStack,
        entered: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
        before: Sequence[str] = (),
    ) -> None:
        self.address = address
        self._run = run
        self._stack = stack
        self._entered = entered
        self._before = before
        self._core: int | None = None
        self._servers: list[subprocess.Popen[bytes]] = []

    def pin(self, core: int) -> None:
        self._core = core
        for process in self._servers:
            _pin(process.pid, core)

    def equip(self, program: str | Path) -> Sequence[str]:
        return [need(str(program))]

    def start(self, words: Sequence[str], *, listens: bool = False) -> subprocess.Popen[bytes]:
        """Start a program that is killed when the peer ends; its stdin is a pipe if it listens."""
        with self._entered(), _starting_on(self._core):
            process = subprocess.Popen(
                [*self._before, *words],
                stdin=subprocess.PIPE if listens else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(self._run.environment),
            )
        self._stack.callback(_end, process)
        if self._core is not None and not _INHERITED:
            _pin(process.pid, self._core)
        return process

    def serve(self, words: Sequence[str]) -> None:
        self._servers.append(self.start(words))

    def run(self, words: Sequence[str], timeout_s: float) -> str:
        process = self.start(words)
        try:
            said = process.communicate(timeout=timeout_s)[0].decode(errors="replace")
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise SandboxError(f"{words[0]} did not end within {timeout_s:g} s") from error
        if process.returncode:
            raise SandboxError(f"{words[0]} ended with {process.returncode}: {said.strip()[-300:]}")
        return said


_INHERITED = hasattr(os, "sched_setaffinity")
"""Whether a child starts where its parent may run; elsewhere it is moved once it runs."""


@contextlib.contextmanager
def _starting_on(core: int | None) -> Iterator[None]:
    if core is None or not _INHERITED:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _pin(pid: int, core: int) -> None:
    if _INHERITED:
        os.sched_setaffinity(pid, {core})
    else:
        run("cpuset", "-l", str(core), "-p", str(pid))


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()


@contextlib.contextmanager
def namespace_peer(run: Run, namespace: Path, address: str) -> Iterator[LocalPeer]:
    """A peer in a namespace, until the block ends."""
    with contextlib.ExitStack() as stack:
        yield LocalPeer(run, address, stack, lambda: inside(namespace))


@contextlib.contextmanager
def jail_peer(run: Run, jail: str, address: str) -> Iterator[LocalPeer]:
    """A peer in a jail, until the block ends."""
    with contextlib.ExitStack() as stack:
        yield LocalPeer(run, address, stack, before=("jexec", jail))


class GuestPeer:
    """Implements `Peer` in a microVM that answers."""

    def __init__(self, sandbox: QemuSandbox) -> None:
        self.address = str(sandbox.identity.address)
        self._sandbox = sandbox

    def pin(self, core: int) -> None:
        for thread in Path(f"/proc/{self._sandbox.vmm.process.pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {core})

    def equip(self, program: str | Path) -> Sequence[str]:
        """Carry it in, with its libraries and their loader where it has any."""
        agent = self._sandbox.agent
        path = Path(need(str(program)))
        agent.run(("/bin/mkdir", "-p", _TOOLS))
        libraries = [] if _static(path) else re.findall(r"(/\S+)", run("ldd", path).decode())
        for one in (str(path), *libraries):
            agent.write_file(f"{_TOOLS}/{Path(one).name}", Path(one).read_bytes(), 0o755)
        loader = [Path(one).name for one in libraries if "ld-linux" in one]
        before = [f"{_TOOLS}/{loader[0]}", "--library-path", _TOOLS] if loader else []
        return [*before, f"{_TOOLS}/{path.name}"]

    def serve(self, words: Sequence[str]) -> None:
        line = " ".join(words)
        self._sandbox.agent.run(("/bin/sh", "-c", f"{line} >/tmp/served 2>&1 &"))

    def run(self, words: Sequence[str], timeout_s: float) -> str:
        done = self._sandbox.agent.run(words, timeout_s=timeout_s)
        said = (done.stdout + done.stderr).decode(errors="replace")
        if done.signal:
            raise GuestTimeout(f"{words[0]} in the guest did not end within {timeout_s:g} s")
        if done.code:
            raise SandboxError(f"{words[0]} in the guest ended with {done.code}: {said[-300:]}")
        return said


def _static(program: Path) -> bool:
    return b"ld-linux" not in program.read_bytes()[:4096]


def eventually(peer: Peer, words: Sequence[str]) -> str:
    """Run a program until it succeeds: a server may need a moment."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return peer.run(words, _PATIENCE_S)
        except SandboxError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.02)
