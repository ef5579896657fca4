"""A whole run on another host: the harness is copied there, runs there, and is removed again.

This side has one channel to the worker there (worker.py), and keeps the worker's stdin open while
the run is wanted: a lost connection ends the run there and removes its directory. The records are
fetched file by file, checked by digest, and stored like those of a local run.
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
from harness.measure.storage import write_atomically
from harness.remote import worker
from harness.remote.ssh_connection import VARIABLE as HOST
from harness.remote.ssh_connection import Address, Connection

PYTHON = "COPPICE_HOST_PYTHON"
"""The environment variable that names the remote Python, if `python3` lacks the packages."""
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
"""On an emulated host the first start of Python takes minutes."""
Phase = Callable[[str], object]


def archive() -> bytes:
    """The harness as a tar, with the metadata of its entry points and commit."""
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
    """The path of a remote Python with the packages that a run needs.

    Raises MissingTool, which names the packages, and HostLost.
    """
    named = os.environ.get(PYTHON)
    candidates = [named] if named else ["python3", *(f"python3.{n}" for n in (14, 13, 12, 11))]
    code = f"import sys, {', '.join(NEEDED)}; assert sys.version_info >= (3, 11)"
    tries = [
        f"{{ {shlex.join([name, '-c', code])} >/dev/null 2>&1 && command -v {shlex.quote(name)}; }}"
        for name in candidates
    ]
    done = ask(connection, f"{' || '.join(tries)} || {{ uname -s; exit 3; }}")
    if done.returncode == 0:
        return done.stdout.decode().strip()
    if done.returncode != 3:
        raise connection.lost("while looking for its Python")
    system = done.stdout.decode().strip()
    raise MissingTool(
        f"{connection.address} ({system}) has no Python 3.11 or newer with {', '.join(NEEDED)}",
        hint=_PACKAGES.get(
            system, f"install them there, or name a Python that has them in {PYTHON}"
        ),
    )


def ask(connection: Connection, command: str) -> subprocess.CompletedProcess[bytes]:
    """Run a short shell command there. HostLost after ANSWER_LIMIT_S seconds."""
    with connection.popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            stdout, stderr = process.communicate(timeout=ANSWER_LIMIT_S)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise HostLost(
                f"{connection.address} did not finish within {ANSWER_LIMIT_S:g} s: {command[:80]}",
                hint=f"is that host overloaded? {HOST}={connection.address} coppice doctor",
            ) from error
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


@dataclass
class _Reports:
    """What the worker has reported so far; `change` is notified of each report."""

    values: dict[str, object] = field(default_factory=dict)
    change: threading.Condition = field(default_factory=threading.Condition)
    ended: bool = False

    def wait_for(self, *names: str, timeout_s: float | None = None) -> str | None:
        """Wait for one of these reports and return its name; None when the channel has ended."""
        with self.change:
            self.change.wait_for(
                lambda: self.ended or any(name in self.values for name in names), timeout_s
            )
            return next((name for name in names if name in self.values), None)


def _listen(channel: IO[bytes], mark: str, reports: _Reports) -> None:
    """Pass stderr on, except for the worker's reports."""
    prefix = f"{mark} ".encode()
    blank = b""  # the worker prints an empty line before each report
    for line in channel:
        if line.startswith(prefix):
            blank = b""
            with reports.change:
                reports.values |= json.loads(line[len(prefix) :])
                reports.change.notify_all()
            continue
        sys.stderr.write((blank + (b"" if line == b"\n" else line)).decode(errors="replace"))
        blank = line if line == b"\n" else b""
        sys.stderr.flush()
    with reports.change:
        reports.ended = True
        reports.change.notify_all()


def _show(channel: IO[bytes]) -> None:
    while piece := channel.read1(1 << 16):  # type: ignore[attr-defined]
        sys.stdout.write(piece.decode(errors="replace"))
        sys.stdout.flush()


