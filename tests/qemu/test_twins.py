"""Sandboxes of one checkpoint share nothing that tells one from another, and know the time."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from harness.host.run import Run, cache_folder
from harness.sandbox.identity import allocate
from harness.sandbox.pool import Pool
from harness.sandbox.protocol import Sandbox, Tier
from harness.sandbox.qemu import QemuSubstrate
from harness.sandbox.qemu.sandbox import QemuSandbox
from tests.guests import AWAKE_S, launched

CLOCK_NS = 50_000_000
DISTINCT = ("hostname", "machine_id", "mac", "address", "random")


def clock_error_ns(sandbox: Sandbox) -> int:
    """How far the guest's wall clock lies outside of what ours showed around the request."""
    before = time.time_ns()
    wall = sandbox.agent.ping().wall_ns
    after = time.time_ns()
    return max(before - wall, wall - after, 0)


def seen_inside(sandbox: Sandbox) -> dict[str, str]:
    """Who a process in the guest finds itself to be, with 16 bytes of its /dev/urandom."""

    def said(*argv: str) -> bytes:
        done = sandbox.agent.run(argv)
        assert done.code == 0, done
        return done.stdout

    address = said("ip", "-4", "addr", "show", "eth0").decode().split("inet ")
    return {
        "random": said("head", "-c", "16", "/dev/urandom").hex(),
        "hostname": said("hostname").decode().strip(),
        "machine_id": said("cat", "/etc/machine-id").decode().strip(),
        "mac": said("cat", "/sys/class/net/eth0/address").decode().strip(),
        "address": address[1].split("/")[0] if len(address) > 1 else "",
    }


def assert_no_two_alike(seen: Sequence[dict[str, str]]) -> None:
    for what in DISTINCT:
        values = [one[what] for one in seen]
        assert all(values), f"a sandbox has no {what}"
        assert len(set(values)) == len(seen), f"two sandboxes share their {what}"


@pytest.mark.parametrize(
    ("tier", "count"), [(Tier.DURABLE_PREWARM_POOL, 50), (Tier.DURABLE_POOL, 10)]
)
def test_no_two_sandboxes_of_one_checkpoint_are_alike(run: Run, tier: Tier, count: int) -> None:
    substrate = QemuSubstrate()
    template = substrate.prepare(run, cache_folder(), tier)

    def launch() -> Sandbox:
        return substrate.launch(run, template, tier, allocate(run.leases, run.id))

    seen, late = [], []
    memory = substrate.memory_per_sandbox(tier)
    with Pool(launch, count, memory_each=memory, refill=False) as pool:
        pool.fill()
        for _ in range(count):
            sandbox = pool.check_out(AWAKE_S)
            sandbox.awaken(AWAKE_S)
            assert sandbox.first_exec("word").stdout == b"word\n"
            late.append(clock_error_ns(sandbox))
            found = seen_inside(sandbox)
            assert found["hostname"] == sandbox.identity.hostname
            assert found["address"] == str(sandbox.identity.address)
            seen.append(found)
            pool.give_back(sandbox)
    assert len(seen) == count
    assert_no_two_alike(seen)
    assert max(late) < CLOCK_NS


def first_words(run: Run) -> dict[str, str]:
    """What a restored guest says of itself that answers, and has been given no identity."""
    with launched(run, Tier.DURABLE_POOL) as guest:
        assert isinstance(guest, QemuSandbox)
        guest.awaken(AWAKE_S)
        return guest.agent.hello()


def test_before_an_identity_they_are_equal(run: Run) -> None:
    one, other = first_words(run), first_words(run)
    # Not `random` nor `boot_id`: the generator mixes in when interrupts came, and may part them.
    for what in ("hostname", "machine_id", "mac", "address"):
        assert one[what] == other[what], what
    with pytest.raises(AssertionError):
        assert_no_two_alike([one, other])


def test_a_restored_clock_is_late_until_it_is_set(run: Run) -> None:
    with launched(run, Tier.DURABLE_POOL) as guest:
        guest.awaken(AWAKE_S)
        assert clock_error_ns(guest) > CLOCK_NS
        guest.adopt_identity()
        assert clock_error_ns(guest) < CLOCK_NS
