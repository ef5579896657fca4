"""A host at the end of a serial console, for a machine without ssh or Python. For tests only.

A shell waits on the console. A call is one line, and its output up to a mark; binary data is sent
in octal and received in hexadecimal. Slow, so nothing is timed with it.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shlex
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import CommandFailed, GuestTimeout
from harness.host.protocol import Done, HostProcess, signal_name
from harness.remote.ssh import WAITER

PIECE = 180
"""Bytes per line: a terminal accepts about a thousand characters."""
BURST, BURST_S = 128, 0.03
PATIENCE_S = 3600.0
"""An emulated machine may be paused for long during other measurements."""


class Console:
    """The shell behind a socket; one line at a time."""

    def __init__(self, path: str) -> None:
        self._lock = threading.RLock()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._socket.settimeout(1)
        # A shell without line editing, which would take later input for typing.
        self._socket.sendall(b"\nexec sh -s 2>/dev/null\n")
        time.sleep(2)
        self.ask("stty -echo -onlcr")

    def close(self) -> None:
        self._socket.close()

    def ask(self, line: str, timeout_s: float = PATIENCE_S) -> tuple[bytes, int]:
        """The output and the exit code of a command line."""
        mark = secrets.token_hex(6)
        # The shell assembles the mark, so that the echo of the line does not contain it.
        words = f"printf 'B%s\\n' {mark}; {line} ; printf '\\nE%s=%d\\n' {mark} $?\n"
        with self._lock:
            self._send(words.encode())
            got, deadline = b"", time.monotonic() + timeout_s
            pattern = re.compile(rb"\r?\nE" + mark.encode() + rb"=(\d+)\r?\n")
            while not (found := pattern.search(got)):
                if time.monotonic() > deadline:
                    raise GuestTimeout(f"the console did not answer {line[:80]!r}: {got[-200:]!r}")
                with contextlib.suppress(TimeoutError):
                    got += self._socket.recv(1 << 16)
        begin = got.rfind(b"B" + mark.encode())
        output = got[begin + 1 + len(mark) : found.start()].lstrip(b"\r")
        return output.removeprefix(b"\n").replace(b"\r\n", b"\n"), int(found[1])

    def _send(self, data: bytes) -> None:
        """Send with pauses: a burst overruns uart(4)'s ring of 384 bytes, and is lost in part."""
        for at in range(0, len(data), BURST):
            self._socket.sendall(data[at : at + BURST])
            time.sleep(BURST_S)

    def write(self, data: bytes, path: str) -> None:
        """Append bytes to a file or a named pipe there."""
        for at in range(0, len(data), PIECE):
            octal = "".join(f"\\{byte:03o}" for byte in data[at : at + PIECE])
            self.ask(f"printf '{octal}' >> {shlex.quote(path)}")

    def read(self, path: str, offset: int = 0) -> bytes:
        """A file from an offset on."""
        output, _ = self.ask(f"tail -c +{offset + 1} {shlex.quote(path)} | od -An -v -tx1")
        return bytes.fromhex(output.decode().replace("\n", " "))


class SerialStarted:
    """Implements `HostProcess`: a process between a named pipe and a file; a thread carries."""

    def __init__(self, console: Console, files: str, pid: int) -> None:
        self.pid = pid
        self.channel, self._far = socket.socketpair()
        self._console = console
        self._files = files
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def _carry(self) -> None:
        offset = 0
        self._far.settimeout(0.05)
        with contextlib.suppress(OSError):
            while not self._ended.is_set():
                with contextlib.suppress(TimeoutError):
                    data = self._far.recv(1 << 16)
                    if not data:
                        return
                    self._console.write(data, f"{self._files}.in")
                if piece := self._console.read(f"{self._files}.out", offset):
                    offset += len(piece)
                    self._far.sendall(piece)
                elif self.poll() is not None:
                    self._far.close()
                    return

    def poll(self) -> int | None:
        output, _ = self._console.ask(f"cat {self._files}.exit 2>/dev/null")
        return int(output) if output.strip() else None

    def error_text(self) -> str:
        output, _ = self._console.ask(f"tail -n 4 {self._files}.log")
        return " | ".join(output.decode(errors="replace").strip().splitlines())

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        self.channel.close()
        self._far.close()
        self._console.ask(
            f"test -e {self._files}.exit || kill -9 {self.pid} 2>/dev/null; "
            f"while test -p {self._files}.in && ! test -e {self._files}.exit; do sleep 1; done; "
            f"rm -f {self._files}.in {self._files}.out {self._files}.log {self._files}.exit"
        )


class Serial:
    """Implements `harness.host.protocol.Host`."""

    name = "a serial console"
    clock = "none"

    def __init__(self, console: Console, directory: str) -> None:
        self.directory = directory
        self._console = console
        console.ask(f"mkdir -p {directory}")

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 600.0) -> Done:
        given, out = "/dev/null", f"{self.directory}/.out"
        if stdin:
            given = f"{self.directory}/.in"
            self._console.ask(f"rm -f {given}")
            self._console.write(stdin, given)
        _, code = self._console.ask(f"( {shlex.join(argv)} ) < {given} > {out} 2> {out}2")
        stdout, _ = self._console.ask(f"cat {out}")
        stderr, _ = self._console.ask(f"cat {out}2")
        if _binary(stdout):
            stdout = self._console.read(out)
        return Done(argv, code, stdout, stderr, 0.0, 0.0)

    def put(self, content: bytes | Path, path: str, mode: int = 0o644) -> None:
        data = content.read_bytes() if isinstance(content, Path) else content
        directory = shlex.quote(path.rpartition("/")[0])
        self._console.ask(
            f"mkdir -p {directory}; rm -f {shlex.quote(path)}; : > {shlex.quote(path)}"
        )
        self._console.write(data, path)
        self._console.ask(f"chmod {mode:o} {shlex.quote(path)}")

    def get(self, path: str) -> bytes:
        _, code = self._console.ask(f"test -r {shlex.quote(path)}")
        if code:
            raise CommandFailed(f"{path} cannot be read", code, "not there")
        return self._console.read(path)

    def start(
        self, argv: Sequence[str], name: str, env: Mapping[str, str] | None = None
    ) -> HostProcess:
        files = f"{self.directory}/{name}"
        inner = (
            f"echo $$ > {files}.pid; exec {shlex.join(argv)} <&3 3>&- > {files}.out 2> {files}.log"
        )
        self._console.ask(
            f"mkfifo {files}.in; : > {files}.out; ( exec 3<>{files}.in; "
            f"{WAITER} sh -c {shlex.quote(inner)}; echo $? > {files}.exit ) "
            "</dev/null >/dev/null 2>&1 & true"
        )
        while not (pid := self._console.ask(f"cat {files}.pid 2>/dev/null")[0].strip()):
            time.sleep(0.1)
        return SerialStarted(self._console, files, int(pid))

    def signal(self, process: HostProcess, number: int) -> None:
        self._console.ask(f"kill -s {signal_name(number)} {process.pid}")


def _binary(data: bytes) -> bool:
    return any(byte < 9 for byte in data)
