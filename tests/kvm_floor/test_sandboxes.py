"""What a guest without a kernel does: it answers under its key, touches memory, waits, ends."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import (
    GuestDied,
    GuestRefused,
    GuestTimeout,
    SandboxError,
    Unsupported,
    WrongAnswer,
)
from harness.guest.protocol import FrameKind, encode
from harness.host.identity import allocate
from harness.host.run import Run
from harness.paths import cache_directory
from harness.sandbox.kvm_floor.programs import Programs
from harness.sandbox.kvm_floor.substrate import KvmFloorSubstrate
from harness.sandbox.kvm_floor.vmm import Vmm
from harness.sandbox.protocol import Tier
from tests.commands.tools import script
from tests.kvm_floor.conftest import Launch

RESTORED = (Tier.DURABLE_POOL, Tier.DURABLE_PREWARM_POOL)
LIMIT_S = 30


@pytest.mark.parametrize("tier", RESTORED)
def test_a_restored_guest_answers_under_its_own_key(launch: Launch, tier: Tier) -> None:
    sandbox = launch(tier)
    sandbox.awaken(LIMIT_S)
    assert sandbox.agent.key == sandbox.identity.key != bytes(16)
    sandbox.agent.ping()
    told = sandbox.agent.hello()
    assert told["hostname"] == sandbox.identity.hostname
    assert told["machine_id"] == sandbox.identity.machine_id
    assert told["mac"] == sandbox.identity.mac
    assert told["kernel"] == told["boot_id"] == "none"


@pytest.mark.parametrize("tier", RESTORED)
def test_an_answer_under_another_key_is_wrong(launch: Launch, tier: Tier) -> None:
    sandbox = launch(tier)
    sandbox.agent.key = bytes(range(16))
    with pytest.raises(WrongAnswer):
        sandbox.awaken(LIMIT_S)


def test_a_held_guest_runs_no_code_and_keeps_what_it_was_told(launch: Launch) -> None:
    sandbox = launch(Tier.DURABLE_POOL)
    sandbox.awaken(LIMIT_S)
    sandbox.arm()
    sandbox.stop()
    held = time.perf_counter()
    unseen = sandbox.agent.send(FrameKind.HELLO)  # in its channel, which nothing looks at
    with pytest.raises(GuestTimeout):
        sandbox.agent.receive(unseen, time.monotonic() + 0.3)
    assert sandbox.resumed_at() < held
    sandbox.awaken(LIMIT_S)
    assert sandbox.resumed_at() > held
    answer = sandbox.agent.receive(unseen, time.monotonic() + LIMIT_S)
    assert sandbox.identity.hostname.encode() in answer.payload


def test_it_touches_memory_again_and_more_of_it(launch: Launch) -> None:
    sandbox = launch(Tier.DURABLE_POOL)
    sandbox.awaken(LIMIT_S)
    for mib in (1, 16, 4, 130):
        sandbox.touch(mib)
    with pytest.raises(GuestRefused) as refused:
        sandbox.agent.call(FrameKind.TOUCH, (2000).to_bytes(4, "little") + bytes(8))
    assert refused.value.number == errno.ENOMEM
    sandbox.agent.ping()


def test_it_runs_no_program_and_says_so(launch: Launch) -> None:
    """Whatever the request's length: one that is longer than its memory has room for, too."""
    sandbox = launch(Tier.DURABLE_POOL)
    sandbox.awaken(LIMIT_S)
    assert "first-exec" in KvmFloorSubstrate.not_offered
    with pytest.raises(GuestRefused, match="no kernel") as refused:
        sandbox.first_exec("word")
    assert refused.value.number == errno.ENOSYS
    for length in (2_000, 70_000, 1_000_000):
        with pytest.raises(GuestRefused) as long:
            sandbox.agent.run(["/bin/echo", "x" * length])
        assert long.value.number == errno.ENOSYS
        sandbox.agent.ping()
    with pytest.raises(GuestRefused):
        sandbox.agent.read_file("/etc/passwd")


def test_answers_wait_for_a_caller_who_does_not_read(launch: Launch) -> None:
    """Far more of them than a socket holds; none is lost."""
    sandbox = launch(Tier.DURABLE_POOL)
    sandbox.awaken(LIMIT_S)
    count, asked = 3000, 1000
    with sandbox._channel.dup() as line:
        line.settimeout(LIMIT_S)
        frames = b"".join(encode(FrameKind.HELLO, asked + number) for number in range(count))
        sending = threading.Thread(target=line.sendall, args=[frames])
        sending.start()
        time.sleep(0.2)
        for number in range(count):
            answer = sandbox.agent.receive(asked + number, time.monotonic() + LIMIT_S)
            assert answer.kind == FrameKind.ANSWER
        sending.join()


