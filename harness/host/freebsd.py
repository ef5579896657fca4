"""The requirements of a FreeBSD host: lines of `coppice doctor`, each with a command as remedy.

All checks are programs run through a `Host`, so that a workstation can check another machine. They
change nothing, except that one virtual machine is created and destroyed: `kldload vmm` succeeds,
and `kldstat` lists the module, even where it has rejected the CPU.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import replace

from harness.host.leftovers_freebsd import ANCHOR
from harness.host.protocol import Host
from harness.host.requirement import Requirement
from harness.host.run import NAME_PREFIX

BOOTROM = "/usr/local/share/uefi-firmware/BHYVE_UEFI.fd"
ANCHORS_WANTED = 4096
"""pf's default limit is 512; a density run needs one anchor per sandbox."""
MEMORY_WANTED = 2 << 30
ROOM_WANTED = 4 << 30
_SNAPSHOT_HINT = (
    "build the kernel with `options BHYVE_SNAPSHOT` and the world with WITH_BHYVE_SNAPSHOT=yes"
)
_PATCH_HINT = "patches/vmm-vnode/README.md says how to apply and build it"


def ask(host: Host, *argv: str) -> str | None:
    """The stripped stdout of a program; None when it fails or is not installed."""
    done = host.run(argv)
    return None if done.code else done.text.strip()


def is_freebsd(host: Host) -> bool:
    return ask(host, "uname", "-s") == "FreeBSD"


def root(host: Host) -> Requirement:
    yes = ask(host, "id", "-u") == "0"
    return Requirement("root", yes, "yes" if yes else "no", "run it as root")


def processor(host: Host) -> Requirement:
    """The CPU features that vmm requires, from the kernel's boot messages."""
    features = ask(host, "grep", "-E", "VT-x|SVM:|Features", "/var/run/dmesg.boot") or ""
    intel = re.search(r"VT-x: .*", features)
    amd = re.search(r"SVM: .*", features)
    if intel:
        missing = [name for name in ("EPT", "UG") if name not in intel[0]]
        return Requirement(
            "a CPU for vmm",
            not missing,
            f"Intel, {'without ' + ' and '.join(missing) if missing else 'with EPT and UG'}",
            "vmm needs VT-x with EPT and unrestricted guests: enable VT-x in the firmware",
        )
    if amd:
        missing = [name for name in ("NP", "NRIP") if name not in amd[0]]
        return Requirement(
            "a CPU for vmm",
            not missing,
            f"AMD, {'without ' + ' and '.join(missing) if missing else 'with NP and NRIP'}",
            "vmm needs SVM with nested paging and NRIP save: enable SVM in the firmware",
        )
    return Requirement(
        "a CPU for vmm",
        False,
        "the kernel reports neither VT-x nor SVM",
        "enable virtualisation in the firmware, or use a machine that has it",
    )


def vmm(host: Host) -> Requirement:
    """Whether vmm works: a virtual machine is created and destroyed."""
    loaded = host.run(["kldstat", "-q", "-m", "vmm"]).code == 0
    if not loaded:
        return Requirement("vmm", False, "not loaded", "kldload vmm")
    name = f"{NAME_PREFIX}{secrets.token_hex(4)}-doctor"
    made = host.run(["bhyvectl", f"--vm={name}", "--create"])
    if made.code == 0:
        host.run(["bhyvectl", f"--vm={name}", "--destroy"])
        return Requirement("vmm", True, "created and destroyed a virtual machine")
    messages = ask(host, "sh", "-c", "dmesg | grep -E 'vmm|SVM|VMX|NRIP' | tail -n 2") or ""
    if ask(host, "sysctl", "-n", "hw.vmm.create") is None and not messages:
        messages = "hw.vmm does not exist"
    why = " | ".join(messages.splitlines()) or made.error_text
    return Requirement(
        "vmm",
        False,
        f"loaded, but does not work: {why}",
        "see the kernel's messages: dmesg | grep -iE 'vmm|svm|vmx'",
    )