class RemoteRun:
    """One run on another host, from copying the harness to removing it."""

    def __init__(self, connection: Connection, id: str, phase: Phase) -> None:
        self._connection = connection
        self._id = id
        self._phase = phase
        self._mark = secrets.token_hex(16)
        self._reports = _Reports()

    def run(self, argv: Sequence[str], results: Path | None) -> int:
        """Run `coppice ARGV` there, fetch its records into `results`, and return its exit code."""
        python = find_python(self._connection)
        source = Path(worker.__file__).read_text(encoding="utf-8")
        with contextlib.ExitStack() as stack:
            process = self._connection.popen(
                shlex.join([python, "-c", source, self._mark]),
                shown=shlex.join([python, "-m", "harness", *argv]),
            )
            assert process.stdin and process.stdout and process.stderr
            for pipe in (process.stdout, process.stderr):
                stack.callback(pipe.close)
            for target, arguments in (
                (_listen, (process.stderr, self._mark, self._reports)),
                (_show, (process.stdout,)),
            ):
                thread = threading.Thread(target=target, args=arguments)
                thread.start()
                stack.callback(thread.join)
            stack.callback(self._end, process)  # called first, because the threads wait for its end
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
        # A worker without disk space stops reading; its report says why.
        with contextlib.suppress(BrokenPipeError):
            stdin.write(struct.pack("<Q", len(order)) + order + struct.pack("<Q", len(tar)))
            stdin.flush()
            self._reports.wait_for("directory", "failed")
            self._phase("copying")
            stdin.write(tar)
            stdin.flush()

    def _see_through(self, process: subprocess.Popen[bytes], results: Path | None) -> int:
        address = self._connection.address
        if self._expect("while copying the harness", "unpacked", "failed") == "unpacked":
            self._phase("run")
            self._expect("during the run there", "exit", "failed")
        if "failed" in self._reports.values:
            reason = str(self._reports.values["failed"])
            if self._reports.values.get("full"):
                raise DiskFull(
                    f"no space left on {address} for the run: {reason}",
                    hint="free some space there, or name another directory in its XDG_CACHE_HOME",
                )
            raise CoppiceError(f"the run on {address} could not start: {reason}")
        self._phase("fetch")
        if results is not None:
            self._fetch(results)
        self._phase("clean")
        assert process.stdin
        process.stdin.close()
        self._expect("while cleaning up there", "gone")
        if not self._reports.values["gone"]:
            raise self._connection.lost("before the run's directory was removed")
        code = self._reports.values["exit"]
        assert isinstance(code, int)
        return code if code >= 0 else 128 - code

    def _expect(self, when: str, *names: str) -> str:
        found = self._reports.wait_for(*names)
        if found is None:
            raise self._connection.lost(when)
        return found

    def _fetch(self, results: Path) -> None:
        """Fetch every file that the run has made, and check its digest."""
        files, out = self._reports.values["files"], self._reports.values["out"]
        assert isinstance(files, dict)
        for name, digest in files.items():
            if ".." in Path(name).parts or Path(name).is_absolute():
                raise RecordError(f"{self._connection.address} sent an unsafe file name: {name!r}")
            done = ask(self._connection, f"cat {shlex.quote(f'{out}/{name}')}")
            if done.returncode:
                raise self._connection.lost(f"while fetching {name}")
            if hashlib.sha256(done.stdout).hexdigest() != digest:
                raise HostLost(
                    f"{name} from {self._connection.address} is damaged: its digest differs",
                    hint="run it again; this file was not stored",
                )
            write_atomically(results / name, done.stdout)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Close the worker's stdin, which ends it, and wait for it."""
        assert process.stdin
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(_PATIENCE_S if self._connection.is_alive else 5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


_PASSED_ON = (
    "COPPICE_ACCELERATOR",
    "COPPICE_CONFINEMENT",
    "COPPICE_CPU",
    FUNCTION_ONLY,
    "COPPICE_GUEST_AGENT",
    "COPPICE_INITRAMFS",
    "COPPICE_KERNEL",
    "COPPICE_KERNEL_ARGUMENTS",
    "COPPICE_KERNEL_MODULES",
    "COPPICE_MACHINE",
    "COPPICE_POOL",
)


def run_remotely(
    address: Address, argv: Sequence[str], results: Path | None, phase: Phase = lambda name: None
) -> int:
    """Run `coppice ARGV` on another host and return its exit code.

    `phase` is called with the name of each phase as it begins: connected, copy, copying, run,
    fetch, clean. Raises HostError, MissingTool, DiskFull, RecordError.
    """
    with open_run() as run, Connection(address, {VARIABLE: str(run.directory)}) as connection:
        phase("connected")
        return RemoteRun(connection, run.id, phase).run(argv, results)


def address() -> Address:
    """The host that COPPICE_HOST names."""
    return Address.parse(os.environ[HOST])


def drop_options(argv: Sequence[str], *options: str, flags: Sequence[str] = ()) -> list[str]:
    """A command line without these options (and their values) and flags."""
    kept, skip = [], False
    for argument in argv:
        if skip:
            skip = False
        elif argument in options:
            skip = True
        elif argument not in flags and not argument.startswith(tuple(f"{o}=" for o in options)):
            kept.append(argument)
    return kept
