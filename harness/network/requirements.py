"""What cubenet needs of this host, for the doctor; tried in a namespace that is then discarded."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.errors import CoppiceError
from harness.host.requirement import Requirement
from harness.network import links, nft, ruleset
from harness.network.links import Links
from harness.network.namespace import in_scratch_namespace
from harness.network.netlink import NETFILTER, Netlink

_AS_ROOT = "run it as root, or with sudo"
_TUN = Path("/dev/net/tun")


def requirements() -> Sequence[Requirement]:
    """Root, network namespaces, a bridge, nf_tables for it, and taps; on other systems than Linux
    only the requirement of Linux."""
    if not sys.platform.startswith("linux"):
        return [linux_only()]
    if os.geteuid() != 0:
        return [Requirement("root", False, "only root may make networks", _AS_ROOT)]
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


def linux_only() -> Requirement:
    """The requirement that every other system fails."""
    return Requirement(
        "Linux: cubenet is made of network namespaces, veth pairs and nf_tables",
        False,
        f"this host is {platform.system()}",
        "run it on Linux; on FreeBSD bench:policy-enforcement, bench:policy-update and "
        "bench:policy-churn measure what a policy costs under pf",
    )


def _tried(what: str, attempt: Callable[[], None], remedy: str) -> Requirement:
    """Whether something can be done: only an attempt shows it."""
    try:
        in_scratch_namespace(attempt)
    except (CoppiceError, OSError) as error:
        return Requirement(what, False, error.args[-1] if error.args else str(error), remedy)
    return Requirement(what, True, "made and removed")


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
