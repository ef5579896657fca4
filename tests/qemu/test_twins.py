"""Promise 3: sandboxes restored from one checkpoint are not twins."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest

from harness.host.identity import allocate
from harness.host.run import Run
from harness.sandbox.base import SEAL
from harness.sandbox.pool import Pool
from harness.sandbox.protocol import Tier
from harness.sandbox.qemu import QemuSubstrate
from harness.sandbox.qemu.substrate import QemuTemplate
from tests.qemu.conftest import Launch

MILLISECOND_NS = 1_000_000


def test_without_an_identity_they_are_equal(launch: Launch) -> None:
    """Restored guests are equal before they get an identity, so the other tests prove something."""
    hellos = []
    for _ in range(2):
        sandbox = launch(Tier.DURABLE_POOL)
        sandbox.awaken(30)
        hellos.append(sandbox.agent.hello())
    for what in ("hostname", "machine_id", "address"):
        assert hellos[0][what] == hellos[1][what], what
    assert abs(int(hellos[0]["wall_ns"]) - time.time_ns()) > 1000 * MILLISECOND_NS


@pytest.mark.parametrize(
    ("tier", "count"), [(Tier.DURABLE_PREWARM_POOL, 50), (Tier.DURABLE_POOL, 12)]
)
def test_identities_clocks_and_random_numbers_differ(
    run: Run, substrate: QemuSubstrate, template: QemuTemplate, tier: Tier, count: int
) -> None:
    inside: list[dict[str, str]] = []
    with ExitStack() as stack:
        pool = Pool(
            lambda: substrate.launch(run, template, tier, allocate(run.leases, run.id)),
            count,
            memory_each=substrate.memory_per_sandbox(tier),
            refill=False,
        )
        stack.enter_context(pool)
        pool.fill()
        for _ in range(count):
            sandbox = pool.check_out()
            asked = time.time_ns()
            sandbox.awaken(60)
            # The first process reads random bytes, before any other request.
            assert sandbox.first_exec("x").stdout == b"x\n"
            early = time.time_ns()
            # Its clock is behind by the transit time of the message that set it.
            slack = early - asked + 50 * MILLISECOND_NS
            hello = sandbox.agent.hello()
            late = time.time_ns()
            assert early - slack < int(hello["wall_ns"]) < late + 50 * MILLISECOND_NS
            read = "dd if=/dev/urandom bs=16 count=1 2>/dev/null"
            drawn = sandbox.agent.run(["/bin/sh", "-c", read]).stdout
            inside.append(hello | {"drawn": drawn.hex()})
            assert sandbox.agent.read_file(SEAL), "it comes from the checkpoint"
            pool.give_back(sandbox)
    for what in ("hostname", "machine_id", "mac", "address", "random", "drawn"):
        assert len({one[what] for one in inside}) == count, what
