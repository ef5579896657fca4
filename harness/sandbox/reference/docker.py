"""Docker: the distribution's dockerd, started for a run on a socket and data of its own.

It gets no bridge and touches no firewall; its image is our root, imported.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import SandboxError, Unsupported
from harness.host import cgroups
from harness.host.identity import Identity
from harness.host.process import install_command, need
from harness.host.requirement import Requirement
from harness.host.run import Run
from harness.sandbox.protocol import Tier
from harness.sandbox.reference.base import MIB, Reference, ReferenceSubstrate, mark
from harness.sandbox.shared_kernel import Log, SharedSandbox, ended, start

INSIDE = "/.agent"
IMAGE = "coppice"
DIRECTORY = "d-"
"""Begins the name of a daemon's directory: short, for what follows."""
LONGEST = "exec/containerd/containerd.sock.ttrpc"
SOCKET_MAX = 107
"""Bytes of a socket's path, the kernel's bound."""
UP_LIMIT_S = 60.0
REMOVE_LIMIT_S = 20.0
DIRECTORIES = tuple(
    map(Path, ("/run/docker/plugins", "/run/docker", "/run/containerd/s", "/run/containerd"))
)
"""Made by the daemons wherever they are told to keep their things."""


def client() -> str | None:
    """The docker that answers as Docker does, of the daemon's version if there is one.

    A program of that name may be something else, and may be another release's.
    """
    daemon = shutil.which("dockerd")
    wanted = _version(Path(daemon)) if daemon else None
    paths = [Path(directory, "docker") for directory in os.get_exec_path()]
    found = {path: version for path in paths if (version := _version(path))}
    same = [path for path, version in found.items() if version == wanted]
    return next(map(os.fspath, (*same, *found)), None)


def _version(program: Path) -> str | None:
    """The release that a program of Docker's says it is; None when it is none."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10)
        if found := re.match(r"Docker version (\S+),", said.stdout):
            return found[1]
    return None


@dataclass(frozen=True)
class DockerTemplate(Reference):
    docker: Sequence[str] = ()
    """The client and the socket that it speaks to."""


class DockerSubstrate(ReferenceSubstrate):
    name = "docker"
    programs = tools = ("dockerd",)
    each = 48 * MIB

    def __init__(self) -> None:
        self._daemons: dict[str, Sequence[str]] = {}

    def requirements(self) -> Sequence[Requirement]:
        path = client()
        one = Requirement(
            "docker", path is not None, path or "none that answers as Docker's client does",
            install_command("docker"),
        )  # fmt: skip
        return [*super().requirements(), one]

    def prepare(self, run: Run, cache: Path, tier: Tier) -> DockerTemplate:
        plain = super().prepare(run, cache, tier)
        if run.id not in self._daemons:
            self._daemons[run.id] = _daemon(run, plain)
            run.at_end.callback(self._daemons.pop, run.id)
        return DockerTemplate(plain.root, plain.agent, docker=self._daemons[run.id])

    def start(
        self,
        run: Run,
        template: Reference,
        tier: Tier,
        identity: Identity,
        undo: contextlib.ExitStack,
    ) -> SharedSandbox:
        assert isinstance(template, DockerTemplate)
        name = f"coppice-{identity.id}"
        log = Log(run, f"docker-{identity.id}")
        undo.callback(log.close)
        variables = [f"--env={key}={value}" for key, value in mark(run).items()]
        child, line = start(
            [
                *template.docker, "run", "--interactive", "--rm", "--name", name,
                "--hostname", identity.hostname, "--network=none", "--pull=never", *variables,
                "--mount", f"type=bind,source={template.agent},target={INSIDE},readonly",
                IMAGE, INSIDE,
            ],
            run.environment,
            log,
        )  # fmt: skip
        undo.callback(ended, child)
        undo.callback(_remove, run, template, name)
        undo.callback(line.close)  # its agent goes when nobody is there any more
        end = undo.pop_all()
        return SharedSandbox(identity, line, end.close, said=log.said)


def _remove(run: Run, template: DockerTemplate, name: str) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [*template.docker, "rm", "--force", name],
            env=run.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=REMOVE_LIMIT_S,
        )


def _daemon(run: Run, template: Reference) -> Sequence[str]:
    """Start dockerd for a run and import its image; the words that a command of it begins with."""
    path = client()
    assert path
    directory = Path(tempfile.mkdtemp(prefix=DIRECTORY, dir=run.directory))
    if "," in os.fspath(directory) or len(os.fsencode(directory / LONGEST)) > SOCKET_MAX:
        directory.rmdir()
        raise Unsupported(
            f"Docker works in no directory with a comma in its path, nor in one of so long a path "
            f"that its sockets have more than {SOCKET_MAX} bytes: {directory}",
            hint="name a short directory in COPPICE_RUNTIME",
        )
    made = [path for path in DIRECTORIES if not path.exists()]
    run.at_end.callback(_remove_empty, made)
    socket = directory / "socket"
    log = Log(run, "dockerd")
    run.at_end.callback(log.close)
    group = f"{cgroups.group_of(run)}/{directory.name}"
    run.at_end.callback(cgroups.find().remove, group)
    daemon = subprocess.Popen(
        [
            need("dockerd"), "--host", f"unix://{socket}", "--data-root", directory / "data",
            "--exec-root", directory / "exec", "--pidfile", directory / "pid", "--bridge=none",
            "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
            "--cgroup-parent", f"/{group}", "--exec-opt", "native.cgroupdriver=cgroupfs",
        ],
        env=run.environment, stdin=subprocess.DEVNULL, stdout=log.descriptor,
        stderr=log.descriptor, start_new_session=True, cwd=directory,
    )  # fmt: skip
    run.at_end.callback(shutil.rmtree, directory, ignore_errors=True)
    run.at_end.callback(_stop, daemon)
    words = [path, "--host", f"unix://{socket}"]
    deadline = time.monotonic() + UP_LIMIT_S
    while not socket.exists() or _call(run, [*words, "version"]).returncode:
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise SandboxError(f"dockerd does not come up: {log.said()}")
        time.sleep(0.05)
    with subprocess.Popen(
        ["tar", "--create", "--directory", template.root.path, "."],
        stdout=subprocess.PIPE, env=run.environment,
    ) as archive:  # fmt: skip
        assert archive.stdout
        done = _call(run, [*words, "import", "-", IMAGE], archive.stdout.fileno())
    if done.returncode:
        raise SandboxError(f"docker does not import the root: {done.stderr.decode().strip()}")
    return words


def _call(
    run: Run, words: Sequence[str], stdin: int = subprocess.DEVNULL
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        words, env=run.environment, stdin=stdin, capture_output=True, timeout=UP_LIMIT_S
    )


def _remove_empty(directories: Sequence[Path]) -> None:
    for directory in directories:
        with contextlib.suppress(OSError):
            directory.rmdir()


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    """dockerd ends its containerd and unmounts what it mounted, if it is asked."""
    daemon.send_signal(signal.SIGTERM)
    ended(daemon, 20)