def virtual_machines(host: Host) -> Sequence[Requirement]:
    """The CPU and vmm. Where vmm works, a missing CPU feature is not an error."""
    cpu, works = processor(host), vmm(host)
    if works.satisfied and not cpu.satisfied:
        cpu = replace(cpu, satisfied=True, detail=f"{cpu.detail}, but vmm works")
    return [cpu, works]


def snapshots(host: Host) -> Requirement:
    """BHYVE_SNAPSHOT in bhyve, bhyvectl and the kernel, which are built separately."""
    what = "BHYVE_SNAPSHOT, for the durable tiers"
    usage = host.run(["bhyvectl", "--help"])
    if b"--suspend" not in usage.stdout + usage.stderr:
        return Requirement(what, False, "bhyvectl has no option --suspend", _SNAPSHOT_HINT)
    usage = host.run(["bhyve", "-h"])
    if not re.search(rb"(?m)^\s*-r\b", usage.stdout + usage.stderr):
        return Requirement(what, False, "bhyve has no option -r", _SNAPSHOT_HINT)
    options = ask(host, "sysctl", "-n", "kern.conftxt")
    if options and "BHYVE_SNAPSHOT" not in options:
        return Requirement(what, False, "the kernel was built without it", _SNAPSHOT_HINT)
    where = "in kernel, bhyve and bhyvectl" if options else "in bhyve and bhyvectl"
    return Requirement(what, True, where)


def _by_sysctl(
    host: Host, what: str, name: str, details: tuple[str, str], remedy: str
) -> Requirement:
    """A requirement that is satisfied when a sysctl is 1; `details` are for yes and no."""
    satisfied = ask(host, "sysctl", "-n", name) == "1"
    return Requirement(what, satisfied, details[0] if satisfied else details[1], remedy)


def vnode_patch(host: Host) -> Requirement:
    """The kernel patch of patches/vmm-vnode: clones share their checkpoint's pages."""
    return _by_sysctl(
        host,
        "the vnode patch, for shared guest memory",
        "hw.vmm.vnode_restore",
        ("in this kernel", "not in this kernel, so every clone has a full copy"),
        _PATCH_HINT,
    )


def vimage(host: Host) -> Requirement:
    return _by_sysctl(
        host,
        "VIMAGE, for jails with networks",
        "kern.features.vimage",
        ("in this kernel", "not in this kernel"),
        "use a GENERIC kernel, or build one with `options VIMAGE`",
    )


def bridging(host: Host) -> Sequence[Requirement]:
    modules = [name for name in ("if_bridge", "if_epair") if not _has_module(host, name)]
    lines = [
        Requirement(
            "epair and bridge",
            not modules,
            "loaded" if not modules else f"{' and '.join(modules)} not loaded",
            f"kldload {' '.join(modules)}" if modules else None,
        )
    ]
    for name, wanted, why in (
        ("net.link.bridge.pfil_member", "1", "without it bridges are not filtered"),
        ("net.link.bridge.pfil_bridge", "0", "else packets are filtered twice"),
    ):
        found = ask(host, "sysctl", "-n", name)
        lines.append(
            Requirement(
                f"{name}={wanted}",
                found == wanted,
                found or f"unknown until if_bridge is loaded; {why}",
                f"sysctl {name}={wanted}",
            )
        )
    return lines


def _has_module(host: Host, name: str) -> bool:
    return host.run(["kldstat", "-q", "-m", name]).code == 0


