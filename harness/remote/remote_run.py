"""A whole run on another host: the harness is copied there, runs there, and goes away again.

The near end keeps one channel to the far end (far_end.py), whose stdin stays open as long as it
is wanted: a connection that is lost ends the run there, and removes its directory. What was
measured comes back file by file, each checked by its digest, and is stored as if it had been
measured here.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import os
import secrets
import shlex
import struct
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from harness import __version__, command_log, paths
from harness.errors import CoppiceError, DiskFull, HostLost, MissingTool, RecordError
from harness.host.run import VARIABLE
from harness.host.session import open_run
from harness.measure import provenance
from harness.measure.machine import FUNCTION_ONLY
from harness.measure.record import write_atomically
from harness.remote import worker
from harness.remote.ssh_connection import VARIABLE as HOST
from harness.remote.ssh_connection import Address, Connection

PYTHON = "COPPICE_HOST_PYTHON"
"""Names the other host's Python, where `python3` there is not the one that has the packages."""
COPIED = ("rigs", "patches")
"""Directories of data that a run needs, beside the package itself."""
NEEDED = ("fastjsonschema", "psutil", "pytest", "pytest_benchmark", "yaml", "sh")
OURS = "coppice-harness"
"""The distribution that this package is installed as."""
_PACKAGES = {
    "FreeBSD": "pkg install -y python311 py311-fastjsonschema py311-psutil py311-pytest "
    "py311-pytest-benchmark py311-pyyaml py311-sh",
    "Linux": "run bin/setup in a checkout there, and name its .venv/bin/python in " + PYTHON,
}
_PATIENCE_S = 180.0
ANSWER_LIMIT_S = 300.0
"""A first start of Python takes minutes on a host that is emulated."""
Phase = Callable[[str], object]


def archive() -> bytes:
    """The harness as a tar, with what tells Python of its entry points, and of its commit."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, name in _sources():
            tar.add(path, name, recursive=False)
        for name, text in _metadata().items():
            data = text.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _sources() -> Iterator[tuple[Path, str]]:
    """Every file of the package and of its data, with its name where a wheel has it."""
    data = paths.PACKAGE / "data"
    places = [(paths.PACKAGE, "harness")]
    places += [(paths.DATA / name, f"harness/data/{name}") for name in COPIED]
    for directory, name in places:
        for path in sorted(directory.rglob("*")):
            if not path.is_file() or "__pycache__" in path.parts:
                continue
            if directory is paths.PACKAGE and path.is_relative_to(data):
                continue
            yield path, f"{name}/{path.relative_to(directory).as_posix()}"


def _metadata() -> Mapping[str, str]:
    distribution = importlib.metadata.distribution(OURS)
    groups: dict[str, list[str]] = {}
    for entry in distribution.entry_points:
        groups.setdefault(entry.group, []).append(f"{entry.name} = {entry.value}")
    lines = [line for group, entries in groups.items() for line in (f"[{group}]", *entries)]
    directory = f"{OURS.replace('-', '_')}-{__version__}.dist-info"
    git = provenance.git()
    return {
        f"{directory}/METADATA": (f"Metadata-Version: 2.1\nName: {OURS}\nVersion: {__version__}\n"),
        f"{directory}/entry_points.txt": "\n".join(lines) + "\n",
        f"harness/{paths.BUILT_FROM.name}": json.dumps({"commit": git.commit, "dirty": git.dirty}),
    }


def find_python(connection: Connection) -> str:
    """The other host's Python that has what a run needs; MissingTool names the packages."""
    named = os.environ.get(PYTHON)
    candidates = [named] if named else ["python3", *(f"python3.{n}" for n in (14, 13, 12, 11))]
    code = f"import sys, {', '.join(NEEDED)}; assert sys.version_info >= (3, 11)"
    tries = [
        f"{{ {shlex.join([one, '-c', code])} >/dev/null 2>&1 && command -v {shlex.quote(one)}; }}"
        for one in candidates
    ]
    done = ask(connection, f"{' || '.join(tries)} || {{ uname -s; exit 3; }}")
    if done.returncode == 0:
        return done.stdout.decode().strip()
    if done.returncode != 3:
        raise connection.lost("while its Python was looked for")
    system = done.stdout.decode().strip()
    raise MissingTool(
        f"{connection.address} ({system}) has no Python from 3.11 on with {', '.join(NEEDED)}",
        hint=_PACKAGES.get(system, f"install them there, or name its Python in {PYTHON}"),
    )


