"""Forks of a stopped guest: independent of each other, and gone at their end."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import GuestDied, MissingTool, SandboxError, Unsupported, UsageError
from harness.host.identity import allocate
from harness.host.run import VARIABLE, Run
from harness.sandbox.base import SEAL
from harness.sandbox.pool import Pool
from harness.sandbox.protocol import Sharing, Tier
from harness.sandbox.qemu import QemuSubstrate, zygote
from harness.sandbox.qemu.sandbox import QemuSandbox
from harness.sandbox.qemu.substrate import QemuTemplate
from tests.host.processes import eventually

TIER = Tier.DURABLE_POOL


@pytest.fixture(scope="module")
def forking(run: Run, substrate: QemuSubstrate, template: QemuTemplate) -> Iterator[QemuTemplate]:
    try:
        with substrate.zygote(run, template) as standing:
            yield standing
    except Unsupported as reason:
        pytest.skip(f"not possible on this host: {reason}")


def fork(
    run: Run, substrate: QemuSubstrate, template: QemuTemplate, tier: Tier = TIER
) -> QemuSandbox:
    return substrate.launch(run, template, tier, allocate(run.leases, run.id), Sharing.FORKED)


@pytest.fixture
def two(
    run: Run, substrate: QemuSubstrate, forking: QemuTemplate
) -> Iterator[tuple[QemuSandbox, QemuSandbox]]:
    with ExitStack() as stack:
        both = fork(run, substrate, forking), fork(run, substrate, forking)
        for one in both:
            stack.callback(one.destroy)
            one.awaken(60)
            one.adopt_identity()
        yield both


def test_forks_cannot_write_the_checkpoint(
    two: tuple[QemuSandbox, QemuSandbox], forking: QemuTemplate
) -> None:
    """Every later sandbox is restored from it."""
    assert forking.checkpoint and forking.zygote
    memory = forking.checkpoint.memory.stat()
    for pid in (*(each.vmm.process.pid for each in two), forking.zygote.guest.vmm.process.pid):
        modes = []
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            status = descriptor.stat()
            if (status.st_dev, status.st_ino) == (memory.st_dev, memory.st_ino):
                info = Path(f"/proc/{pid}/fdinfo", descriptor.name).read_text(encoding="utf-8")
                modes.append(int(info.split()[3], 8) & os.O_ACCMODE)
        assert modes and set(modes) == {os.O_RDONLY}, modes


def test_writes_are_private(two: tuple[QemuSandbox, QemuSandbox]) -> None:
    one, other = two
    assert one.agent.read_file(SEAL) == b"written before the checkpoint"
    one.agent.write_file("/tmp/mine", b"secret")
    assert one.agent.run(("/bin/cat", "/tmp/mine")).stdout == b"secret"
    assert other.agent.run(("/bin/cat", "/tmp/mine")).code != 0
    for guest in two:
        guest.agent.touch(32, 1)
        assert guest.agent.hello()["hostname"] == guest.identity.hostname
    assert one.agent.key != other.agent.key


def test_the_death_of_a_fork_affects_no_other(
    run: Run,
    substrate: QemuSubstrate,
    forking: QemuTemplate,
    two: tuple[QemuSandbox, QemuSandbox],
) -> None:
    one, other = two
    os.kill(one.vmm.process.pid, signal.SIGKILL)
    assert one.vmm.process.wait(60) == -signal.SIGKILL
    with pytest.raises(GuestDied):
        one.agent.ping()
    other.agent.ping()
    third = fork(run, substrate, forking)
    third.awaken(60)
    third.destroy()
    assert not Path(f"/proc/{third.vmm.process.pid}").exists(), "it is reaped"


def test_forks_are_marked_and_survive_their_zygote(
    run: Run, substrate: QemuSubstrate, template: QemuTemplate
) -> None:
    with substrate.zygote(run, template) as standing:
        left = fork(run, substrate, standing)
        kept = fork(run, substrate, standing)
        assert standing.zygote
        source = standing.zygote.guest.vmm
        source.process.kill()
        source.process.wait(60)
        with pytest.raises(GuestDied):
            fork(run, substrate, standing)
    mark = f"{VARIABLE}={run.directory}".encode()
    assert mark in Path(f"/proc/{left.vmm.process.pid}/environ").read_bytes().split(b"\0")
    for one in (left, kept):
        one.awaken(60)
        assert one.first_exec("x").stdout == b"x\n"
        assert one.resumed_at() > 0
        one.destroy()


def test_concurrent_forks_fill_a_pool(
    run: Run, substrate: QemuSubstrate, forking: QemuTemplate
) -> None:
    tier = Tier.DURABLE_PREWARM_POOL
    with Pool(lambda: fork(run, substrate, forking, tier), 8, refill=False) as pool:
        pool.fill()
        hellos: list[dict[str, str]] = []

        def use() -> None:
            one = pool.check_out()
            one.awaken(60)
            assert one.first_exec(one.id).stdout.decode().strip() == one.id
            hellos.append(one.agent.hello())
            pool.give_back(one)

        users = [threading.Thread(target=use) for _ in range(8)]
        for user in users:
            user.start()
        for user in users:
            user.join()
    for what in ("hostname", "machine_id", "mac", "address", "random"):
        assert len({one[what] for one in hellos}) == 8, what


def test_a_fork_that_would_share_a_channel_ends(
    run: Run, substrate: QemuSubstrate, template: QemuTemplate
) -> None:
    with substrate.zygote(run, template) as standing:
        assert standing.zygote
        ours, theirs = socket.socketpair()
        with ours, theirs:
            standing.zygote.guest.vmm.send_descriptor("stray", theirs.fileno())
        one = fork(run, substrate, standing)
        try:
            eventually(lambda: one.vmm.process.poll() is not None)
            with pytest.raises(GuestDied, match="would share socket"):
                one.awaken(5)
        finally:
            one.destroy()


def test_what_cannot_be_forked_is_refused(
    run: Run,
    substrate: QemuSubstrate,
    template: QemuTemplate,
    forking: QemuTemplate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UsageError, match="has no zygote"):
        fork(run, substrate, template)
    under_kvm = replace(template, shape=replace(template.shape, accelerator="kvm"))
    with pytest.raises(Unsupported, match="kvm"), substrate.zygote(run, under_kvm):
        pass
    assert forking.zygote
    with pytest.raises(SandboxError, match="tap"):
        forking.zygote.fork(run, allocate(run.leases, run.id), tap=0)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingTool, match="gcc is not installed"):
        zygote.library(tmp_path)
