"""The least sandbox that has a network: a namespace with a card on cubenet, and no more."""

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
    """Who somebody is on the network."""

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
    """A namespace and who it is on the network."""

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
                with contextlib.suppress(SandboxGone):  # its user detached it
                    net.detach(identity.id)
    finally:
        identity.release()