def ask(connection: Connection, command: str) -> subprocess.CompletedProcess[bytes]:
    """A short line of shell there, to its end; HostLost when that does not come."""
    with connection.popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            stdout, stderr = process.communicate(timeout=ANSWER_LIMIT_S)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise HostLost(
                f"{connection.address} did not end within {ANSWER_LIMIT_S:g} s: {command[:80]}",
                hint=f"is it busy, or stuck? {HOST}={connection.address} coppice doctor asks it",
            ) from error
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


@dataclass
class _Said:
    """What the far end has said so far; `change` is notified at each."""

    words: dict[str, object] = field(default_factory=dict)
    change: threading.Condition = field(default_factory=threading.Condition)
    ended: bool = False

    def wait_for(self, *names: str, timeout_s: float | None = None) -> str | None:
        """The first of these that was said; None when the channel ended before."""
        with self.change:
            self.change.wait_for(
                lambda: self.ended or any(name in self.words for name in names), timeout_s
            )
            return next((name for name in names if name in self.words), None)


def _listen(channel: IO[bytes], mark: str, said: _Said) -> None:
    """Pass stderr on, but for what is meant for us."""
    prefix = f"{mark} ".encode()
    blank = b""  # the far end begins a line of its own before each word
    for line in channel:
        if line.startswith(prefix):
            blank = b""
            with said.change:
                said.words |= json.loads(line[len(prefix) :])
                said.change.notify_all()
            continue
        sys.stderr.write((blank + (b"" if line == b"\n" else line)).decode(errors="replace"))
        blank = line if line == b"\n" else b""
        sys.stderr.flush()
    with said.change:
        said.ended = True
        said.change.notify_all()


def _show(channel: IO[bytes]) -> None:
    while piece := channel.read1(1 << 16):  # type: ignore[attr-defined]
        sys.stdout.write(piece.decode(errors="replace"))
        sys.stdout.flush()


