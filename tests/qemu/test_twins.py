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


def test_without_an_identity_they_would_be(launch: Launch) -> None:
    """What the other tests show could not be shown if restored guests differed by themselves."""
    said = []
    for _ in range(2):
        sandbox = launch(Tier.DURABLE_POOL)
        sandbox.awaken(30)
        said.append(sandbox.agent.hello())
    for what in ("hostname", "machine_id", "address"):
        assert said[0][what] == said[1][what], what
    assert abs(int(said[0]["wall_ns"]) - time.time_ns()) > 1000 * MILLISECOND_NS


@pytest.mark.parametrize(
    ("tier", "count"), [(Tier.DURABLE_PREWARM_POOL, 50), (Tier.DURABLE_POOL, 12)]
)
def test_no_two_share_anything(
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
            # The first process reads what it would make keys of: nothing asked before it.
            assert sandbox.first_exec("x").stdout == b"x\n"
            early = time.time_ns()
            # Its clock is behind by what the message with the time was under way at most.
            slack = early - asked + 50 * MILLISECOND_NS
            said = sandbox.agent.hello()
            late = time.time_ns()
            assert early - slack < int(said["wall_ns"]) < late + 50 * MILLISECOND_NS
            read = "dd if=/dev/urandom bs=16 count=1 2>/dev/null"
            drawn = sandbox.agent.run(["/bin/sh", "-c", read]).stdout
            inside.append(said | {"drawn": drawn.hex()})
            assert sandbox.agent.read_file(SEAL), "it comes from the checkpoint"
            pool.give_back(sandbox)
    for what in ("hostname", "machine_id", "mac", "address", "random", "drawn"):
        assert len({one[what] for one in inside}) == count, what
