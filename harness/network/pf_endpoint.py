"""The least sandbox that has a network on FreeBSD: a jail with a card on cubenet, and no more.

It has this machine's own root: what runs in it are programs of ours that send and receive.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from harness.errors import SandboxGone
from harness.host.identity import allocate
from harness.host.local import LocalHost
from harness.host.protocol import must
from harness.host.run import Run
from harness.network.endpoint import Addressed
from harness.network.pf_cubenet import CARD, NOTHING, PfCubenet, PfPort
from harness.network.policy import Policy


@dataclass(frozen=True)
class JailEndpoint(Addressed):
    """A jail by its name, and who it is on the network."""

    jail: str
    port: PfPort


@contextlib.contextmanager
def jail_endpoint(run: Run, net: PfCubenet, policy: Policy = NOTHING) -> Iterator[JailEndpoint]:
    """A new endpoint of a run on its network, until the block ends."""
    host = LocalHost(run)
    identity = allocate(run.leases, run.id)
    name = run.object_name(identity.id)
    with contextlib.ExitStack() as stack:
        stack.callback(identity.release)
        port = net.attach_epair(identity, policy)
        stack.callback(_detach, net, identity.id)
        words = [f"name={name}", "path=/", "persist", "vnet", f"vnet.interface={port.jail}"]
        must(host, ["jail", "-c", *words])
        # The card comes back from a jail that is gone.
        stack.callback(host.run, ["jail", "-r", name])
        inside = ["jexec", name, "/sbin/ifconfig"]
        must(host, [*inside, port.jail, "name", CARD])
        must(host, [*inside, CARD, "ether", identity.mac])
        must(host, [*inside, CARD, "inet", f"{identity.address}/{identity.prefix}", "up"])
        yield JailEndpoint(identity, name, port)


def _detach(net: PfCubenet, id: str) -> None:
    with contextlib.suppress(SandboxGone):  # its user detached it
        net.detach(id)
