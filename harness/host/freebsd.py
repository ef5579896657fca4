"""What FreeBSD has and lacks for us: the doctor's lines, each with the command that mends it.

Everything is asked of a host by programs, so that a workstation can ask it of another machine. It
looks, and changes nothing, but for one virtual machine that is made and destroyed: `kldload vmm`
ends well and `kldstat` lists the module even where it has refused the processor.
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
"""pf's own limit is 512, and a density run has an anchor for each sandbox."""
MEMORY_WANTED = 2 << 30
ROOM_WANTED = 4 << 30
_SNAPSHOT_HINT = (
    "build the kernel with `options BHYVE_SNAPSHOT` and the world with WITH_BHYVE_SNAPSHOT=yes"
)
_PATCH_HINT = "patches/vmm-vnode/README.md says how to apply and build it"


def ask(host: Host, *argv: str) -> str | None:
    """What a program prints, stripped; None when it fails or is not there."""
    done = host.run(argv)
    return None if done.code else done.text.strip()


def is_freebsd(host: Host) -> bool:
    return ask(host, "uname", "-s") == "FreeBSD"


def root(host: Host) -> Requirement:
    yes = ask(host, "id", "-u") == "0"
    return Requirement("root", yes, "yes" if yes else "no", "run it as root")


def processor(host: Host) -> Requirement:
    """What vmm needs of the processor, by what the kernel said of it at boot."""
    said = ask(host, "grep", "-E", "VT-x|SVM:|Features", "/var/run/dmesg.boot") or ""
    intel = re.search(r"VT-x: .*", said)
    amd = re.search(r"SVM: .*", said)
    if intel:
        missing = [one for one in ("EPT", "UG") if one not in intel[0]]
        return Requirement(
            "a processor for vmm",
            not missing,
            f"Intel, {'without ' + ' and '.join(missing) if missing else 'with EPT and UG'}",
            "vmm needs VT-x with EPT and unrestricted guests: switch it on in the firmware",
        )
    if amd:
        missing = [one for one in ("NP", "NRIP") if one not in amd[0]]
        return Requirement(
            "a processor for vmm",
            not missing,
            f"AMD, {'without ' + ' and '.join(missing) if missing else 'with NP and NRIP'}",
            "vmm needs SVM with nested paging and NRIP save: switch SVM on in the firmware",
        )
    return Requirement(
        "a processor for vmm",
        False,
        "the kernel tells neither of VT-x nor of SVM",
        "switch virtualisation on in the firmware, or use a machine that has it",
    )


def vmm(host: Host) -> Requirement:
    """Whether a virtual machine can really be made: one is, and destroyed."""
    loaded = host.run(["kldstat", "-q", "-m", "vmm"]).code == 0
    if not loaded:
        return Requirement("vmm", False, "not loaded", "kldload vmm")
    name = f"{NAME_PREFIX}{secrets.token_hex(4)}-doctor"
    made = host.run(["bhyvectl", f"--vm={name}", "--create"])
    if made.code == 0:
        host.run(["bhyvectl", f"--vm={name}", "--destroy"])
        return Requirement("vmm", True, "made a virtual machine and destroyed it")
    said = ask(host, "sh", "-c", "dmesg | grep -E 'vmm|SVM|VMX|NRIP' | tail -n 2") or ""
    if ask(host, "sysctl", "-n", "hw.vmm.create") is None and not said:
        said = "hw.vmm is not there"
    why = " | ".join(said.splitlines()) or made.error_text
    return Requirement(
        "vmm",
        False,
        f"loaded, and refuses to work: {why}",
        "the kernel's word for it: dmesg | grep -iE 'vmm|svm|vmx'",
    )


def virtual_machines(host: Host) -> Sequence[Requirement]:
    """The processor and vmm. What a working vmm makes do with is enough, whatever it lacks."""
    cpu, works = processor(host), vmm(host)
    if works.satisfied and not cpu.satisfied:
        cpu = replace(cpu, satisfied=True, detail=f"{cpu.detail}, and vmm works with it")
    return [cpu, works]


def snapshots(host: Host) -> Requirement:
    """BHYVE_SNAPSHOT in bhyve, bhyvectl and the kernel; each may lack it alone."""
    what = "BHYVE_SNAPSHOT, for the durable tiers"
    usage = host.run(["bhyvectl", "--help"])
    if b"--suspend" not in usage.stdout + usage.stderr:
        return Requirement(what, False, "bhyvectl does not know --suspend", _SNAPSHOT_HINT)
    usage = host.run(["bhyve", "-h"])
    if not re.search(rb"(?m)^\s*-r\b", usage.stdout + usage.stderr):
        return Requirement(what, False, "bhyve does not know -r", _SNAPSHOT_HINT)
    options = ask(host, "sysctl", "-n", "kern.conftxt")
    if options and "BHYVE_SNAPSHOT" not in options:
        return Requirement(what, False, "the kernel was built without it", _SNAPSHOT_HINT)
    where = "in kernel, bhyve and bhyvectl" if options else "in bhyve and bhyvectl"
    return Requirement(what, True, where)


