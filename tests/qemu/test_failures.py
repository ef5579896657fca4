"""Guests that never answer, answer wrongly or die: each gives a clear error and one failure."""

from __future__ import annotations

import os
import signal
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import GuestDied, GuestStalled, GuestTimeout, WrongAnswer
from harness.guest.agent_client import Agent
from harness.guest.protocol import FrameKind, encode
from harness.host.identity import allocate
from harness.host.run import Run
from harness.procedures.ladder import Climb, climb, climb_together, conclude
from harness.sandbox.lifetime import destroyed_on_failure
from harness.sandbox.noop import NoopSandbox, NoopSubstrate, NoopTemplate
from harness.sandbox.protocol import Tier
from harness.sandbox.qemu import QemuSubstrate, boot_retry
from harness.sandbox.qemu.sandbox import QemuSandbox, _new_ring
from harness.sandbox.qemu.substrate import QemuTemplate
from tests.qemu.conftest import Launch


def test_a_guest_that_never_answers(launch: Launch) -> None:
    sandbox = launch(Tier.DURABLE_PREWARM_POOL)
    os.kill(sandbox.vmm.process.pid, signal.SIGSTOP)
    with pytest.raises(GuestTimeout, match="doorbell"):
        sandbox.awaken(0.3)


def test_a_stalled_boot_is_retried(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = boot_retry.LOOK_S
    begun: list[QemuSandbox] = []

    def begin() -> QemuSandbox:
        sandbox = launch(Tier.FULL)
        begun.append(sandbox)
        if len(begun) == 1:  # one without a timer comes of a host without a moment to spare
            os.kill(sandbox.vmm.process.pid, signal.SIGSTOP)
        monkeypatch.setattr(boot_retry, "LOOK_S", 1.0 if len(begun) == 1 else usual)
        with destroyed_on_failure(sandbox):
            boot_retry.await_boot(sandbox, 240)
        return sandbox

    assert boot_retry.retry_stalled_boot(begin) is begun[1]
    begun[1].agent.ping()


def test_a_failed_boot_is_reported(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot_retry, "LOOK_S", 0.2)

    def begin() -> QemuSandbox:
        sandbox = launch(Tier.FULL)
        os.kill(sandbox.vmm.process.pid, signal.SIGSTOP)
        with destroyed_on_failure(sandbox):
            boot_retry.await_boot(sandbox, 240)
        return sandbox

    with pytest.raises(GuestStalled, match="stands still"):
        boot_retry.retry_stalled_boot(begin)


def test_a_guest_that_answers_another_nonce(launch: Launch) -> None:
    sandbox = launch(Tier.DURABLE_PREWARM_POOL)
    sandbox.agent.key = bytes(16)
    sandbox._ring = _new_ring(bytes(16))  # expects the answer of another guest
    with pytest.raises(WrongAnswer):
        sandbox.awaken(60)


def test_a_wrong_answer_to_a_ping() -> None:
    """The guest is a fake: no real one answers wrongly."""
    ours, theirs = socket.socketpair()

    def lie() -> None:
        theirs.recv(4096)
        theirs.sendall(encode(FrameKind.ANSWER, 1, bytes(24)))

    with ours, theirs:
        liar = threading.Thread(target=lie)
        liar.start()
        with pytest.raises(WrongAnswer, match="liar"):
            Agent(ours, "the liar").ping(5)
        liar.join()


def test_a_guest_that_dies_during_a_request(launch: Launch) -> None:
    sandbox = launch(Tier.DURABLE_PREWARM_POOL)
    sandbox.resume()
    with pytest.raises(GuestDied):
        sandbox.agent.run(
            ["/bin/sh", "-c", "echo running; exec sleep 600"],
            timeout_s=600,
            on_output=lambda *_: sandbox.vmm.process.kill(),
        )


def test_a_guest_whose_processor_kvm_has_stopped(launch: Launch) -> None:
    """Its VMM lives on. That it is silent is real; KVM's own words are not."""
    sandbox = launch(Tier.DURABLE_PREWARM_POOL)
    os.kill(sandbox.vmm.process.pid, signal.SIGSTOP)
    handle = sandbox.vmm.log.opened()
    os.write(handle, b"KVM internal error. Suberror: 1\nemulation failure\n")
    os.close(handle)
    with pytest.raises(GuestDied, match=r"Suberror: 1: emulation failure\n.*ACCELERATOR=tcg"):
        sandbox.awaken(0.3)


def test_a_vmm_that_is_gone_before_the_bell(launch: Launch) -> None:
    sandbox = launch(Tier.DURABLE_PREWARM_POOL)
    sandbox.vmm.process.kill()
    sandbox.vmm.process.wait()
    with pytest.raises(GuestDied):
        sandbox.awaken(5)


def test_failures_have_a_reason_and_release_the_sandbox(launch: Launch) -> None:
    sandbox = launch(Tier.DURABLE_PREWARM_POOL)
    sandbox.vmm.process.kill()
    sandbox.vmm.process.wait()
    one = climb(lambda: sandbox, "first-exec", 5)
    assert one.failure and one.failure.startswith("GuestDied: the VMM of coppice-")
    conclude([one], QemuSandbox.destroy, own_kernel=True)  # type: ignore[arg-type]
    assert one.rungs == {} and not sandbox.identity.lease.exists()


def test_an_empty_pool_is_a_failure() -> None:
    def refuse() -> NoopSandbox:
        raise GuestTimeout("nothing ready")

    assert climb(refuse, "first-reply", 1).failure == "GuestTimeout: nothing ready"


class Pretender(NoopSubstrate):
    """A fake: the noop substrate with the name of a microVM substrate."""

    name = "qemu"
    own_kernel = True


def test_noop_cannot_pass_for_a_microvm(run: Run) -> None:
    fake = Pretender()
    climbs = climb_together(
        1,
        lambda: fake.launch(
            run, NoopTemplate(), Tier.DURABLE_PREWARM_POOL, allocate(run.leases, run.id)
        ),
        "first-touch",
        1,
    )
    conclude(climbs, lambda sandbox: sandbox.destroy(), fake.own_kernel)
    assert [bool(one.rungs) for one in climbs] == [False]
    assert climbs[0].failure == "GuestDied: a noop sandbox has no guest"


def test_the_hosts_kernel_is_detected(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = launch(Tier.DURABLE_PREWARM_POOL)
    sandbox.resume()
    ours = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    monkeypatch.setattr(sandbox.agent, "hello", lambda: {"boot_id": ours})
    one = Climb({"object": 1.0, "first-reply": 2.0}, None, sandbox, 0.0)
    conclude([one], QemuSandbox.destroy, own_kernel=True)  # type: ignore[arg-type]
    assert one.failure and "this host's kernel" in one.failure


def test_a_vmm_that_cannot_start_is_explained(run: Run, template: QemuTemplate) -> None:
    broken = replace(template, shape=replace(template.shape, cpu="no-such-cpu"))
    identity = allocate(run.leases, run.id)
    # QEMU may send its greeting before or after it checks the CPU model.
    with pytest.raises(GuestDied, match="no-such-cpu"):
        sandbox = QemuSubstrate().launch(run, broken, Tier.FULL, identity)
        try:
            sandbox.awaken(60)
        finally:
            sandbox.destroy()
    assert not identity.lease.exists()
