"""The bundle's config.json: a container's mounts, privileges and limits.

It follows the OCI runtime specification 1.0. Root inside is an unprivileged user of the host that
owns no files there; privileges cannot be gained; a seccomp filter allows ordinary system calls.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import control_groups
from harness.errors import UsageError
from harness.host.cpus import ids, usable
from harness.host.identity import Identity
from harness.host.memory import usable_memory
from harness.sandbox.oci.seccomp import PROFILE

USERS = 0x70000000
"""The host's UID of root inside: above the ranges that distributions and systemd assign."""
USER_COUNT = 65536
AGENT = "/.agent"
CPU_PERIOD_US = 20_000
"""Shorter than the kernel's default, so that a throttled sandbox waits less."""
OPEN_FILES = 4096
HOSTNAME_MAX = 64
"""The kernel's HOST_NAME_MAX."""

NAMESPACES = ("pid", "network", "ipc", "uts", "mount", "user", "cgroup")
# Root inside may change the owner of its files and change users, and nothing more.
CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID",
)  # fmt: skip
MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/config.gz", "/proc/interrupts", "/proc/kallsyms",
    "/proc/kcore", "/proc/keys", "/proc/key-users", "/proc/latency_stats", "/proc/modules",
    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
    "/proc/pressure", "/sys/firmware", "/sys/devices/virtual/powercap", "/sys/kernel/debug",
    "/sys/kernel/security", "/sys/fs/bpf", "/sys/fs/pstore", "/sys/module",
)  # fmt: skip
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
PID_MAX = Path("/proc/sys/kernel/pid_max")
"""Absent on systems other than Linux, where no container starts."""
_PLAIN = ("nosuid", "noexec", "nodev")


@dataclass(frozen=True)
class Limits:
    """A sandbox's limits: bytes of memory, processes and threads, CPUs (0.5 is half of one).

    Raises UsageError for zero, and for more than this host has. A sandbox with less than one CPU is
    pinned to one: if it spent its quota on all CPUs at once, its neighbours would get none
    meanwhile.
    """

    memory: int = 512 << 20
    pids: int = 128
    cpus: float = 1.0

    def __post_init__(self) -> None:
        pid_max = int(PID_MAX.read_text(encoding="utf-8")) if PID_MAX.exists() else sys.maxsize
        most_pids = control_groups.pids_limit()
        most = {
            "memory": usable_memory(),
            "pids": min(pid_max, most_pids or pid_max),
            "cpus": usable(),
        }
        for name, limit in most.items():
            value = getattr(self, name)
            if not 0 < value <= limit:
                raise UsageError(
                    f"a sandbox cannot have a limit of {value} for {name}: "
                    f"it must be above 0 and at most {limit}, which this host has or allows"
                )
        if self.memory < 8 << 20:
            raise UsageError(f"{self.memory} bytes of memory are too few: allow at least 8 MiB")

    def as_config(self, unlimited: Sequence[str], number: int) -> dict[str, Any]:
        """The `resources` object of the specification, without limits this host cannot set.

        `number` is any number of the sandbox: it chooses the CPU of a sandbox pinned to one.
        """
        cpu: dict[str, Any] = {
            "shares": 256,
            "period": CPU_PERIOD_US,
            "quota": max(int(self.cpus * CPU_PERIOD_US), 1000),
        }
        if self.cpus < 1 and "cpuset" not in unlimited:
            ours = ids()
            cpu["cpus"] = str(ours[number % len(ours)])
        resources = {"memory": {"limit": self.memory}, "pids": {"limit": self.pids}, "cpu": cpu}
        return {name: value for name, value in resources.items() if name not in unlimited}


def check(identity: Identity) -> None:
    """Raise UsageError for a hostname that the kernel would refuse."""
    if not 0 < len(identity.hostname.encode()) <= HOSTNAME_MAX:
        raise UsageError(
            f"a hostname has 1 to {HOSTNAME_MAX} bytes; this one has "
            f"{len(identity.hostname.encode())}: {identity.hostname[:20]}…"
        )


def bundle(
    identity: Identity,
    root: Path,
    limits: Limits,
    unlimited: Sequence[str],
    group: str,
    environment: Mapping[str, str],
) -> dict[str, Any]:
    """config.json of a container. `unlimited`: limits that this host cannot set; `group`: its
    control group; `environment`: its agent's."""
    open_files = _within_own_limit(OPEN_FILES)
    none: Mapping[str, Sequence[str]] = {"ambient": (), "inheritable": ()}
    sets = ("bounding", "effective", "permitted")
    mapping = [{"containerID": 0, "hostID": USERS, "size": USER_COUNT}]
    return {
        "ociVersion": "1.0.2",
        "hostname": identity.hostname,
        "root": {"path": os.fspath(root), "readonly": False},
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": [AGENT],
            "env": [f"{name}={value}" for name, value in environment.items()],
            "cwd": "/",
            "noNewPrivileges": True,
            "capabilities": {**dict.fromkeys(sets, CAPABILITIES), **none},
            "rlimits": [
                {"type": "RLIMIT_NOFILE", "soft": open_files, "hard": open_files},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            ],
        },
        "mounts": [
            _mount("/proc", "proc"),
            _mount("/dev", "tmpfs", "nosuid", "noexec", "mode=755", "size=64k"),
            _mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666"),
            _mount("/dev/shm", "tmpfs", *_PLAIN, "mode=1777", "size=64m"),
            _mount("/dev/mqueue", "mqueue", *_PLAIN),
            _mount("/sys", "sysfs", *_PLAIN, "ro"),
        ],
        "linux": {
            "namespaces": [{"type": name} for name in NAMESPACES],
            "uidMappings": mapping,
            "gidMappings": mapping,
            "cgroupsPath": f"/{group}",
            "resources": limits.as_config(unlimited, int(identity.address))
            | {"devices": [{"allow": False, "access": "rwm"}]},
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
            "seccomp": PROFILE,
        },
    }


def _within_own_limit(wanted: int) -> int:
    """A limit of open files that runc may set: no higher than that of this process."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def _mount(at: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": at, "type": kind, "source": kind, "options": options}
