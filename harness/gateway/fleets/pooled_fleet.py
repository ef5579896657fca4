"""What fleets with a pool for each template share: the pools, the network, and identities."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence
from ipaddress import IPv4Address
from typing import Any, Generic, Protocol, TypeVar

from harness.gateway.fleets.network import Network
from harness.gateway.fleets.protocol import RunningSandbox
from harness.gateway.fleets.resolv_conf import write_resolver
from harness.gateway.fleets.templates import HasEnvd, with_envd
from harness.host.disk_place import DiskPlace
from harness.host.identity import Identity
from harness.sandbox.lifetime import Destroyable


class FillablePool(Protocol):
    """The pool of a template."""

    @property
    def ready(self) -> int: ...

    def fill(self) -> None: ...


P = TypeVar("P", bound=FillablePool)


class PooledFleet(Generic[P]):
    """`pools` by template; a subclass adds to them what it offers."""

    def __init__(self, network: Network | None, place: DiskPlace) -> None:
        self._network = network
        self._place = place
        self._pools: dict[str, P] = {}

    def fill(self) -> None:
        """Wait until the pools are full."""
        for pool in self._pools.values():
            pool.fill()

    def templates(self) -> Sequence[str]:
        return list(self._pools)

    def ready(self) -> Mapping[str, int]:
        return {template: pool.ready for template, pool in self._pools.items()}

    def require_room(self, count: int) -> None:
        self._place.require_room(count)

    def port(self, id: str) -> str | None:
        """The name of a sandbox's network port."""
        return self._network.port(id) if self._network else None

    @property
    def route(self) -> IPv4Address | None:
        """The gateway of a sandbox's default route."""
        return self._network.route if self._network else None

    def set_resolver(self, guest: HasEnvd) -> None:
        """Name the resolver in a sandbox, where there is an outside network."""
        network = self._network
        if network and network.route:
            with_envd(guest, lambda envd: write_resolver(envd, network.resolver))

    def set_network_rules(self, sandbox: RunningSandbox, rules: Mapping[str, Any]) -> None:
        if self._network:
            self._network.set_rules(sandbox.id, rules)


@contextlib.asynccontextmanager
async def destroyed_in_thread(sandbox: Destroyable) -> AsyncIterator[None]:
    """Destroy the sandbox if the block raises, or is cancelled because its caller disconnected."""
    try:
        yield
    except BaseException:
        asyncio.get_running_loop().run_in_executor(None, sandbox.destroy)
        raise


def with_names(identity: Identity, names: Mapping[str, Any] | None) -> Identity:
    """A new identity, with the host name and machine id of a saved sandbox's if there are any."""
    if not names:
        return identity
    kept = {name: names[name] for name in ("hostname", "machine_id")}
    return dataclasses.replace(identity, **kept)