def vnode_patch(host: Host) -> Requirement:
    """Ours, of patches/vmm-vnode: clones share their checkpoint's pages with it."""
    there = ask(host, "sysctl", "-n", "hw.vmm.vnode_restore") == "1"
    return Requirement(
        "the vnode patch, for shared guest memory",
        there,
        "in this kernel" if there else "not in this kernel: every clone has a full copy",
        _PATCH_HINT,
    )


def vimage(host: Host) -> Requirement:
    yes = ask(host, "sysctl", "-n", "kern.features.vimage") == "1"
    return Requirement(
        "VIMAGE, for networks of jails",
        yes,
        "in this kernel" if yes else "not in this kernel",
        "GENERIC has it: build the kernel with `options VIMAGE`",
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
        ("net.link.bridge.pfil_member", "1", "or nothing on a bridge is filtered"),
        ("net.link.bridge.pfil_bridge", "0", "or every packet is judged once more"),
    ):
        found = ask(host, "sysctl", "-n", name)
        lines.append(
            Requirement(
                f"{name}={wanted}",
                found == wanted,
                found or f"not there, as long as if_bridge is not loaded: {why}",
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
            "in the main rules" if anchored else "the main rules do not name it",
            f'write  anchor "{ANCHOR}/*"  into /etc/pf.conf (and  nat-anchor "{ANCHOR}/*"  '
            "before its first filter rule), then: pfctl -f /etc/pf.conf",
        )
    )
    limit = re.search(r"anchors\s+hard limit\s+(\d+)", ask(host, "pfctl", "-s", "memory") or "")
    if limit:  # older ones have none to show
        enough = int(limit[1]) >= ANCHORS_WANTED
        lines.append(
            Requirement(
                "pf's limit of anchors",
                enough,
                f"{limit[1]}, of {ANCHORS_WANTED} for a large fleet",
                f"write  set limit anchors {ANCHORS_WANTED}  into /etc/pf.conf, then: "
                "pfctl -f /etc/pf.conf",
            )
        )
    return lines


def limits(host: Host) -> Requirement:
    yes = ask(host, "sysctl", "-n", "kern.racct.enable") == "1"
    return Requirement(
        "racct and rctl, for limits of jails",
        yes,
        "enabled" if yes else "off",
        "write kern.racct.enable=1 into /boot/loader.conf, and reboot",
    )


def pools(host: Host) -> Sequence[str]:
    """The ZFS pools of a host."""
    return (ask(host, "zpool", "list", "-H", "-o", "name") or "").split()


def zfs(host: Host, pool: str | None) -> Sequence[Requirement]:
    """`pool` is the one that was asked for; else the first there is."""
    there = pools(host)
    chosen = pool or (there[0] if there else None)
    if chosen is None or chosen not in there:
        named = f"no pool is called {pool}" if pool else "no pool"
        return [
            Requirement(
                "a ZFS pool",
                False,
                f"{named}; there are {', '.join(there) or 'none'}",
                "truncate -s 8G /var/coppice.pool && zpool create coppice /var/coppice.pool, and "
                "COPPICE_POOL names the pool to use",
            )
        ]
    free = int(ask(host, "zfs", "get", "-H", "-p", "-o", "value", "available", chosen) or 0)
    return [
        Requirement("a ZFS pool", True, chosen),
        Requirement(
            "room in it",
            free >= ROOM_WANTED,
            f"{free / 2**30:.1f} GiB free, {ROOM_WANTED / 2**30:.0f} wanted",
            f"free some: zfs list -o space -r {chosen}",
        ),
    ]


def memory(host: Host) -> Requirement:
    size = int(ask(host, "sysctl", "-n", "hw.physmem") or 0)
    return Requirement(
        "memory",
        size >= MEMORY_WANTED,
        f"{size / 2**30:.1f} GiB, {MEMORY_WANTED / 2**30:.0f} wanted",
        "a machine with more of it",
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
    """All lines, for a machine that has no Python to ask its substrates."""
    lines = [root(host), *virtual_machines(host), snapshots(host), vnode_patch(host)]
    lines += [vimage(host), *bridging(host), *pf(host), limits(host), *zfs(host, pool)]
    return [*lines, memory(host), bootrom(host)]
