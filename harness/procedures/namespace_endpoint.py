"""The smallest network endpoint: a namespace with a NIC on cubenet."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import SandboxGone
from harness.host.identity import Identity, allocate
from harness.host.run import Run
from harness.network.cubenet import NOTHING, Cubenet, Port
from harness.network.namespace import namespace
from harness.network.policy import Policy


@dataclass(frozen=True)
class Addressed:
    """An identity on the network."""

    identity: Identity

    @property
    def id(self) -> str:
        return self.identity.id

    @property
    def address(self) -> str:
        return str(self.identity.address)

    @property
    def address6(self) -> str:
        return str(self.identity.address6)


@dataclass(frozen=True)
class Endpoint(Addressed):
    """A namespace with an identity on the network."""

    namespace: Path
    port: Port


@contextlib.contextmanager
def endpoint(run: Run, net: Cubenet, policy: Policy = NOTHING) -> Iterator[Endpoint]:
    """A new endpoint of a run on its network, until the block ends."""
    identity = allocate(run.leases, run.id)
    try:
        with namespace(run.directory, "endpoint") as path:
            port = net.attach_netns(identity, path, policy)
            try:
                yield Endpoint(identity, path, port)
            finally:
                with contextlib.suppress(SandboxGone):  # the caller detached it
                    net.detach(identity.id)
    finally:
        identity.release()