def test_a_shut_down_guest_is_gone(launch: Launch) -> None:
    sandbox = launch(Tier.DURABLE_POOL)
    sandbox.awaken(LIMIT_S)
    sandbox.agent.shutdown()
    with pytest.raises(GuestDied):
        sandbox.agent.ping()


def test_a_killed_vmm_takes_its_sandboxes_with_it_and_is_replaced(
    launch: Launch, substrate: KvmFloorSubstrate, run: Run
) -> None:
    template = substrate.prepare(run, cache_directory(), Tier.DURABLE_POOL)
    vmms = list(template.vmms)
    sandboxes = [launch(Tier.DURABLE_POOL) for _ in range(2 * len(vmms))]
    for sandbox in sandboxes[: len(vmms)]:
        sandbox.awaken(LIMIT_S)
    for vmm in vmms:
        os.kill(vmm.pid, signal.SIGKILL)
    for sandbox in sandboxes[: len(vmms)]:
        with pytest.raises(GuestDied):
            sandbox.agent.ping()
    for sandbox in sandboxes[len(vmms) :]:
        with pytest.raises(GuestDied, match="ended with code -9"):
            sandbox.awaken(LIMIT_S)
        sandbox.destroy()
    launch(Tier.DURABLE_POOL).awaken(LIMIT_S)


def test_without_kvm_in_the_middle_of_a_run_a_launch_fails_and_says_so(
    launch: Launch, substrate: KvmFloorSubstrate, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    vmms = substrate.prepare(run, cache_directory(), Tier.DURABLE_POOL).vmms

    def gone(number: int) -> Vmm:
        raise Unsupported("/dev/kvm cannot be opened")

    for vmm in vmms:
        vmm._process.kill()
        vmm._process.wait()
    with monkeypatch.context() as patch:
        patch.setattr(vmms, "_start", gone)
        for _ in range(2):
            with pytest.raises(GuestDied, match="no VMM can be started any more: /dev/kvm"):
                launch(Tier.DURABLE_POOL)
    launch(Tier.DURABLE_POOL).awaken(LIMIT_S)


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="prlimit (util-linux) is missing")
def test_a_step_that_kvm_refuses_is_the_reason(
    programs: Programs, run: Run, tmp_path: Path
) -> None:
    """A VM and its vCPU are descriptors, which the VMM may be out of. It tells, and serves on."""
    seen = set()
    for files in range(5, 16):  # how many it has already depends on the numbers it is given
        limited = script(tmp_path / "limited", f'exec prlimit --nofile={files} {programs.vmm} "$@"')
        try:
            vmm = Vmm(run, limited, programs.image, "test-limited")
        except Unsupported:
            continue
        near, far = socket.socketpair()
        with near, far:
            try:
                vmm.destroy(vmm.create(far.fileno()))
            except SandboxError as error:
                seen.add(error.args[0])
                assert vmm.runs
        vmm.end()
    for step in ("KVM_CREATE_VM", "KVM_CREATE_VCPU"):
        assert f"test-limited: {step}: Too many open files" in seen


@pytest.mark.parametrize(("chosen", "filtered"), [("full", "2"), ("partial", "2"), ("none", "0")])
def test_vmms_are_confined_unless_the_user_says_none(
    programs: Programs,
    vmm_of: Callable[[Path], Vmm],
    monkeypatch: pytest.MonkeyPatch,
    chosen: str,
    filtered: str,
) -> None:
    monkeypatch.setenv("COPPICE_CONFINEMENT", chosen)
    vmm = vmm_of(programs.image)
    status = Path(f"/proc/{vmm.pid}/status").read_text(encoding="utf-8")
    facts = dict(line.split(":", 1) for line in status.splitlines())
    assert facts["Seccomp"].strip() == filtered
    if chosen == "full":
        assert facts["NoNewPrivs"].strip() == "1"
        assert set(facts["Uid"].split()) == {"65534"} or os.geteuid() != 0
        assert int(facts["CapEff"], 16) == 0


def test_thousands_of_launches_reuse_their_places(launch: Launch, run: Run) -> None:
    substrate = KvmFloorSubstrate()
    template = substrate.prepare(run, cache_directory(), Tier.DURABLE_POOL)
    for _ in range(200):
        sandbox = substrate.launch(run, template, Tier.DURABLE_POOL, allocate(run.leases, run.id))
        sandbox.awaken(LIMIT_S)
        sandbox.destroy()
        assert sandbox._slot < 64
