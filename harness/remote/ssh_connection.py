"""One OpenSSH connection that many commands share, and what its failures mean.

Settings are the user's own (~/.ssh/config, agent, known hosts), or those of the file that
COPPICE_SSH_CONFIG names. No password is ever asked for.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from harness import command_log
from harness.errors import HostError, HostKeyChanged, HostLost, UsageError
from harness.host.process import need

VARIABLE = "COPPICE_HOST"
CONFIG = "COPPICE_SSH_CONFIG"
_BROKEN = 255
"""What ssh ends with when the connection, and not the command, failed."""
_PATIENCE_S = 30.0
_OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": "10",
    # A host that says nothing for so long is lost: a dead connection must not hang a run.
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    "LogLevel": "ERROR",
}


@dataclass(frozen=True)
class Address:
    """Where to: `user` and `port` are None where ssh's own settings shall decide."""

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """From ssh://user@host:port; UsageError says what is wrong with it."""
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise UsageError(f"{text!r} is no address of a host: {error}", hint=_FORM) from error
        if parts.scheme != "ssh" or not parts.hostname or parts.path.strip("/") or parts.query:
            raise UsageError(f"{text!r} is no address of a host", hint=_FORM)
        if parts.password is not None:
            raise UsageError("a host's address holds no password", hint="use a key: ssh-copy-id")
        if parts.hostname.startswith("-") or (parts.username or "").startswith("-"):
            raise UsageError(f"{text!r} would be taken for an option of ssh", hint=_FORM)
        return cls(parts.hostname, parts.username, port)

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{user}{host}" + (f":{self.port}" if self.port else "")


_FORM = f"{VARIABLE}=ssh://user@host, with :port after it where that is not 22"


class Connection:
    """A master connection, until the block ends; commands go through it, each by a channel."""

    def __init__(self, address: Address, environment: Mapping[str, str] | None = None) -> None:
        self.address = address
        self._environment = {**os.environ, **(environment or {}), "LC_ALL": "C"}
        self._master: subprocess.Popen[bytes] | None = None
        # Short: the path of a socket holds about a hundred bytes.
        self._directory = Path(tempfile.mkdtemp(prefix="cpc-"))
        self._log = self._directory / "log"

    def __enter__(self) -> Connection:
        try:
            self.connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self) -> None:
        """Connect, and only then return. Raises HostError, HostKeyChanged, MissingTool."""
        self._end_master()
        with self._log.open("wb") as log:
            self._master = subprocess.Popen(
                self._words("-o", "ControlMaster=yes", "-N"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                process_group=0,
            )
        deadline = time.monotonic() + _PATIENCE_S
        while not self._control.exists():
            if self._master.poll() is not None:
                raise explained(self.address, self._log.read_text(errors="replace"))
            if time.monotonic() > deadline:
                raise HostError(f"{self.address} did not let us in within {_PATIENCE_S:g} s")
            time.sleep(0.01)

    @property
    def lives(self) -> bool:
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
        """A channel that runs one line of shell there. HostLost when the connection has ended.

        `shown` is the same without what only a program reads: the command log has that.
        """
        if not self.lives:  # ssh would connect anew, by itself and unseen
            raise self.lost("before a command")
        with command_log.shown_as(self._by_hand(shown or command)):
            return subprocess.Popen(
                [*self._words("-o", "ControlMaster=no"), command],
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
        """Whether a channel that ended so says that the connection did."""
        return code == _BROKEN or code < 0 or not self.lives

    def lost(self, when: str) -> HostLost:
        return HostLost(
            f"the connection to {self.address} ended {when}",
            hint=f"{VARIABLE}={self.address} coppice clean removes what may be left there",
        )

    def close(self) -> None:
        self._end_master()
        shutil.rmtree(self._directory, ignore_errors=True)

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

    def _words(self, *more: str) -> Sequence[str]:
        config = os.environ.get(CONFIG)
        words = [need("ssh"), *(["-F", config] if config else [])]
        for name, value in _OPTIONS.items():
            words += ["-o", f"{name}={value}"]
        words += ["-o", f"ControlPath={self._control}", *more]
        words += ["-l", self.address.user] if self.address.user else []
        words += ["-p", str(self.address.port)] if self.address.port else []
        return [*words, "--", self.address.host]


def explained(address: Address, said: str) -> HostError:
    """What ssh's words mean to somebody who wants to measure there."""
    lines = [line for line in said.strip().splitlines() if line.strip("@ \r")]
    last = lines[-1].strip() if lines else "ssh said nothing"
    name = f"[{address.host}]:{address.port}" if address.port else address.host
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in said:
        return HostKeyChanged(
            f"{address} shows another key than the one that is known of it: it was set up anew, "
            "or somebody is in between",
            hint=f"when you know why: ssh-keygen -R '{name}', then connect once by hand",
        )
    if "Host key verification failed" in said:
        return HostKeyChanged(
            f"nobody knows the key of {address} yet", hint="connect once by hand: ssh " + name
        )
    if "Permission denied" in said:
        return HostError(
            f"{address} does not let us in: {last}",
            hint="a key without a passphrase, or one in the agent, must be allowed there",
        )
    if re.search(r"Could not resolve|Name or service not known", said):
        return HostError(f"no host is called {address.host}: {last}")
    return HostError(f"{address} cannot be reached: {last}", hint=f"is sshd there? {_FORM}")