def pf(host: Host) -> Sequence[Requirement]:
    if not _has_module(host, "pf"):
        return [Requirement("pf", False, "not loaded", "kldload pf && pfctl -e")]
    info = ask(host, "pfctl", "-s", "info") or ""
    enabled = "Status: Enabled" in info
    lines = [Requirement("pf", enabled, "enabled" if enabled else "disabled", "pfctl -e")]
    rules = ask(host, "pfctl", "-s", "rules") or ""
    anchored = f'anchor "{ANCHOR}/*"' in rules
    lines.append(
        Requirement(
            f"pf's root anchor {ANCHOR}/*",
            anchored,
            "in the main rules" if anchored else "missing from the main rules",
            f'add  anchor "{ANCHOR}/*"  to /etc/pf.conf (and  nat-anchor "{ANCHOR}/*"  '
            "before its first filter rule), then: pfctl -f /etc/pf.conf",
        )
    )
    limit = re.search(r"anchors\s+hard limit\s+(\d+)", ask(host, "pfctl", "-s", "memory") or "")
    if limit:  # older versions have no such limit
        enough = int(limit[1]) >= ANCHORS_WANTED
        lines.append(
            Requirement(
                "pf's anchor limit",
                enough,
                f"{limit[1]}; a large fleet needs {ANCHORS_WANTED}",
                f"add  set limit anchors {ANCHORS_WANTED}  to /etc/pf.conf, then: "
                "pfctl -f /etc/pf.conf",
            )
        )
    return lines


def limits(host: Host) -> Requirement:
    return _by_sysctl(
        host,
        "racct and rctl, for jail limits",
        "kern.racct.enable",
        ("enabled", "off"),
        "add kern.racct.enable=1 to /boot/loader.conf, and reboot",
    )


def pools(host: Host) -> Sequence[str]:
    """The names of a host's ZFS pools."""
    return (ask(host, "zpool", "list", "-H", "-o", "name") or "").split()


def zfs(host: Host, pool: str | None) -> Sequence[Requirement]:
    """Checks `pool`, or the first pool where none is named."""
    there = pools(host)
    chosen = pool or (there[0] if there else None)
    if chosen is None or chosen not in there:
        problem = f"no pool is named {pool}" if pool else "no pool"
        return [
            Requirement(
                "a ZFS pool",
                False,
                f"{problem}; existing pools: {', '.join(there) or 'none'}",
                "truncate -s 8G /var/coppice.pool && zpool create coppice /var/coppice.pool, or "
                "name another pool in COPPICE_POOL",
            )
        ]
    free = int(ask(host, "zfs", "get", "-H", "-p", "-o", "value", "available", chosen) or 0)
    return [
        Requirement("a ZFS pool", True, chosen),
        Requirement(
            "free space in it",
            free >= ROOM_WANTED,
            f"{free / 2**30:.1f} GiB free, {ROOM_WANTED / 2**30:.0f} needed",
            f"free some space; to see what uses it: zfs list -o space -r {chosen}",
        ),
    ]


def memory(host: Host) -> Requirement:
    size = int(ask(host, "sysctl", "-n", "hw.physmem") or 0)
    return Requirement(
        "memory",
        size >= MEMORY_WANTED,
        f"{size / 2**30:.1f} GiB, {MEMORY_WANTED / 2**30:.0f} needed",
        "use a machine with more memory",
    )


def bootrom(host: Host) -> Requirement:
    there = host.run(["test", "-r", BOOTROM]).code == 0
    return Requirement(
        "a bootrom, for Linux guests",
        there,
        BOOTROM if there else "not installed",
        "pkg install -y edk2-bhyve",
    )


def programs(host: Host, *names: str) -> Sequence[Requirement]:
    lines = []
    for name in names:
        path = ask(host, "which", name)
        remedy = "it is part of FreeBSD's base system"
        lines.append(Requirement(name, path is not None, path or "not installed", remedy))
    return lines


def all_requirements(host: Host, pool: str | None = None) -> Sequence[Requirement]:
    """Every check, for a machine that has no Python to run its substrates' own."""
    lines = [root(host), *virtual_machines(host), snapshots(host), vnode_patch(host)]
    lines += [vimage(host), *bridging(host), *pf(host), limits(host), *zfs(host, pool)]
    return [*lines, memory(host), bootrom(host)]
