"""A FreeBSD host written from documentation and known facts. NOT recorded.

Tests with this prove which commands a driver runs and how it handles the answers, not that a real
FreeBSD gives these answers. Recorded transcripts prove that, where they exist.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from re import Match

from harness.host.identity import Identity
from harness.host.run import Run
from tests.freebsd.hosts import Answer, Documented

OK = Answer()
FAILS = Answer(code=1)
Answers = list[tuple[str, Answer | Callable[[Match[str]], Answer]]]
MARK = "0123abcd"
NAME = rf"coppice-{MARK}-(?:[0-9a-z]+|\*)"
SHA = "a" * 64


def run_in(tmp_path: Path) -> Run:
    """A run with a fixed id, for reproducible names."""
    directory = tmp_path / f"20261125T000000Z-{MARK}"
    directory.mkdir(parents=True, exist_ok=True)
    return Run(directory.name, directory, tmp_path / "leases")


def identity(number: int = 5, directory: Path = Path("/nowhere")) -> Identity:
    address = IPv4Address("10.77.0.0") + number
    id = f"{number:012x}"
    mac = "02:c0:0a:4d:00:" + f"{number:02x}"
    return Identity(id, f"sandbox-{id}", f"{number:032x}", mac, address, 16, bytes([number] * 16),
                    directory / str(number))  # fmt: skip


BASE: Answers = [
    ("uname -s", Answer("FreeBSD\n")),
    ("uname -sr", Answer("FreeBSD 13.2-RELEASE\n")),
    ("id -u", Answer("0\n")),
    (r"which (\S+)", lambda found: Answer(f"/usr/sbin/{found[1]}\n")),
    (r"(mkdir|cp|ln|mv|rm|chmod|chflags) .*", OK),
    ("sh -c cd .*", OK),
    (r"sh -c mkdir -p \"\$1\" && tar .*", OK),
    (r"sha256 -q \S+", Answer(SHA + "\n")),
    (r"stat -f %z \S+\.meta", Answer("2200\n")),
    (r"stat -f %z \S+\.kern", Answer("15900\n")),
    (r"stat -f %z \S+", Answer(f"{256 << 20}\n")),
    ("cc --version", Answer("FreeBSD clang version 14.0.5\n")),
    ("cc -static .*", OK),
    ("makefs .*", OK),
    (r"test -s \S+", OK),
]

KERNEL: Answers = [
    (
        r"grep -E VT-x\|SVM:\|Features /var/run/dmesg.boot",
        Answer("  SVM: NP,NRIP,VClean,AFlush,DAssist,NAsids=32768\n"),
    ),
    (r"kldstat -q -m \S+", OK),
    (r"bhyvectl --vm=coppice-\*-doctor --(create|destroy)", OK),
    (
        "bhyvectl --help",
        Answer("", 1, "Usage: bhyvectl --vm=<vmname>\n       [--create]\n       [--suspend=<f>]\n"),
    ),
    ("bhyve -h", Answer("", 0, "       -p: pin 'vcpu'\n       -r: path to checkpoint file\n")),
    ("sysctl -n kern.conftxt", Answer("options\tBHYVE_SNAPSHOT\n")),
    ("sysctl -n hw.vmm.vnode_restore", Answer("1\n")),
    ("sysctl -n kern.features.vimage", Answer("1\n")),
    ("sysctl -n kern.racct.enable", Answer("1\n")),
    ("sysctl -n net.link.bridge.pfil_member", Answer("1\n")),
    ("sysctl -n net.link.bridge.pfil_bridge", Answer("0\n")),
    ("sysctl -n net.inet.ip.forwarding", Answer("1\n")),
    ("sysctl -n hw.physmem", Answer("34210000000\n")),
    ("test -r /usr/local/share/uefi-firmware/BHYVE_UEFI.fd", OK),
    ("devfs rule -s 4 show", Answer("100 include 1\n200 include 2\n300 include 3\n")),
]

PF: Answers = [
    ("pfctl -s info", Answer("Status: Enabled for 0 days 00:01:00           Debug: Urgent\n")),
    (
        "pfctl -s rules",
        Answer('anchor "coppice/*" all\nanchor "others/*" all\n'),
    ),
    ("pfctl -s memory", Answer("states        hard limit   100000\nanchors  hard limit  4096\n")),
    (rf"pfctl -a coppice/{NAME} -s (rules|Tables|labels)", OK),
    (rf"pfctl -a coppice/{NAME} (-N )?-f -", OK),
    (rf"pfctl -a coppice/{NAME} -t \S+ -T replace -f -", OK),
    (rf"pfctl -a coppice/{NAME} -F all", OK),
    (r"pfctl -k \S+", Answer("", 0, "killed 1 states from 1 sources and 0 destinations\n")),
]

NETWORK: Answers = [
    *(
        (rf"ifconfig {kind} create description {NAME} group coppice up", Answer(f"{made}\n"))
        for kind, made in (("epair", "epair0a"), ("tap", "tap0"), ("bridge", "bridge0"))
    ),
    (r"ifconfig bridge0 (addm|static) .*", OK),
    ("ifconfig bridge0 inet 10.77.0.1/16", OK),
    (r"ifconfig (epair0a|tap0|bridge0) destroy", OK),
]

ZFS: Answers = [
    ("zpool list -H -o name", Answer("zroot\n")),
    (r"zfs get -H -p -o value available \S+", Answer(f"{50 << 30}\n")),
    (r"zfs list -H -t snapshot \S+", FAILS),
    (r"zfs list -H \S+", FAILS),
    (r"zfs (create|destroy|snapshot|clone) .*", OK),
    (
        r"zfs get -H -o value mountpoint (\S+)",
        lambda found: Answer(f"/var/db/coppice/{found[1]}\n"),
    ),
]

JAIL: Answers = [
    (r"mount -t devfs -o ruleset=4 devfs \S+/dev", OK),
    (r"umount -f \S+/dev", OK),
    (rf"jail -c name={NAME} .*", OK),
    (rf"jail -r {NAME}", OK),
    (rf"jexec {NAME} /bin/ifconfig .*", OK),
    (r"rctl -[ar] .*", OK),
]

BHYVE: Answers = [
    (rf"bhyvectl --vm={NAME} --(create|destroy)", OK),
    # On 13.2 its exit code is 64 on success (tests/transcripts/freebsd-13.2).
    (rf"bhyvectl --vm={NAME} --suspend=\S+", Answer("", 64)),
    (rf"bhyveload -m 256M -c /dev/null -h \S+/stage {NAME}", OK),
]
ALL: Answers = [*BASE, *KERNEL, *PF, *NETWORK, *ZFS, *JAIL, *BHYVE]
STARTS: list[tuple[str, int | None]] = [
    (rf"bhyve -H -A -P .* {NAME}", None),
    (rf"jexec {NAME} /sbin/init", None),
]


def host(*first: tuple[str, Answer | Callable[[Match[str]], Answer]], **more: object) -> Documented:
    """A complete host; the answers `first` take precedence."""
    found = Documented([*first, *ALL], starts=STARTS)
    for name, value in more.items():
        setattr(found, name, value)
    return found


def meta(memory_mib: int) -> bytes:
    """The part of bhyve's metadata of a guest that the driver reads."""
    basic = {"ncpus": 1, "vmname": "other", "memsize": memory_mib << 20, "memflags": 0}
    return json.dumps({"basic metadata": basic}).encode()
