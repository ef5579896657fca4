"""E2B's network rules as policies of cubenet: a port for each sandbox, closed until it is taken."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import PolicyError, SandboxGone
from harness.host.run import Run
from harness.network.cubenet import Cubenet, open_cubenet
from harness.network.policy import Policy
from harness.sandbox.identity import Identity

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

    def attach(self, identity: Identity) -> int:
        """The descriptor that plugs a new sandbox's card in; it reaches nothing yet."""
        port = self._net.attach_tap(identity)
        assert port.descriptor is not None
        return port.descriptor

    def detach(self, id: str) -> None:
        with contextlib.suppress(SandboxGone):
            self._net.detach(id)

    def police(self, id: str, rules: Mapping[str, Any]) -> None:
        """Raises SandboxGone for one that a former gateway plugged in: its rules stand."""
        self._net.apply(id, policy(rules))


@contextlib.contextmanager
def opened(run: Run, outside: Path | int | None) -> Iterator[Network]:
    with open_cubenet(run, outside) as net:
        yield Network(net)
