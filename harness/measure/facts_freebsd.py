"""Reads facts about a FreeBSD machine with sysctl(8) and related programs; None: not available.

Written from the manual pages and tested only with simulated output, not on a FreeBSD machine.
FreeBSD counts neither out-of-memory kills nor steal time, and its message buffer has no levels.
"""

from __future__ import annotations

import re
import time

from harness.measure.system import System


def _sysctl(system: System, name: str) -> str | None:
    return system.run(["sysctl", "-n", name]) or None


def _integer(system: System, name: str) -> int | None:
    text = _sysctl(system, name)
    return int(text) if text else None


def _pages(system: System, *names: str) -> int | None:
    """The sum of page counters, in bytes."""
    size = _integer(system, "hw.pagesize")
    counts = [_integer(system, f"vm.stats.vm.{name}") for name in names]
    known = [count for count in counts if count is not None]
    return size * sum(known) if size and len(known) == len(counts) else None


# What the machine is.


def cpu(system: System) -> str | None:
    return _sysctl(system, "hw.model")


def cores(system: System) -> int | None:
    return _integer(system, "hw.ncpu")


def memory(system: System) -> int | None:
    return _integer(system, "hw.physmem")


def os_name(system: System) -> str | None:
    version = system.run(["freebsd-version", "-u"])
    return f"FreeBSD {version}" if version else None


def kernel(system: System) -> str | None:
    """Release and kernel configuration; the latter names a patched kernel."""
    release, ident = _sysctl(system, "kern.osrelease"), _sysctl(system, "kern.ident")
    return f"FreeBSD {release} {ident or ''}".strip() if release else None


def secret_id(system: System) -> str | None:
    """A private identifier of this machine: only a keyed hash of it may be stored."""
    return _sysctl(system, "kern.hostuuid") or _sysctl(system, "kern.hostname")


_DISKS = {"nda": "NVMe SSD", "nvd": "NVMe SSD", "vtbd": "virtio disk", "md": "memory disk"}


def storage(system: System) -> str | None:
    """The device kind and file system of the cache directory: "NVMe SSD, zfs"."""
    directory = system.cache
    while not (listing := system.run(["df", "-T", str(directory)])):
        if directory == directory.parent:
            return None
        directory = (
            directory.parent
        )  # it does not exist yet, and will be on its parent's file system
    source, filesystem = listing.splitlines()[-1].split()[:2]
    if filesystem == "tmpfs":
        return "memory, tmpfs"
    devices = [source]
    if filesystem == "zfs":
        pool = system.run(["zpool", "list", "-v", "-H", "-P", source.split("/")[0]]) or ""
        devices = re.findall(r"^\s*(/dev/\S+)", pool, re.MULTILINE)
    kinds = sorted({_disk(system, device) for device in devices if device.startswith("/dev/")})
    return f"{' and '.join(kinds)}, {filesystem}" if kinds else filesystem


def _disk(system: System, device: str) -> str:
    disk = re.match(r"/dev/([a-z]+)(\d+)", device)
    if not disk:
        return "unknown disk"
    if disk[1] in _DISKS:
        return _DISKS[disk[1]]
    about = system.run(["diskinfo", "-v", disk[1] + disk[2]]) or ""
    speed = re.search(r"^\s*(\S+)\s*# Rotation rate in RPM", about, re.MULTILINE)
    if not speed or not speed[1].isdigit():
        return f"{disk[1]} disk"
    return "SSD" if speed[1] == "0" else "hard disk"


_GUESTS = {"hv": "hyper-v", "vbox": "virtualbox", "generic": "unknown"}


def virtualisation(system: System) -> str:
    guest = _sysctl(system, "kern.vm_guest") or "unknown"
    return _GUESTS.get(guest, guest)


# How the machine is doing.


def _load(system: System, index: int) -> float | None:
    averages = re.findall(r"\d+\.\d+", _sysctl(system, "vm.loadavg") or "")
    return float(averages[index]) if len(averages) == 3 else None


def load_1m(system: System) -> float | None:
    return _load(system, 0)


def load_5m(system: System) -> float | None:
    return _load(system, 1)


def load_15m(system: System) -> float | None:
    return _load(system, 2)


def memory_available(system: System) -> int | None:
    """Bytes of free, inactive and laundry pages; ZFS's reclaimable cache is not counted."""
    return _pages(system, "v_free_count", "v_inactive_count", "v_laundry_count")


def memory_free(system: System) -> int | None:
    return _pages(system, "v_free_count")


def swap_in(system: System) -> int | None:
    return _pages(system, "v_swappgsin")


def swap_out(system: System) -> int | None:
    return _pages(system, "v_swappgsout")


def _cpu_seconds(system: System) -> dict[str, float] | None:
    ticks = (_sysctl(system, "kern.cp_time") or "").split()
    rate = re.search(r"stathz = (\d+)", _sysctl(system, "kern.clockrate") or "")
    if len(ticks) != 5 or not rate:
        return None
    names = ("user", "nice", "system", "interrupt", "idle")
    return {name: int(count) / int(rate[1]) for name, count in zip(names, ticks, strict=True)}


def cpu_busy(system: System) -> float | None:
    took = _cpu_seconds(system)
    return None if took is None else sum(took.values()) - took["idle"]


def cpu_idle(system: System) -> float | None:
    took = _cpu_seconds(system)
    return None if took is None else took["idle"]


def cpu_interrupts(system: System) -> float | None:
    took = _cpu_seconds(system)
    return None if took is None else took["interrupt"]


def huge_pages(system: System) -> str | None:
    return {"0": "off", "1": "on"}.get(_sysctl(system, "vm.pmap.pg_ps_enabled") or "")


def uptime(system: System) -> float | None:
    boot = re.search(r"sec = (\d+)", _sysctl(system, "kern.boottime") or "")
    return time.time() - int(boot[1]) if boot else None
