"""What cubenet needs of this host, for the doctor; tried in a namespace that is then discarded."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Sequence

from harness.errors import CoppiceError
from harness.host import runtime_place
from harness.host.identity import NETWORK, NETWORK6
from harness.host.requirement import Requirement
from harness.network import links, nft, ruleset
from harness.network.cubenet import bypass_iptables
from harness.network.links import Links
from harness.network.namespace import in_scratch_namespace
from harness.network.netlink import NETFILTER, Netlink

_AS_ROOT = "run it as root, or with sudo"
_MAC = bytes.fromhex("02c0b0000001")


def requirements() -> Sequence[Requirement]:
    """Root, network namespaces, a bridge, nf_tables for it, and taps; on other systems than Linux
    only the requirement of Linux."""
    if not sys.platform.startswith("linux"):
        return [linux_only()]
    if os.geteuid() != 0:
        return [Requirement("root", False, "only root may make networks", _AS_ROOT)]
    return [
        Requirement("root", True, "yes"),
        runtime_place.requirement(),
        _tried("a bridge", _bridge, "modprobe bridge"),
        _tried("ports with IPv4 and IPv6", _ports, "modprobe veth"),
        _tried("bridged frames out of iptables", bypass_iptables, "modprobe -r br_netfilter"),
        _tried("nf_tables for bridges", _filter, "modprobe nf_tables"),
        _tried("taps, for microVMs", _tap, "modprobe tun"),
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
        hint = error.hint if isinstance(error, CoppiceError) else None
        return Requirement(what, False, str(error.args[-1]) if error.args else what, hint or remedy)
    return Requirement(what, True, "made and removed")


def _bridge() -> None:
    own = Links()
    try:
        own.send(links.bridge("try"))
    finally:
        own.close()


def _ports() -> None:
    """What cubenet does for a sandbox, with both ends in this namespace."""
    own = Links()
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        own.send(links.bridge("try"))
        bridge = own.index("try")
        own.send(links.up(bridge))
        own.send(links.pair("port", "nic", here, _MAC))
        own.send(links.port(own.index("port"), bridge, _MAC))
        nic = own.index("nic")
        for network in (NETWORK, NETWORK6):
            own.send(links.address(nic, network[2], network.prefixlen))
        own.send(links.up(nic))
        for network in (NETWORK, NETWORK6):
            own.send(links.neighbour(nic, network[3], _MAC))
    finally:
        os.close(here)
        own.close()


def _tap() -> None:
    os.close(links.tap("try"))


def _filter() -> None:
    own = Netlink(NETFILTER)
    try:
        own.send(nft.transaction(list(ruleset.skeleton(nft.Table(nft.BRIDGE, "try")))))
    finally:
        own.close()
