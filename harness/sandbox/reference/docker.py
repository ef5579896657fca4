"""Docker: the distribution's dockerd, started for one run with a socket and data of its own.

It creates no bridge and changes no firewall; its image is the imported root.
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
from harness.sandbox.base import MIB
from harness.sandbox.protocol import Tier
from harness.sandbox.reference.base import ReferenceSubstrate, ReferenceTemplate, run_mark
from harness.sandbox.shared_kernel import Log, SharedSandbox, reap, start

INSIDE = "/.agent"
IMAGE = "coppice"
DIRECTORY = "d-"
"""The prefix of a daemon's directory: short, because socket paths are bounded."""
LONGEST = "exec/containerd/containerd.sock.ttrpc"
SOCKET_MAX = 107
"""The kernel's limit for the path of a Unix socket, in bytes."""
UP_LIMIT_S = 60.0
REMOVE_LIMIT_S = 20.0
DIRECTORIES = tuple(
    map(Path, ("/run/docker/plugins", "/run/docker", "/run/containerd/s", "/run/containerd"))
)
"""Created by the daemons regardless of their options."""


def client() -> str | None:
    """The path of a Docker client, preferably of the daemon's version; None where there is none.

    Other programs are named docker too, and clients of several releases may be installed.
    """
    daemon = shutil.which("dockerd")
    wanted = _version(Path(daemon)) if daemon else None
    paths = [Path(directory, "docker") for directory in os.get_exec_path()]
    found = {path: version for path in paths if (version := _version(path))}
    same = [path for path, version in found.items() if version == wanted]
    return next(map(os.fspath, (*same, *found)), None)


def _version(program: Path) -> str | None:
    """The version that a program of Docker reports; None for any other program."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            timeout=10,
            encoding="utf-8",
            errors="replace",
        )
        if found := re.match(r"Docker version (\S+),", done.stdout):
            return found[1]
    return None


@dataclass(frozen=True)
class DockerTemplate(ReferenceTemplate):
    docker: Sequence[str] = ()
    """The argv of the client, with its socket."""


class DockerSubstrate(ReferenceSubstrate):
    name = "docker"
    programs = tools = ("dockerd",)
    memory_each = 48 * MIB

    def __init__(self) -> None:
        self._daemons: dict[str, Sequence[str]] = {}

    def requirements(self) -> Sequence[Requirement]:
        path = client()
        client_found = Requirement(
            "docker", path is not None, path or "no program that reports itself as Docker's client",
            install_command("docker"),
        )  # fmt: skip
        return [*super().requirements(), client_found]

    def prepare(self, run: Run, cache: Path, tier: Tier) -> DockerTemplate:
        plain = super().prepare(run, cache, tier)
        if run.id not in self._daemons:
            self._daemons[run.id] = _daemon(run, plain)
            run.at_end.callback(self._daemons.pop, run.id)
        return DockerTemplate(plain.root, plain.agent, docker=self._daemons[run.id])

    def start(
        self, run: Run, template: ReferenceTemplate, identity: Identity, undo: contextlib.ExitStack
    ) -> SharedSandbox:
        assert isinstance(template, DockerTemplate)
        name = f"coppice-{identity.id}"
        log = Log(run, f"docker-{identity.id}")
        undo.callback(log.close)
        variables = [f"--env={key}={value}" for key, value in run_mark(run).items()]
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
        undo.callback(reap, child)
        undo.callback(_remove, run, template, name)
        undo.callback(line.close)  # the agent exits at end of file
        end = undo.pop_all()
        return SharedSandbox(identity, line, end.close, output=log.tail)


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


def _daemon(run: Run, template: ReferenceTemplate) -> Sequence[str]:
    """Start dockerd for a run and import its image; returns the argv prefix of the client."""
    path = client()
    assert path
    directory = Path(tempfile.mkdtemp(prefix=DIRECTORY, dir=run.directory))
    if "," in os.fspath(directory) or len(os.fsencode(directory / LONGEST)) > SOCKET_MAX:
        directory.rmdir()
        raise Unsupported(
            f"Docker cannot work in {directory}: its path has a comma, or sockets there would have "
            f"paths of more than {SOCKET_MAX} bytes",
            hint="set COPPICE_RUNTIME to a directory with a short path",
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
    argv = [path, "--host", f"unix://{socket}"]
    deadline = time.monotonic() + UP_LIMIT_S
    while not socket.exists() or _call(run, [*argv, "version"]).returncode:
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise SandboxError(f"dockerd does not start: {log.tail()}")
        time.sleep(0.05)
    with subprocess.Popen(
        ["tar", "--create", "--directory", template.root.path, "."],
        stdout=subprocess.PIPE, env=run.environment,
    ) as archive:  # fmt: skip
        assert archive.stdout
        done = _call(run, [*argv, "import", "-", IMAGE], archive.stdout.fileno())
    if done.returncode:
        raise SandboxError(f"docker cannot import the root: {done.stderr.decode().strip()}")
    return argv


def _call(
    run: Run, argv: Sequence[str], stdin: int = subprocess.DEVNULL
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        argv, env=run.environment, stdin=stdin, capture_output=True, timeout=UP_LIMIT_S
    )


def _remove_empty(directories: Sequence[Path]) -> None:
    for directory in directories:
        with contextlib.suppress(OSError):
            directory.rmdir()


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    """On SIGTERM dockerd ends its containerd and unmounts what it has mounted."""
    daemon.send_signal(signal.SIGTERM)
    reap(daemon, 20)
