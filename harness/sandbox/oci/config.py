"""The bundle's config.json: what a container sees, what it may do, and how much of it.

By the OCI runtime specification 1.0. Root inside is a user of the host's that owns nothing there;
no privilege can be gained; of the kernel's calls, those that a program needs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from harness.errors import UsageError
from harness.host.identity import Identity
from harness.sandbox.oci.seccomp import PROFILE

USERS = 0x70000000
"""The host's user that root inside is: beyond those that distributions and systemd give out."""
USER_COUNT = 65536
AGENT = "/.agent"
CPU_PERIOD_US = 20_000
"""Shorter than the kernel's default: a sandbox that is out of time waits less for its next."""
HOSTNAME_MAX = 64
"""Of the kernel's (HOST_NAME_MAX)."""

NAMESPACES = ("pid", "network", "ipc", "uts", "mount", "user", "cgroup")
# Root inside may own its files and change users; everything else is not for a sandbox.
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
"""Absent where no sandbox of these starts."""
_PLAIN = ("nosuid", "noexec", "nodev")


@dataclass(frozen=True)
class Limits:
    """What one sandbox may take: bytes of memory, processes and threads, processors (0.5: half
    of one). UsageError for nothing, and for more than this host has.

    Who may take less than a processor is kept to one: his share, taken on all of them at once,
    would leave his neighbours none for as long as it lasts.
    """

    memory: int = 512 << 20
    pids: int = 128
    cpus: float = 1.0

    def __post_init__(self) -> None:
        most = {
            "memory": psutil.virtual_memory().total,
            "pids": int(PID_MAX.read_text()) if PID_MAX.exists() else sys.maxsize,
            "cpus": os.cpu_count() or 1,
        }
        for name, limit in most.items():
            asked = getattr(self, name)
            if not 0 < asked <= limit:
                raise UsageError(
                    f"a sandbox cannot be limited to {asked} of {name}: "
                    f"it needs some, and this host has {limit}"
                )
        if self.memory < 8 << 20:
            raise UsageError(f"no sandbox starts in {self.memory} bytes of memory: give it 8 MiB")

    def as_config(self, unlimited: Sequence[str], number: int) -> dict[str, Any]:
        """The specification's resources, without what this host cannot limit.

        `number` is the sandbox's: those that are kept to one processor take turns by it.
        """
        cpu: dict[str, Any] = {
            "shares": 256,
            "period": CPU_PERIOD_US,
            "quota": max(int(self.cpus * CPU_PERIOD_US), 1000),
        }
        if self.cpus < 1 and "cpuset" not in unlimited:
            ours = sorted(os.sched_getaffinity(0))
            cpu["cpus"] = str(ours[number % len(ours)])
        resources = {"memory": {"limit": self.memory}, "pids": {"limit": self.pids}, "cpu": cpu}
        return {name: value for name, value in resources.items() if name not in unlimited}


def check(identity: Identity) -> None:
    """UsageError for names that the kernel would not take, before anything is made."""
    if not 0 < len(identity.hostname.encode()) <= HOSTNAME_MAX:
        raise UsageError(
            f"a hostname has 1 to {HOSTNAME_MAX} bytes, and this one has "
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
    """config.json for one container. `unlimited` are limits that this host cannot set, `group` is
    its control group, `environment` its agent's."""
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
                {"type": "RLIMIT_NOFILE", "soft": 4096, "hard": 4096},
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


def _mount(at: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": at, "type": kind, "source": kind, "options": options}
