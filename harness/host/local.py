"""This machine as a `Host`."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import CommandFailed, DiskFull, GuestTimeout, MissingTool
from harness.host import evidence
from harness.host.protocol import NOT_FOUND, Done, HostProcess
from harness.host.run import Run


class LocalProcess:
    """Implements `HostProcess`. It has a process group of its own: no interrupt reaches it."""

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket, log: Path) -> None:
        self.pid = process.pid
        self.channel = channel
        self._process = process
        self._log = log

    def poll(self) -> int | None:
        return self._process.poll()

    def error_text(self) -> str:
        with contextlib.suppress(OSError):
            return " | ".join(
                self._log.read_text(errors="replace", encoding="utf-8").strip().splitlines()[-4:]
            )
        return ""

    def end(self) -> None:
        code = evidence.code_if_ended(self._process, self.channel.fileno())
        if code is None:
            self._process.kill()
        self._process.wait()
        self.channel.close()
        evidence.drop(self._log, evidence.ended_by_itself(code))


class LocalHost:
    """Implements `Host`. `run` owns the processes that are started.

    Without a run, commands can be run, but no process can be started.
    """

    name = "this machine"
    clock = "time.perf_counter"

    def __init__(self, run: Run | None = None) -> None:
        self.directory = str(run.directory) if run else ""
        self._environment: dict[str, str] = dict(run.environment if run else os.environ)

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60.0) -> Done:
        started = time.perf_counter()
        try:
            done = subprocess.run(
                argv, input=stdin, capture_output=True, timeout=timeout_s, env=self._environment
            )
        except FileNotFoundError as error:
            message = f"{argv[0]}: {error.strerror}".encode()
            return Done(argv, NOT_FOUND, b"", message, started, time.perf_counter())
        except subprocess.TimeoutExpired as error:
            command = shlex.join(argv)
            raise GuestTimeout(f"{command} did not end within {timeout_s:g} s") from error
        ended = time.perf_counter()
        return Done(argv, done.returncode, done.stdout, done.stderr, started, ended)

    def put(self, content: bytes | Path, path: str, mode: int = 0o644) -> None:
        target = Path(path)
        partial = target.with_name(f"{target.name}.half-{os.getpid()}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, partial)
            else:
                partial.write_bytes(content)
            partial.chmod(mode)
            partial.replace(target)
        except OSError as error:
            partial.unlink(missing_ok=True)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DiskFull(f"no space left for {path}", hint="free some space") from error

    def get(self, path: str) -> bytes:
        try:
            return Path(path).read_bytes()
        except OSError as error:
            reason = error.strerror or "no message"
            raise CommandFailed(f"cannot read {path}: {reason}", 1, reason) from error

    def start(
        self, argv: Sequence[str], name: str, env: Mapping[str, str] | None = None
    ) -> LocalProcess:
        near, far = socket.socketpair()
        log = Path(self.directory, f"{name}.log")
        try:
            with far, log.open("wb") as stderr:
                process = subprocess.Popen(
                    argv,
                    stdin=far.fileno(),
                    stdout=far.fileno(),
                    stderr=stderr,
                    env=self._environment | dict(env or {}),
                    process_group=0,
                )
        except FileNotFoundError as error:
            near.close()
            raise MissingTool(f"{argv[0]} is not installed", hint="coppice doctor") from error
        except BaseException:
            near.close()
            raise
        return LocalProcess(process, near, log)

    def signal(self, process: HostProcess, number: int) -> None:
        if process.poll() is None:  # the PID of a reaped process may be reused
            os.kill(process.pid, number)
