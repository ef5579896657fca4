"""E2B's network rules as policies of cubenet: a port for each sandbox, closed until it is taken."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import PolicyError, SandboxGone
from harness.gateway.fleets.fd_holder import Keeper
from harness.host.identity import Identity
from harness.host.run import Run
from harness.network.cubenet import NOTHING, Cubenet, open_cubenet
from harness.network.nftables import Nftables
from harness.network.policy import Policy

RULES = ".rules"
"""What the keeper calls the socket of the rules; no sandbox is called so."""
EVERYTHING = ("0.0.0.0/0", "::/0", "*")


def policy(rules: Mapping[str, Any]) -> Policy:
    """The policy that rules mean: allowOut over denyOut, and what neither names is allowed unless
    internet access is denied. Private ranges are denied unless they are allowed.

    Raises PolicyError, for names of hosts too: cubenet knows addresses.
    """
    allow, deny = _list(rules, "allowOut"), _list(rules, "denyOut")
    closed = rules.get("allow_internet_access") is False or any(one in EVERYTHING for one in deny)
    if any(one in EVERYTHING for one in allow):
        closed, allow = False, [one for one in allow if one not in EVERYTHING]
    return Policy.of(
        allow,
        [one for one in deny if one not in EVERYTHING],
        default="deny" if closed else "allow",
    )


def _list(rules: Mapping[str, Any], name: str) -> Sequence[str]:
    found = rules.get(name) or []
    if not isinstance(found, list) or not all(
        isinstance(one, str) and one.isprintable() for one in found
    ):
        raise PolicyError(f"{name} is a list of addresses")
    return found


class Network:
    """Cubenet for a fleet."""

    def __init__(self, net: Cubenet) -> None:
        self._net = net
        # What E2B's sandboxes may do without rules; where nothing is outside there is nothing.
        self._usual = policy({}) if net.outside else NOTHING

    def attach(self, identity: Identity) -> int:
        """The descriptor that plugs a new sandbox's card in; nobody is in there yet."""
        port = self._net.attach_tap(identity, self._usual)
        assert port.descriptor is not None
        return port.descriptor

    def attach_process(self, identity: Identity, pid: int) -> None:
        """Give the namespace of a process its card."""
        self._net.attach_netns(identity, pid, self._usual)

    def port(self, id: str) -> str:
        """The name of a sandbox's port, by which `adopt` finds it again."""
        return self._net.port(id).name

    def adopt(self, identity: Identity, name: str) -> None:
        """Take in one that a killed gateway has plugged in; it reaches nothing until `police`."""
        self._net.adopt(identity, name)

    def detach(self, id: str) -> None:
        with contextlib.suppress(SandboxGone):
            self._net.detach(id)

    def police(self, id: str, rules: Mapping[str, Any]) -> None:
        """Raises SandboxGone for one that is not plugged in."""
        self._net.apply(id, policy(rules))


@contextlib.contextmanager
def opened(run: Run, outside: Path | int | None, keeper: Keeper) -> Iterator[Network]:
    """The network of a run, or of the killed gateway that this one goes on with.

    The rules belong to a socket, and the kernel drops them with it; the keeper holds it too, so
    that no sandbox is without rules while there is no gateway.
    """
    with open_cubenet(run, outside, lambda: keeper.drop(RULES)) as net:
        assert isinstance(net.engine, Nftables)
        keeper.keep(RULES, [net.engine.netlink])
        yield Network(net)