class FarRun:
    """One run at the other end, from the copy to the empty place that it leaves."""

    def __init__(self, connection: Connection, id: str, phase: Phase) -> None:
        self._connection = connection
        self._id = id
        self._phase = phase
        self._mark = secrets.token_hex(16)
        self._said = _Said()

    def run(self, argv: Sequence[str], results: Path | None) -> int:
        """The exit code of `coppice ARGV` there, whose records then stand in `results`."""
        python = find_python(self._connection)
        source = Path(worker.__file__).read_text()
        with contextlib.ExitStack() as stack:
            process = self._connection.popen(
                shlex.join([python, "-c", source, self._mark]),
                shown=shlex.join([python, "-m", "harness.cli", *argv]),
            )
            assert process.stdin and process.stdout and process.stderr
            for pipe in (process.stdout, process.stderr):
                stack.callback(pipe.close)
            for target, arguments in (
                (_listen, (process.stderr, self._mark, self._said)),
                (_show, (process.stdout,)),
            ):
                thread = threading.Thread(target=target, args=arguments)
                thread.start()
                stack.callback(thread.join)
            stack.callback(self._end, process)  # the first to go: the threads wait for it
            self._send(process.stdin, argv)
            return self._see_through(process, results)

    def _send(self, stdin: IO[bytes], argv: Sequence[str]) -> None:
        env = provenance.environment()
        env = {name: value for name, value in env.items() if name in _PASSED_ON}
        if os.environ.get(command_log.VARIABLE) == "1":  # its stderr comes here; a file would not
            env[command_log.VARIABLE] = "1"
        order = json.dumps({"id": self._id, "argv": list(argv), "env": env}).encode()
        tar = archive()
        self._phase("copy")
        # A far end that has no room, or is gone, takes no more: what it says of it comes first.
        with contextlib.suppress(BrokenPipeError):
            stdin.write(struct.pack("<Q", len(order)) + order + struct.pack("<Q", len(tar)))
            stdin.flush()
            self._said.wait_for("directory", "failed")
            self._phase("copying")
            stdin.write(tar)
            stdin.flush()

    def _see_through(self, process: subprocess.Popen[bytes], results: Path | None) -> int:
        address = self._connection.address
        if self._expect("while the harness was copied", "unpacked", "failed") == "unpacked":
            self._phase("run")
            self._expect("while it measured there", "exit", "failed")
        if "failed" in self._said.words:
            said = str(self._said.words["failed"])
            if self._said.words.get("full"):
                raise DiskFull(
                    f"no room on {address} for the run: {said}",
                    hint="free some space there, or name another directory in its XDG_CACHE_HOME",
                )
            raise CoppiceError(f"the run on {address} could not begin: {said}")
        self._phase("fetch")
        if results is not None:
            self._fetch(results)
        self._phase("clean")
        assert process.stdin
        process.stdin.close()
        self._expect("while it cleaned up there", "gone")
        if not self._said.words["gone"]:
            raise self._connection.lost("and its directory could not be removed")
        code = self._said.words["exit"]
        assert isinstance(code, int)
        return code if code >= 0 else 128 - code

    def _expect(self, when: str, *names: str) -> str:
        found = self._said.wait_for(*names)
        if found is None:
            raise self._connection.lost(when)
        return found

    def _fetch(self, results: Path) -> None:
        """Every file that was made there, by its digest."""
        files, out = self._said.words["files"], self._said.words["out"]
        assert isinstance(files, dict)
        for name, digest in files.items():
            if ".." in Path(name).parts or Path(name).is_absolute():
                raise RecordError(f"{self._connection.address} offers a file called {name!r}")
            done = ask(self._connection, f"cat {shlex.quote(f'{out}/{name}')}")
            if done.returncode:
                raise self._connection.lost(f"while {name} was brought back")
            if hashlib.sha256(done.stdout).hexdigest() != digest:
                raise HostLost(
                    f"{name} of {self._connection.address} is not what was written there: "
                    "its digest differs",
                    hint="run it again; nothing of this one was kept under that name",
                )
            write_atomically(results / name, done.stdout)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Whatever happened: the end of stdin tells the far end, which is waited for."""
        assert process.stdin
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(_PATIENCE_S if self._connection.lives else 5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


_PASSED_ON = (
    "COPPICE_ACCELERATOR",
    FUNCTION_ONLY,
    "COPPICE_GUEST_AGENT",
    "COPPICE_INITRAMFS",
    "COPPICE_KERNEL",
    "COPPICE_KERNEL_MODULES",
    "COPPICE_POOL",
)


def run_there(
    address: Address, argv: Sequence[str], results: Path | None, phase: Phase = lambda name: None
) -> int:
    """Run `coppice ARGV` at an address; its exit code. `phase` is told what begins.

    Raises HostError, MissingTool, DiskFull, RecordError.
    """
    with open_run() as run, Connection(address, {VARIABLE: str(run.directory)}) as connection:
        phase("connected")
        return FarRun(connection, run.id, phase).run(argv, results)


def address() -> Address:
    """The host that COPPICE_HOST names."""
    return Address.parse(os.environ[HOST])


def without(argv: Sequence[str], *options: str, flags: Sequence[str] = ()) -> list[str]:
    """A command line without some options (each with its value) and flags."""
    kept, skip = [], False
    for word in argv:
        if skip:
            skip = False
        elif word in options:
            skip = True
        elif word not in flags and not word.startswith(tuple(f"{one}=" for one in options)):
            kept.append(word)
    return kept
