"""A host reached over an OpenSSH connection.

Each call is a channel of one shared connection. Programs are started and timed by a few lines of
Python on that host or, where it has no Python, by its shell, whose clock is coarse. A started
process depends on no channel: its stdin is a named pipe and its stdout a file, so that it outlives
a lost connection, and its output can be read again.
"""

from __future__ import annotations

import contextlib
import secrets
import shlex
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harness.errors import CoppiceError, GuestDied, GuestTimeout, HostLost
from harness.host import evidence
from harness.host.protocol import Done, HostProcess, failure, must, signal_name
from harness.host.run import VARIABLE, Run
from harness.remote.ssh_connection import Address, Connection

_PYTHON = """\
import subprocess, sys, time
a = time.perf_counter()
try:
    c = subprocess.call(sys.argv[2:])
except OSError as e:
    c = 127
    sys.stderr.write("%s: %s" % (sys.argv[2], e.strerror))
b = time.perf_counter()
sys.stderr.write("\\n%s %d %r %r\\n" % (sys.argv[1], c, a, b))
"""
_UPTIME = "cut -d' ' -f1 /proc/uptime"
_ETIMES = "ps -o etimes= -p 1"
WAITER = "timeout --foreground 0"
"""Waits for a process to end. FreeBSD's shell takes a stopped process for one that has ended."""
# Ends with the connection; it then kills what was started and removes the directory. Several times,
# because the shell of a process that was killed may write its exit code there meanwhile.
_KEEPER = (
    "umask 077; mkdir DIRECTORY && echo $$ > DIRECTORY/owner && echo made || exit; "
    'cat > /dev/null; for p in DIRECTORY/*.pid; do test -e "$p" && kill -9 $(cat "$p") '
    "2>/dev/null; done; for n in 1 2 3 4 5; do rm -rf DIRECTORY 2>/dev/null && break; sleep 1; done"
)
_FIND_PYTHON = (
    "for p in python3 python3.14 python3.13 python3.12 python3.11; do "
    "command -v $p && break; done; true"
)


class SshProcess:
    """Implements `HostProcess`."""

    def __init__(self, host: SshHost, name: str, pid: int) -> None:
        self.pid = pid
        self._host = host
        self._files = f"{host.directory}/{name}"
        self.channel, far = socket.socketpair()
        # tail starts at the first byte, so earlier output is not missed.
        # Opened for reading too: opening for writing alone would wait for a reader, perhaps dead.
        into = self._q(".in")
        command = (
            f'tail -c +1 -f {self._q(".out")} & trap "kill $!" EXIT; '
            f"exec 4<>{into} 5>{into} 4<&-; cat >&5"
        )
        with far:
            self._pump = host.connection.popen(
                command, stdin=far.fileno(), stdout=far.fileno(), stderr=subprocess.DEVNULL
            )

    def _q(self, suffix: str) -> str:
        return shlex.quote(self._files + suffix)

    def poll(self) -> int | None:
        text = self._host.shell(f"cat {self._q('.exit')} 2>/dev/null || true").text.strip()
        return int(text) if text else None

    def error_text(self) -> str:
        with contextlib.suppress(CoppiceError):
            text = self._host.shell(f"tail -n 4 {self._q('.log')}").text
            return " | ".join(text.splitlines())
        return ""

    def end(self) -> None:
        """Kill the process, wait until it has ended, and remove its files."""
        self.channel.close()
        self._pump.terminate()
        self._pump.wait()
        self._hand_over()
        with contextlib.suppress(HostLost):
            self._host.shell(
                f"test -e {self._q('.exit')} || kill -9 {self.pid} 2>/dev/null; "
                f"while test -p {self._q('.in')} && ! test -e {self._q('.exit')}; "
                f"do sleep 0.05; done; rm -f {self._files_all()}",
                timeout_s=30,
            )

    def _hand_over(self) -> None:
        """Fetch the end of the log while a failure may still have to be explained."""
        if not evidence.wanted():
            return
        with contextlib.suppress(CoppiceError):
            note = evidence.ended_by_itself(self.poll())
            text = f"tail -c {evidence.FILE_LIMIT} {self._q('.log')}"
            log = self._host.shell(text, check=False).stdout
            evidence.add(f"{Path(self._files).name}.log", log, note)

    def _files_all(self) -> str:
        return " ".join(self._q(suffix) for suffix in (".in", ".out", ".log", ".pid", ".exit"))


