"""The smallest network endpoint on FreeBSD: a jail with a NIC on cubenet.

Its root is the host's, for the harness's own programs that send and receive.
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
from harness.network.pf_cubenet import NIC_NAME, NOTHING, PfCubenet, PfPort
from harness.network.policy import Policy
from harness.procedures.namespace_endpoint import Addressed


@dataclass(frozen=True)
class JailEndpoint(Addressed):
    """A jail, by name, with an identity on the network."""

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
        argv = [f"name={name}", "path=/", "persist", "vnet", f"vnet.interface={port.jail}"]
        must(host, ["jail", "-c", *argv])
        # The NIC returns to the host when the jail ends.
        stack.callback(host.run, ["jail", "-r", name])
        inside = ["jexec", name, "/sbin/ifconfig"]
        must(host, [*inside, port.jail, "name", NIC_NAME])
        must(host, [*inside, NIC_NAME, "ether", identity.mac])
        must(host, [*inside, NIC_NAME, "inet", f"{identity.address}/{identity.prefix}", "up"])
        yield JailEndpoint(identity, name, port)


def _detach(net: PfCubenet, id: str) -> None:
    with contextlib.suppress(SandboxGone):  # the caller detached it
        net.detach(id)
