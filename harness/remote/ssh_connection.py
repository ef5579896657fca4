"""One OpenSSH connection shared by many commands, and errors that explain its failures.

Settings are the user's own (~/.ssh/config, agent, known hosts), or those of the file that
COPPICE_SSH_CONFIG names. ssh never asks for a password.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from harness import command_log
from harness.errors import HostError, HostKeyChanged, HostLost, UsageError
from harness.host.process import need
from harness.host.scratch import temporary_directory

VARIABLE = "COPPICE_HOST"
CONFIG = "COPPICE_SSH_CONFIG"
_BROKEN = 255
"""The exit code of ssh when the connection, not the command, has failed."""
_PATIENCE_S = 30.0
_OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": "10",
    # A host that is silent for 15 s counts as lost: a dead connection must not hang a run.
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    "LogLevel": "ERROR",
}


@dataclass(frozen=True)
class Address:
    """The address of a host; `user` and `port` are None where ssh's settings decide."""

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse ssh://user@host:port. Raises UsageError."""
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise UsageError(f"invalid host address {text!r}: {error}", hint=_FORM) from error
        if parts.scheme != "ssh" or not parts.hostname or parts.path.strip("/") or parts.query:
            raise UsageError(f"invalid host address {text!r}", hint=_FORM)
        if parts.password is not None:
            raise UsageError(
                "a host address must not contain a password", hint="use a key: ssh-copy-id"
            )
        if parts.hostname.startswith("-") or (parts.username or "").startswith("-"):
            raise UsageError(f"ssh would read {text!r} as an option", hint=_FORM)
        return cls(parts.hostname, parts.username, port)

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{user}{host}" + (f":{self.port}" if self.port else "")


_FORM = f"{VARIABLE}=ssh://user@host or ssh://user@host:port"


class Connection:
    """An ssh master connection while the block runs; each command is a channel of it."""

    def __init__(self, address: Address, environment: Mapping[str, str] | None = None) -> None:
        self.address = address
        self._environment = {**os.environ, **(environment or {}), "LC_ALL": "C"}
        self._master: subprocess.Popen[bytes] | None = None
        self._directory = Path()
        """Of the master's socket and log; made when it connects."""
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Connection:
        self._directory = self._open.enter_context(temporary_directory())
        try:
            self.connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self) -> None:
        """Connect, and return once connected. Raises HostError, HostKeyChanged, MissingTool."""
        self._end_master()
        log_file = self._directory / "log"
        with log_file.open("wb") as log:
            self._master = subprocess.Popen(
                self._argv("-o", "ControlMaster=yes", "-N"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                process_group=0,
            )
        deadline = time.monotonic() + _PATIENCE_S
        while not self._control.exists():
            if self._master.poll() is not None:
                raise explain(self.address, log_file.read_text(errors="replace", encoding="utf-8"))
            if time.monotonic() > deadline:
                raise HostError(
                    f"{self.address} did not accept the connection in {_PATIENCE_S:g} s"
                )
            time.sleep(0.01)

    @property
    def is_alive(self) -> bool:
        return self._master is not None and self._master.poll() is None

    def popen(
        self,
        command: str,
        *,
        stdin: int | None = subprocess.PIPE,
        stdout: int | None = subprocess.PIPE,
        stderr: int | None = subprocess.PIPE,
        shown: str = "",
    ) -> subprocess.Popen[bytes]:
        """Run a shell command there in a new channel. HostLost when the connection has ended.

        `shown` is what the command log has: the command without what only a program reads.
        """
        if not self.is_alive:  # else ssh would silently make a new connection
            raise self.lost("before a command was run")
        with command_log.shown_as(lambda: self._by_hand(shown or command)):
            return subprocess.Popen(
                [*self._argv("-o", "ControlMaster=no"), command],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=self._environment,
                process_group=0,
            )

    def _by_hand(self, command: str) -> Sequence[str]:
        """A command as the user would give it, by a connection of its own."""
        config = os.environ.get(CONFIG)
        return ["ssh", *(["-F", config] if config else []), str(self.address), command]

    def was_lost(self, code: int) -> bool:
        """Whether a channel's exit code means that the connection has ended."""
        return code == _BROKEN or code < 0 or not self.is_alive

    def lost(self, when: str) -> HostLost:
        """The error for a lost connection; `when` completes the sentence."""
        return HostLost(
            f"the connection to {self.address} ended {when}",
            hint=f"to remove what may be left there: {VARIABLE}={self.address} coppice clean",
        )

    def close(self) -> None:
        self._end_master()
        self._open.close()

    def _end_master(self) -> None:
        if self._master is not None:
            self._master.terminate()
            try:
                self._master.wait(5)
            except subprocess.TimeoutExpired:
                self._master.kill()
                self._master.wait()
            self._master = None
        with contextlib.suppress(FileNotFoundError):
            self._control.unlink()

    @property
    def _control(self) -> Path:
        return self._directory / "c"

    def _argv(self, *more: str) -> Sequence[str]:
        config = os.environ.get(CONFIG)
        argv = [need("ssh"), *(["-F", config] if config else [])]
        for name, value in _OPTIONS.items():
            argv += ["-o", f"{name}={value}"]
        argv += ["-o", f"ControlPath={self._control}", *more]
        argv += ["-l", self.address.user] if self.address.user else []
        argv += ["-p", str(self.address.port)] if self.address.port else []
        return [*argv, "--", self.address.host]


def explain(address: Address, stderr: str) -> HostError:
    """The error that explains ssh's messages, with a hint how to fix it."""
    lines = [line for line in stderr.strip().splitlines() if line.strip("@ \r")]
    last = lines[-1].strip() if lines else "ssh printed no message"
    name = f"[{address.host}]:{address.port}" if address.port else address.host
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in stderr:
        return HostKeyChanged(
            f"the host key of {address} has changed: it was reinstalled, "
            "or another machine is intercepting the connection",
            hint=f"if you know why: ssh-keygen -R '{name}', then connect once by hand",
        )
    if "Host key verification failed" in stderr:
        return HostKeyChanged(
            f"the host key of {address} is unknown", hint="connect once by hand: ssh " + name
        )
    if "Permission denied" in stderr:
        return HostError(
            f"{address} denied access: {last}",
            hint="authorize a key there that has no passphrase or is in the ssh agent: ssh-copy-id",
        )
    if re.search(r"Could not resolve|Name or service not known", stderr):
        return HostError(f"cannot resolve the host name {address.host}: {last}")
    return HostError(f"cannot reach {address}: {last}", hint=f"check that sshd runs there; {_FORM}")
