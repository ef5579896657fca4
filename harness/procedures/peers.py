"""Traffic peers: a namespace, a jail or a microVM that runs programs on the network."""

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
from harness.host.cpus import ids
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
    """Compile one of the harness's C programs, statically, so that guests can run it too.

    Raises MissingTool.
    """
    target = directory / name
    if not target.exists():
        run(_COMPILER, *_COMPILE, "-o", target, _SOURCES / f"{name}.c")
    return target


class Peer(Protocol):
    """A place with an address that runs programs."""

    address: str

    def pin(self, core: int) -> None:
        """Run on this core from now on, including programs that run already."""

    def equip(self, program: str | Path) -> Sequence[str]:
        """Make a program of this machine available there; the argv prefix to call it."""

    def serve(self, argv: Sequence[str]) -> None:
        """Start a program that stays until the peer ends."""

    def run(self, argv: Sequence[str], timeout_s: float) -> str:
        """Run a program to its end and return its output. Raises SandboxError when it fails."""


class LocalPeer:
    """Implements `Peer` on this machine. Made by `namespace_peer` or `jail_peer`.

    Programs are started within the context `entered`, with the argv prefix `before`.
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

    def start(self, argv: Sequence[str], *, listens: bool = False) -> subprocess.Popen[bytes]:
        """Start a program that is killed when the peer ends. `listens`: its stdin is a pipe."""
        with self._entered(), _starting_on(self._core):
            process = subprocess.Popen(
                [*self._before, *argv],
                stdin=subprocess.PIPE if listens else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(self._run.environment),
            )
        self._stack.callback(_end, process)
        if self._core is not None and not _INHERITED:
            _pin(process.pid, self._core)
        return process

    def serve(self, argv: Sequence[str]) -> None:
        self._servers.append(self.start(argv))

    def run(self, argv: Sequence[str], timeout_s: float) -> str:
        process = self.start(argv)
        try:
            output = process.communicate(timeout=timeout_s)[0].decode(errors="replace")
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise SandboxError(f"{argv[0]} did not end within {timeout_s:g} s") from error
        if process.returncode:
            raise SandboxError(
                f"{argv[0]} ended with {process.returncode}: {output.strip()[-300:]}"
            )
        return output


_INHERITED = hasattr(os, "sched_setaffinity")
"""Whether children inherit the CPU affinity; on other systems they are moved once they run."""


_CPUS = ids()
"""Taken before any process is pinned; in a cpuset they need not begin with 0."""


def _cpu(core: int) -> set[int]:
    """The CPU that a core's number means: of those that the harness may use."""
    return {_CPUS[core % len(_CPUS)]}


@contextlib.contextmanager
def _starting_on(core: int | None) -> Iterator[None]:
    if core is None or not _INHERITED:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _cpu(core))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _pin(pid: int, core: int) -> None:
    if _INHERITED:
        os.sched_setaffinity(pid, _cpu(core))
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
    """Implements `Peer` in a running microVM."""

    def __init__(self, sandbox: QemuSandbox) -> None:
        self.address = str(sandbox.identity.address)
        self._sandbox = sandbox

    def pin(self, core: int) -> None:
        for thread in Path(f"/proc/{self._sandbox.vmm.process.pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), _cpu(core))

    def equip(self, program: str | Path) -> Sequence[str]:
        """Copy the program into the guest, with its libraries and dynamic loader, if it has any."""
        agent = self._sandbox.agent
        path = Path(need(str(program)))
        agent.run(("/bin/mkdir", "-p", _TOOLS))
        libraries = [] if _static(path) else libraries_of(path)
        for file in (str(path), *libraries):
            agent.write_file(f"{_TOOLS}/{Path(file).name}", Path(file).read_bytes(), 0o755)
        loader = [Path(file).name for file in libraries if "ld-linux" in file]
        before = [f"{_TOOLS}/{loader[0]}", "--library-path", _TOOLS] if loader else []
        return [*before, f"{_TOOLS}/{path.name}"]

    def serve(self, argv: Sequence[str]) -> None:
        command = " ".join(argv)
        self._sandbox.agent.run(("/bin/sh", "-c", f"{command} >/tmp/served 2>&1 &"))

    def run(self, argv: Sequence[str], timeout_s: float) -> str:
        done = self._sandbox.agent.run(argv, timeout_s=timeout_s)
        output = (done.stdout + done.stderr).decode(errors="replace")
        if done.signal:
            raise GuestTimeout(f"{argv[0]} in the guest did not end within {timeout_s:g} s")
        if done.code:
            raise SandboxError(f"{argv[0]} in the guest ended with {done.code}: {output[-300:]}")
        return output


def libraries_of(program: Path) -> Sequence[str]:
    """The shared libraries of a program, with its dynamic loader.

    glibc itself opens libgcc_s when a thread is cancelled, as iperf3 does since 3.16: ldd does not
    list it.
    """
    listed = re.findall(r"(/\S+)", run("ldd", program).decode())
    unwinders = [Path(file).with_name("libgcc_s.so.1") for file in listed if "/libc.so." in file]
    return list(dict.fromkeys([*listed, *(str(file) for file in unwinders if file.exists())]))


def _static(program: Path) -> bool:
    return b"ld-linux" not in program.read_bytes()[:4096]


def eventually(peer: Peer, argv: Sequence[str]) -> str:
    """Run a program until it succeeds, since its server may still be starting."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return peer.run(argv, _PATIENCE_S)
        except SandboxError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.02)
