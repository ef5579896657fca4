"""Forked microVMs on a network: each has its own NIC and policy."""

from __future__ import annotations

import pytest

from harness.errors import GuestTimeout, Unsupported
from harness.host.identity import NETWORK, allocate
from harness.host.run import Run
from harness.network.cubenet import Cubenet
from harness.network.policy import Policy
from harness.paths import cache_directory
from harness.procedures.echo import WAIT_S, echo
from harness.procedures.fleet import SandboxFleet
from harness.procedures.namespace_endpoint import endpoint
from harness.sandbox.protocol import Sharing, Tier, load

pytestmark = pytest.mark.skipif(
    not all(need.satisfied for need in load("qemu").requirements()),
    reason="QEMU is not installed: bin/mise run setup",
)
N = 3


def test_each_fork_answers_only_an_allowed_peer(
    run: Run, net: Cubenet, monkeypatch: pytest.MonkeyPatch
) -> None:
    substrate = load("qemu")
    template = substrate.prepare(run, cache_directory(), Tier.DURABLE_POOL)
    source = allocate(run.leases, run.id)
    taken = [source.id]

    def launch_from(standing: object) -> object:
        identity = allocate(run.leases, run.id)
        taken.append(identity.id)
        tap = net.attach_tap(identity).descriptor
        return substrate.launch(
            run, standing, Tier.DURABLE_POOL, identity, Sharing.FORKED, tap  # type: ignore[arg-type]
        )  # fmt: skip

    try:
        with substrate.zygote(run, template, net.attach_tap(source).descriptor) as standing:
            with SandboxFleet(lambda: launch_from(standing), 0) as fleet:  # type: ignore[arg-type,return-value]
                fleet.bring_up(N)
                assert len(fleet.sandboxes) == N
                addresses = [one.identity.address for one in fleet.sandboxes]
                with endpoint(run, net, Policy.of([str(NETWORK)])) as asker:
                    with echo(asker.namespace) as asking:
                        for address in addresses:
                            assert 0 < asking.ask(address) < WAIT_S
                monkeypatch.setattr("harness.procedures.echo.WAIT_S", 0.3)
                with endpoint(run, net) as other, echo(other.namespace) as asking:
                    for address in addresses:
                        with pytest.raises(GuestTimeout):
                            asking.ask(address)
    except Unsupported as reason:
        pytest.skip(f"not possible on this host: {reason}")
    finally:
        net.detach(*taken)
