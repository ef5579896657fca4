"""Attacking sandboxes of two kinds, each with a neighbour, and targets on the host."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.guest.image import COMPILE
from harness.host.identity import allocate
from harness.host.process import run as run_program
from harness.host.run import Run
from harness.paths import cache_directory
from harness.sandbox.oci import OciSubstrate
from harness.sandbox.protocol import Sandbox, Tier, load

INSIDE = "/attack"


@dataclass(frozen=True)
class Host:
    """Targets on the host: a process, a file, an abstract socket, shared memory, a key; each
    contains `word`."""

    word: str
    pid: int
    file: Path
    shared_memory: int


@dataclass(frozen=True)
class Attacker:
    """An attacking sandbox, and its neighbour."""

    kind: str
    sandbox: Sandbox
    neighbour: Sandbox

    @property
    def shares_kernel(self) -> bool:
        return self.kind == "oci"

    def attack(self, name: str, argument: object = "") -> int:
        """Run an attack; its errno, or 0 if it succeeded."""
        done = self.sandbox.agent.run([INSIDE, name, str(argument)])
        assert done.signal or done.code in (0, 1), f"{name}: {done}"
        return int(done.stdout or b"-1")

    def shell(self, script: str) -> str:
        return self.sandbox.agent.run(["/bin/sh", "-c", script]).stdout.decode(errors="replace")


@pytest.fixture(scope="package")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The binary of attack.c."""
    target = tmp_path_factory.mktemp("attack") / "attack"
    run_program("musl-gcc", *COMPILE, "-o", target, Path(__file__).with_name("attack.c"))
    return target.read_bytes()


@pytest.fixture(scope="package", params=["oci", "qemu"])
def attacker(request: pytest.FixtureRequest, run: Run, program: bytes) -> Iterator[Attacker]:
    if os.geteuid() != 0:
        pytest.skip("sandboxes that are attacked are made by root")
    kind: str = request.param
    with ExitStack() as stack:
        if kind == "oci":
            containers = OciSubstrate(network=True)
            template = containers.prepare(run, cache_directory(), Tier.FULL)

            def make() -> Sandbox:
                return containers.launch(run, template, Tier.FULL, allocate(run.leases, run.id))
        else:
            machines = load("qemu")
            image = machines.prepare(run, cache_directory(), Tier.DURABLE_POOL)

            def make() -> Sandbox:
                identity = allocate(run.leases, run.id)
                return machines.launch(run, image, Tier.DURABLE_POOL, identity)

        made = []
        for _ in range(2):
            sandbox = make()
            stack.callback(sandbox.destroy)
            sandbox.awaken(60)
            sandbox.adopt_identity()
            made.append(sandbox)
        made[0].agent.write_file(INSIDE, program, 0o755)
        yield Attacker(kind, *made)


@pytest.fixture(scope="package")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    word = f"coppice-secret-{secrets.token_hex(8)}"
    file = tmp_path_factory.mktemp("host") / "secret"
    file.write_text(word, encoding="utf-8")
    for directory in (file.parent, *file.parent.parents):
        if directory.stat().st_uid == os.getuid() and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o111)
    with ExitStack() as stack:
        child = stack.enter_context(subprocess.Popen(["sleep", "3600"], env={"WORD": word}))
        stack.callback(child.kill)
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(f"\0{word}")
        listener.listen()
        made = run_program("ipcmk", "--shmem", "4096").decode().split()[-1]
        stack.callback(run_program, "ipcrm", "--shmem-id", made)
        keys = dict(
            line.split()[1::-1]
            for line in run_program("ipcs", "--shmems").decode().splitlines()
            if line.startswith("0x")
        )
        yield Host(word, child.pid, file, int(keys[made], 16))
