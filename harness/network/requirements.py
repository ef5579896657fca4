"""What cubenet needs of this host, for the doctor; looked at in a namespace that is thrown away."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.errors import CoppiceError
from harness.host.requirement import Requirement
from harness.network import links, nft, ruleset
from harness.network.links import Links
from harness.network.namespace import apart
from harness.network.netlink import NETFILTER, Netlink

_AS_ROOT = "run it as root, or with sudo"
_TUN = Path("/dev/net/tun")


def requirements() -> Sequence[Requirement]:
    """Root, network namespaces, a bridge, nf_tables for it, and taps."""
    if os.geteuid() != 0:
        return [Requirement("root", False, "networks are the administrator's", _AS_ROOT)]
    return [
        Requirement("root", True, "yes"),
        _tried("a bridge", _bridge, "modprobe bridge"),
        _tried("nf_tables for bridges", _filter, "modprobe nf_tables"),
        Requirement(
            "taps, for microVMs",
            _TUN.exists(),
            str(_TUN) if _TUN.exists() else f"{_TUN} is not there",
            "modprobe tun",
        ),
    ]


def _tried(what: str, attempt: Callable[[], None], remedy: str) -> Requirement:
    """Whether something can be done: only trying tells."""
    try:
        apart(attempt)
    except (CoppiceError, OSError) as error:
        return Requirement(what, False, error.args[-1] if error.args else str(error), remedy)
    return Requirement(what, True, "made one and removed it")


def _bridge() -> None:
    own = Links()
    try:
        own.send(links.bridge("try"))
    finally:
        own.close()


def _filter() -> None:
    own = Netlink(NETFILTER)
    try:
        own.send(nft.transaction(list(ruleset.skeleton(nft.Table(nft.BRIDGE, "try")))))
    finally:
        own.close()
