"""What cubenet needs of this host, for the doctor; looked at in a namespace that is thrown away."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.errors import CoppiceError, Unsupported
from harness.host.requirement import Requirement
from harness.network import links, nft, ruleset
from harness.network.links import Links
from harness.network.namespace import apart
from harness.network.netlink import NETFILTER, Netlink

_AS_ROOT = "run it as root, or with sudo"
_TUN = Path("/dev/net/tun")


def requirements() -> Sequence[Requirement]:
    """Root, network namespaces, a bridge, nf_tables for it, and taps; elsewhere than on Linux the
    one that rules the others out."""
    if not sys.platform.startswith("linux"):
        return [_elsewhere()]
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


def on_linux() -> None:
    """Raise Unsupported where there are no namespaces to lay a ladder of ways in."""
    if not sys.platform.startswith("linux"):
        need = _elsewhere()
        raise Unsupported(f"this needs {need.what}; {need.detail}", hint=need.remedy)


def _elsewhere() -> Requirement:
    return Requirement(
        "Linux: its rungs are network namespaces, pairs of their cards, and nf_tables",
        False,
        f"this host is {platform.system()}",
        "run it on Linux; of FreeBSD's pf bench:policy-enforcement, bench:policy-update and "
        "bench:policy-churn measure what a policy costs",
    )


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
