"""Real fleets of three, in every sharing: answers, identities, memory, and dead guests."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from harness.guest.wakeups import can_trace, trace
from harness.host.identity import allocate
from harness.host.ksm import SETTINGS, merging
from harness.host.run import Run
from harness.measure import footprint_linux
from harness.measure.footprint_linux import Footprint
from harness.procedures.fleet import SandboxFleet, ask_each
from harness.sandbox.protocol import Sandbox, Sharing, Tier
from harness.sandbox.qemu import QemuSubstrate
from harness.sandbox.qemu.substrate import QemuTemplate
from tests.host.processes import eventually

MIB = 1 << 20
N = 3
SLEEPER = "hrtimer_wakeup"
"""The guest kernel's function that wakes a process from its sleep."""


def footprint(sandbox: Sandbox) -> Footprint | None:
    process = sandbox.process
    assert process
    return footprint_linux.read(process.pid, process.guest_memory)


@contextmanager
def up(
    run: Run, substrate: QemuSubstrate, template: QemuTemplate, sharing: Sharing
) -> Iterator[SandboxFleet]:
    with ExitStack() as stack:
        if sharing is Sharing.MERGED:
            stack.enter_context(merging(run))
        if sharing in (Sharing.FORKED, Sharing.STARTED):
            template = stack.enter_context(substrate.zygote(run, template, None, sharing))
        fleet = stack.enter_context(
            SandboxFleet(
                lambda: substrate.launch(
                    run,
                    template,
                    Tier.DURABLE_POOL,
                    allocate(run.leases, run.id),
                    sharing,
                ),
                0,
            )
        )
        fleet.bring_up(N)
        assert len(fleet.sandboxes) == N
        yield fleet


@pytest.mark.parametrize("sharing", Sharing)
def test_all_answer_work_and_have_an_identity(
    run: Run, substrate: QemuSubstrate, template: QemuTemplate, sharing: Sharing
) -> None:
    if sharing is Sharing.MERGED and not (SETTINGS / "run").exists():
        pytest.skip("this kernel does not merge")
    only = {Sharing.FORKED: "tcg", Sharing.STARTED: "kvm"}.get(sharing, template.accelerator)
    if only != template.accelerator:
        pytest.skip(f"{sharing} is for guests under {only}")
    with up(run, substrate, template, sharing) as fleet:
        hellos: list[dict[str, str]] = []
        for question in (
            lambda one: one.agent.ping(),
            lambda one: one.first_exec("x"),
            lambda one: hellos.append(one.agent.hello()),
            lambda one: one.touch(16),
        ):
            answers = ask_each(fleet.sandboxes, question)
            assert len(answers.seconds) == N and not answers.failures
        for what in ("hostname", "machine_id", "mac", "address", "random"):
            assert len({one[what] for one in hellos}) == N, what
        pids = [one.process.pid for one in fleet.sandboxes if one.process]
        found = [one for one in map(footprint, fleet.sandboxes) if one]
        assert len(found) == N
        for one in found:
            assert one.vmm.pss > MIB and one.guest.private_dirty >= 16 * MIB
            if sharing is Sharing.PRIVATE:
                assert 250 * MIB < one.guest.pss <= 256 * MIB
            else:
                assert one.guest.pss < 64 * MIB
        if sharing is Sharing.MERGED:
            # Pages of the VMMs are merged, but not what the guests wrote, which differs.
            def merged() -> int:
                return sum(one.vmm.merged for one in map(footprint, fleet.sandboxes) if one)

            eventually(lambda: merged() > N * MIB, 200)  # a busy host's ksmd is slow
            last = [one for one in map(footprint, fleet.sandboxes) if one]
            assert all(one.guest.private_dirty >= 16 * MIB for one in last)
        else:
            assert all(share.merged == 0 for one in found for share in one.kinds.values())
    assert all(footprint_linux.read(pid, "/none") is None for pid in pids)


def test_a_killed_guest_is_a_failure_at_its_index(
    run: Run, substrate: QemuSubstrate, template: QemuTemplate
) -> None:
    with up(run, substrate, template, Sharing.MAPPED) as fleet:
        dead = fleet.sandboxes[1]
        dead.vmm.process.kill()  # type: ignore[attr-defined]
        dead.vmm.process.wait()  # type: ignore[attr-defined]
        answers = ask_each(fleet.sandboxes, lambda one: one.agent.ping())
        assert len(answers.seconds) == N - 1
        ((place, why),) = answers.failures
        assert place == 1 and why.startswith("GuestDied")
        assert footprint(dead) is None


def test_what_wakes_an_idle_guest(
    run: Run, substrate: QemuSubstrate, template: QemuTemplate
) -> None:
    with up(run, substrate, template, Sharing.MAPPED) as fleet:
        agent = fleet.sandboxes[0].agent
        if not can_trace(agent):
            pytest.skip("this guest's kernel cannot trace, as a slim one")
        # Seconds can pass in which nothing at all wakes an idle guest.
        agent.run(("/bin/sh", "-c", "sleep 3 < /dev/null > /dev/null 2>&1 &"))
        began = time.monotonic()
        found = trace(agent, 4)
        assert time.monotonic() - began >= 4
        assert SLEEPER in found
        assert all(0 < often < 1000 for often in found.values())
