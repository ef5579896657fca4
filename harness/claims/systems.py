"""Which system a series was measured on, and so which verdicts it may give.

Only a run on the very system that a claim is about reproduces or contradicts it. Another system
that does the same job under the same definition reaches the claimed value here, or does not.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.measure.conditions import SYSTEM
from harness.measure.record import Facts

CUBESANDBOX, BHYVE, JAILS, PF, DOCKER = "cubesandbox", "bhyve", "jails", "pf", "docker"
E2B, AGENTENV, MITOS, NORTHFLANK = "e2b", "agentenv", "mitos", "northflank"
ARCHIL = "archil"
ORIGINAL_GATEWAY, GATEWAY = "coppice-gateway", "gateway"
QEMU, NFTABLES, EBPF, CONTAINERS = "qemu", "nftables", "ebpf", "containers"

SYSTEMS: Mapping[str, str] = {
    CUBESANDBOX: "CubeSandbox, through its API",
    E2B: "E2B, through its API",
    AGENTENV: "AgentENV, through its API",
    MITOS: "mitos, through its API",
    NORTHFLANK: "Northflank, through its API",
    ARCHIL: "archil, through its API",
    BHYVE: "bhyve on FreeBSD",
    JAILS: "jails on FreeBSD",
    PF: "pf on FreeBSD",
    ORIGINAL_GATEWAY: "the original Coppice's gateway on FreeBSD",
    DOCKER: "Docker",
    GATEWAY: "our E2B gateway with QEMU microVMs",
    QEMU: "QEMU microVMs on Linux",
    NFTABLES: "nf_tables on Linux",
    EBPF: "eBPF maps on Linux",
    CONTAINERS: "containers on Linux",
}
"""The systems of our claims and records, with their names on pages. A claim may be about another
one, which then has the name that records of its endpoint give it."""

_OVER_API = "e2b-"
"""How the names of rigs of the E2B API begin: without an endpoint, they measure our gateway."""
_OF_FREEBSD = (BHYVE, JAILS, PF)
_MECHANISMS = {"nftables": NFTABLES, "ebpf-lpm": EBPF}


def title(system: str) -> str:
    """The system's name on pages."""
    return SYSTEMS.get(system, system)


def of_series(dimensions: Facts, os: str, rig: str) -> str:
    """The system that a series of a rig measured. `os` is the host's, as its record states it."""
    named = dimensions.get(SYSTEM)
    if named is not None:
        return str(named)
    if rig.startswith(_OVER_API) or "sdk" in dimensions:
        return GATEWAY
    found = _by_dimensions(dimensions, on_freebsd="FreeBSD" in os)
    if found in _OF_FREEBSD and "FreeBSD" not in os:
        return f"{found} on {os}"
    return found


def _by_dimensions(dimensions: Facts, *, on_freebsd: bool) -> str:
    mechanism, substrate = dimensions.get("mechanism"), str(dimensions.get("substrate"))
    if mechanism is not None:
        return _MECHANISMS.get(str(mechanism), str(mechanism))
    if "path" in dimensions:
        return PF if on_freebsd else NFTABLES
    if substrate.startswith("jail"):
        return JAILS
    if substrate.startswith("oci"):
        return CONTAINERS
    return substrate