class SshHost:
    """Implements `Host`; opened by `open_ssh`."""

    def __init__(self, connection: Connection, directory: str, mark: str = "") -> None:
        self.connection = connection
        self.name = str(connection.address)
        self.directory = directory
        self._mark = mark
        self.python: str | None = None
        self._now = _ETIMES
        self.clock = "ps -o etimes of process 1, 1 s"

    def explore(self) -> None:
        """Find the host's Python, and the clock to use."""
        self.python = self.shell(_FIND_PYTHON).text.strip() or None
        if self.python:
            self.clock = f"time.perf_counter of {self.python}"
        elif not self.shell("test -r /proc/uptime", check=False).code:
            self._now, self.clock = _UPTIME, "/proc/uptime, 10 ms"

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60.0) -> Done:
        mark = secrets.token_hex(8)
        command_line = shlex.join(argv)
        if self.python:
            command = shlex.join([self.python, "-c", _PYTHON, mark, *argv])
        else:
            command = (
                f"a=$({self._now}); {command_line}; c=$?; b=$({self._now}); "
                f"printf '\\n%s %d %s %s\\n' {mark} $c $a $b >&2"
            )
        if self._mark:
            command = f"export {VARIABLE}={shlex.quote(self._mark)}; {command}"
        return self._channel(argv, command, mark, stdin, timeout_s)

    def _channel(
        self, argv: Sequence[str], command: str, mark: str, stdin: bytes, timeout_s: float
    ) -> Done:
        with self.connection.popen(command, shown=shlex.join(argv)) as process:
            try:
                stdout, stderr = process.communicate(stdin, timeout_s)
            except subprocess.TimeoutExpired as error:
                process.kill()
                command_line = shlex.join(argv)
                raise GuestTimeout(
                    f"{command_line} on {self.name} did not end within {timeout_s:g} s"
                ) from error
            except BaseException:
                process.kill()
                raise
        before, found, trailer = stderr.rpartition(f"\n{mark} ".encode())
        fields = trailer.split()
        if not found or len(fields) != 3:
            if self.connection.was_lost(process.returncode):
                raise self.connection.lost(f"while running: {shlex.join(argv)}")
            message = stderr.decode(errors="replace").strip()
            raise GuestDied(f"the shell of {self.name} exited with {process.returncode}: {message}")
        code, started, ended = int(fields[0]), float(fields[1]), float(fields[2])
        return Done(argv, code, stdout, before, started, ended)

    def shell(
        self, text: str, *, stdin: bytes = b"", timeout_s: float = 60, check: bool = True
    ) -> Done:
        """Run a shell command of the harness itself, without timing it."""
        mark = secrets.token_hex(8)
        command = f"( {text} ); printf '\\n%s %d 0 0\\n' {mark} $? >&2"
        done = self._channel(["sh", "-c", text], command, mark, stdin, timeout_s)
        if check and done.code:
            raise failure(self, done)
        return done

    def put(self, content: bytes | Path, path: str, mode: int = 0o644) -> None:
        data = content.read_bytes() if isinstance(content, Path) else content
        target, half = shlex.quote(path), shlex.quote(f"{path}.half-{secrets.token_hex(4)}")
        directory = shlex.quote(path.rpartition("/")[0] or "/")
        # A broken pipe must not pass for the end of the file, so the length is checked there.
        self.shell(
            f"mkdir -p {directory} && cat > {half} && test $(wc -c < {half}) -eq {len(data)} && "
            f"chmod {mode:o} {half} && mv {half} {target} || {{ rm -f {half}; exit 1; }}",
            stdin=data,
            timeout_s=600,
        )

    def get(self, path: str) -> bytes:
        return must(self, ["cat", path], timeout_s=600).stdout

    def start(
        self, argv: Sequence[str], name: str, env: Mapping[str, str] | None = None
    ) -> SshProcess:
        variables = {**(env or {}), **({VARIABLE: self._mark} if self._mark else {})}
        exports = "".join(
            f"export {key}={shlex.quote(value)}; " for key, value in variables.items()
        )
        base = shlex.quote(f"{self.directory}/{name}")
        # The process has the pipe open for reading and writing, so it never reads end of file.
        inner = f"echo $$ > {base}.pid; exec {shlex.join(argv)} <&3 3>&- > {base}.out 2> {base}.log"
        self.shell(
            f"{exports} mkfifo {base}.in || exit; exec 3<>{base}.in; "
            f"( trap '' HUP; {WAITER} sh -c {shlex.quote(inner)}; echo $? > {base}.exit ) "
            "</dev/null >/dev/null 2>&1 & "
            f"while ! test -s {base}.pid; do sleep 0.02; done"
        )
        return SshProcess(self, name, int(self.get(f"{self.directory}/{name}.pid")))

    def signal(self, process: HostProcess, number: int) -> None:
        # By name: SIGSTOP is 19 on Linux and 17 on FreeBSD, where 19 is SIGCONT.
        self.run(["kill", "-s", signal_name(number), str(process.pid)])


@contextlib.contextmanager
def open_ssh(run: Run, address: Address) -> Iterator[SshHost]:
    """Connect to a host, with a directory there for this run.

    When the block ends, or the connection does, started processes are killed and the directory is
    removed. Raises HostError, MissingTool (ssh) and CoppiceError (the directory cannot be made).
    """
    with Connection(address, {VARIABLE: str(run.directory)}) as connection:
        directory = f"/var/tmp/{run.object_name('host')}"
        host = SshHost(connection, directory, directory)
        keeper = connection.popen(_KEEPER.replace("DIRECTORY", shlex.quote(directory)))
        assert keeper.stdin and keeper.stdout
        try:
            if keeper.stdout.readline() != b"made\n":
                _, stderr = keeper.communicate()
                if connection.was_lost(keeper.returncode):
                    raise connection.lost("before anything was started there")
                raise CoppiceError(
                    f"cannot make the directory {directory} on {address}: {stderr.decode().strip()}"
                )
            host.explore()
            yield host
        finally:
            with contextlib.suppress(OSError):
                keeper.stdin.close()
            try:
                keeper.wait(30 if connection.is_alive else 1)
            except subprocess.TimeoutExpired:
                keeper.kill()
                keeper.wait()
            for pipe in (keeper.stdout, keeper.stderr):
                if pipe:
                    pipe.close()
