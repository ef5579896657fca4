"""A real sshd for tests, with its own keys, settings and network namespace.

It reads and writes no file of the user or the system, except the directory that sshd requires.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from harness.network.links import LOOPBACK, Links, up
from harness.network.namespace import inside, namespace

SSHD = "/usr/sbin/sshd"
PORT = 2222
THERE = "ssh://there"
_SERVER = """\
ListenAddress 127.0.0.1:{port}
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitUserRC no
MaxSessions 30
LogLevel VERBOSE
SetEnv {env}
"""
_CLIENT = """\
Host there
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile {directory}/key
  IdentitiesOnly yes
  UserKnownHostsFile {directory}/known
  GlobalKnownHostsFile /dev/null
  ProxyCommand {python} -c '{proxy}' {namespace} {port}
"""
# Enters the namespace and relays bytes in both directions.
_PROXY = (
    "import os, select, socket, sys; "
    "from pathlib import Path; from harness.network.namespace import inside; "
    "place = inside(Path(sys.argv[1])); place.__enter__(); "
    's = socket.create_connection(("127.0.0.1", int(sys.argv[2]))); '
    "pairs = {0: s.fileno(), s.fileno(): 1}; "
    "[[(os.write(pairs[r], d) and None) if (d := os.read(r, 65536)) else os._exit(0) "
    "for r in select.select([0, s.fileno()], [], [])[0]] for _ in iter(int, 1)]"
)


@dataclass
class Server:
    """A running sshd. `config` is the client's."""

    directory: Path
    namespace: Path
    env: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> Path:
        return self.directory / "config"

    def start(self) -> None:
        env = " ".join(f'{name}="{value}"' for name, value in self.env.items())
        text = _SERVER.format(directory=self.directory, port=PORT, env=env)
        (self.directory / "sshd_config").write_text(text, encoding="utf-8")
        with inside(self.namespace), (self.directory / "log").open("ab") as log:
            before = log.tell()  # the output of a former sshd
            self.process = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", self.directory / "sshd_config"],
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        deadline = time.monotonic() + 60
        while b"Server listening" not in (self.directory / "log").read_bytes()[before:]:
            assert self.process.poll() is None, (self.directory / "log").read_text(encoding="utf-8")
            assert time.monotonic() < deadline, "sshd does not listen"
            time.sleep(0.01)

    def new_key(self) -> None:
        """Make a new host key, unknown to the client, used from the next start on."""
        (self.directory / "host_key").unlink(missing_ok=True)
        keygen(self.directory / "host_key")

    def trust(self) -> None:
        """Add the current host key to the client's known hosts."""
        public = (self.directory / "host_key.pub").read_text(encoding="utf-8").split()
        (self.directory / "known").write_text(
            f"[127.0.0.1]:{PORT} {public[0]} {public[1]}\n", encoding="utf-8"
        )

    def sessions(self) -> list[psutil.Process]:
        """The sshd process of each connection."""
        assert self.process
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children()
            return [child for child in children if _is_sshd(child)]
        return []

    def drop(self) -> None:
        """End every connection at once; processes started in them may continue."""
        for session in self.sessions():
            below: list[psutil.Process] = []
            with contextlib.suppress(psutil.NoSuchProcess):  # it may be ending by itself
                below = session.children()
            for process in (*below, session):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if _is_sshd(process):
                        process.kill()

    def stop(self) -> None:
        if self.process is None:
            return
        self.drop()
        self.process.kill()
        self.process.wait()
        self.process = None


def _is_sshd(process: psutil.Process) -> bool:
    try:
        return process.name().startswith("sshd")
    except psutil.NoSuchProcess:
        return False


def keygen(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)


@contextlib.contextmanager
def serving(directory: Path, env: Mapping[str, str]) -> Iterator[Server]:
    """A running server whose host key the client knows."""
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with namespace(directory, "there") as place:
        with inside(place):
            own = Links()
            own.send(up(LOOPBACK))
            own.close()
        keygen(directory / "key")
        server = Server(directory, place, dict(env))
        server.new_key()
        server.trust()
        server.config.write_text(
            _CLIENT.format(
                directory=directory,
                port=PORT,
                user=os.environ.get("USER") or "root",
                python=sys.executable,
                proxy=_PROXY,
                namespace=place,
            ),
            encoding="utf-8",
        )
        server.start()
        try:
            yield server
        finally:
            server.stop()
